"""`make test`: the suite on SQLite, beside it that of `ml` and the database tests on a real PostgreSQL; one JUnit file.

Says first which real parts were found. A missing part's tests are skipped with that reason; with CI=true they
fail.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from junitparser import JUnitXml

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"Redis": "redis-server", "Chromium": "chromium", "ExifTool": "exiftool"}


def found_parts() -> dict[str, bool]:
    parts = {name: shutil.which(command) is not None for name, command in PARTS.items()}
    parts["PostgreSQL"] = bool(list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))) or bool(
        shutil.which("initdb")
    )
    parts["sample data"] = Path(os.environ.get("SAMPLE_DATA", ROOT.parent / "shared" / "data")).is_dir()
    return parts


def report_of(name: str) -> Path:
    return ROOT / f"test-results-{name}.xml"


def finished(name: str, *arguments: str, output: IO[str] | None = None) -> int:
    """The exit code of one pytest of its own."""
    command = [sys.executable, "-m", "pytest", f"--junitxml={report_of(name)}", *arguments]
    print(f"\n== {name}: {' '.join(command[1:])}", file=output, flush=True)
    return subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, text=True, check=False).returncode


def run_all(*, has_postgresql: bool) -> dict[str, int]:
    """Exit codes. Two runs at a time, for two cores; what runs beside the product's tests is shown after them."""
    beside: dict[str, tuple[str, ...]] = {"ml": ("tests/ml", "-m", "not fault")}
    if has_postgresql:
        beside["postgresql"] = ("-m", "database and not fault", "-p", "tests.postgresql")
    with tempfile.TemporaryFile("w+") as kept, ThreadPoolExecutor(1) as one_at_a_time:
        others = {
            name: one_at_a_time.submit(finished, name, *arguments, output=kept)
            for name, arguments in beside.items()
        }
        codes = {"sqlite": finished("sqlite", "--ignore=tests/ml", "-m", "not fault")}
        codes |= {name: other.result() for name, other in others.items()}
        kept.seek(0)
        print(kept.read(), flush=True)
    return codes


def main() -> int:
    parts = found_parts()
    for name, present in parts.items():
        print(f"{'found  ' if present else 'MISSING'} {name}")
    absent = [name for name, present in parts.items() if not present]
    if absent and os.environ.get("CI") == "true":
        print(f"CI needs every real part; missing: {', '.join(absent)}")
        return 1
    codes = run_all(has_postgresql=parts["PostgreSQL"])
    merged = JUnitXml()
    for report in map(report_of, codes):
        if report.exists():
            merged += JUnitXml.fromfile(str(report))
            report.unlink()
    merged.write(str(ROOT / "test-results.xml"))
    tests, failed = merged.tests or 0, (merged.failures or 0) + (merged.errors or 0)
    skipped = merged.skipped or 0
    if absent:
        print(f"not run for want of a part: {', '.join(absent)}")
    print(f"{tests - failed - skipped} passed, {failed} failed, {skipped} skipped")
    return max(codes.values())


if __name__ == "__main__":
    sys.exit(main())
