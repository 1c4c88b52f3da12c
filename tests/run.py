"""`make test`: the whole suite on SQLite, beside it the database tests on a real PostgreSQL; one JUnit file.

Says first which real parts were found. A missing part's tests are skipped with that reason; with CI=true they
fail.
"""

import os
import shutil
import subprocess
import sys
import tempfile
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


def started(name: str, *arguments: str, output: IO[str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pytest", f"--junitxml={report_of(name)}", *arguments]
    print(f"\n== {name}: {' '.join(command[1:])}", flush=True)
    return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, text=True)


def run_both() -> dict[str, int]:
    """Exit codes. Two runs on two cores; the one on PostgreSQL is shown when the other has ended."""
    with tempfile.TemporaryFile("w+") as kept:
        other = started("postgresql", "-m", "database and not fault", "-p", "tests.postgresql", output=kept)
        codes = {"sqlite": started("sqlite", "-m", "not fault").wait(), "postgresql": other.wait()}
        kept.seek(0)
        print(f"\n== postgresql\n{kept.read()}", flush=True)
    return codes


def main() -> int:
    parts = found_parts()
    for name, present in parts.items():
        print(f"{'found  ' if present else 'MISSING'} {name}")
    absent = [name for name, present in parts.items() if not present]
    if absent and os.environ.get("CI") == "true":
        print(f"CI needs every real part; missing: {', '.join(absent)}")
        return 1
    codes = run_both() if parts["PostgreSQL"] else {"sqlite": started("sqlite", "-m", "not fault").wait()}
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
