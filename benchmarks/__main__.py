"""`make bench`: every benchmark in turn, each writing its docs/results/bench_*.json, then docs/results.md."""

import argparse
import subprocess
import sys

from benchmarks.report import write_report

BENCHMARKS = (
    "quality",
    "base_versions",
    "encoder_speed",
    "two_stage",
    "filters",
    "http_search",
    "import_rate",
    "near_duplicates",
    "words",
    "learning_quality",
    "learning_speed",
    "upgrade_quality",
    "upgrade_speed",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME", help="run these alone")
    parser.add_argument("--quick", action="store_true", help="smaller sizes; writes no results")
    options = parser.parse_args()
    failed = []
    for name in options.only or BENCHMARKS:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if options.quick else [])]
        if subprocess.run(command, check=False).returncode != 0:
            failed.append(name)
    if not options.quick:
        write_report()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
