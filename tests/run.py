"""`make test`: the whole suite on SQLite, then the database tests again on a real PostgreSQL; one JUnit file.

Says first which real parts were found. A missing part's tests are skipped with that reason; with CI=true they
fail.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

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


def run_pytest(name: str, *arguments: str) -> tuple[int, Path]:
    report = ROOT / f"test-results-{name}.xml"
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments]
    print(f"\n== {name}: {' '.join(command[1:])}", flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode, report


def main() -> int:
    parts = found_parts()
    for name, present in parts.items():
        print(f"{'found  ' if present else 'MISSING'} {name}")
    absent = [name for name, present in parts.items() if not present]
    if absent and os.environ.get("CI") == "true":
        print(f"CI needs every real part; missing: {', '.join(absent)}")
        return 1
    runs = [run_pytest("sqlite", "-m", "not fault")]
    if parts["PostgreSQL"]:
        runs.append(run_pytest("postgresql", "-m", "database and not fault", "-p", "tests.postgresql"))
    merged = JUnitXml()
    for _, report in runs:
        if report.exists():
            merged += JUnitXml.fromfile(str(report))
            report.unlink()
    merged.write(str(ROOT / "test-results.xml"))
    tests, failed = merged.tests or 0, (merged.failures or 0) + (merged.errors or 0)
    skipped = merged.skipped or 0
    if absent:
        print(f"not run for want of a part: {', '.join(absent)}")
    print(f"{tests - failed - skipped} passed, {failed} failed, {skipped} skipped")
    return max(code for code, _ in runs)


if __name__ == "__main__":
    sys.exit(main())
