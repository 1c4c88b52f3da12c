"""How long putting a version in use and going back take as the gallery grows, beside encoding it anew.

Run as `python -m benchmarks.upgrade_speed [--quick]`; writes docs/results/bench_upgrade_speed.json (not with --quick).
Each size runs in a process and a folder of its own, which go again.
"""

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SEED = 25
SIZES = (10_000, 100_000, 1_000_000)
ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "docs" / "results" / "bench_upgrade_speed.json"
ABOUT = (
    "Real rows (items, photos, entries, SQLite) with made-up codes and embeddings of version 1.0; the shipped `budget` "
    "bundle as 2.0 of the same lineage. Two web processes run and are asked without a pause; `promote` and `rollback` "
    "run in the benchmark's process as a worker runs them, in turn. `pointer`: the transaction that ends one "
    "deployment and begins the other. `until all answer`: from its commit until twenty answers in a row, from both "
    "processes, are the new version's. `try before`: load, index and one query beside what serves, before the pointer "
    "moves. `digests`: reading every stored code before and after, the proof. `encode anew`: all photos of that "
    "gallery at the rate of real photos by 2.0's encoder, one thread, measured in the same run."
)
NOTE = "Medians of the rounds, in seconds; `largest / smallest` in the last row."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upgrade_speed", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="the smallest size, two rounds; writes no result"
    )
    options = parser.parse_args()
    sizes = SIZES[:1] if options.quick else SIZES
    rows = [measured(size, rounds=2 if options.quick else 5) for size in sizes]
    if options.quick:
        return 0
    from benchmarks.gallery_data import machine  # noqa: PLC0415  it loads numpy and faiss, which no child may inherit

    result = {
        "title": "Upgrades: time",
        "about": ABOUT,
        "command": "python -m benchmarks.upgrade_speed",
        "seed": SEED,
        "machine": machine(),
        "tables": [
            {"title": "Putting a version in use, and going back", "note": NOTE, "rows": [*rows, ratio(rows)]}
        ],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def measured(entries: int, *, rounds: int) -> dict[str, Any]:
    """One size, by benchmarks.upgrade_served in a fresh process."""
    folder = tempfile.mkdtemp(prefix="perennial-bench-upgrade-")
    env = {
        **os.environ, "DJANGO_SETTINGS_MODULE": "searchapp.settings.production", "DATA_DIR": folder,
        "DATABASE_URL": f"sqlite:///{folder}/perennial.sqlite3", "CACHE_URL": f"filecache://{folder}/cache",
        "CELERY_BROKER_URL": "filesystem://", "SECRET_KEY": secrets.token_urlsafe(64), "ALLOWED_HOSTS": "127.0.0.1",
        "SECURE_SSL_REDIRECT": "false", "ANON_SEARCH_RATE": "", "ANON_ITEM_BUDGET": "0", "LOG_LEVEL": "ERROR",
        "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.upgrade_served", str(entries), str(rounds), str(SEED)]
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(done.stdout, end="", flush=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def ratio(rows: list[dict[str, Any]]) -> dict[str, Any]:
    first, last = rows[0], rows[-1]
    timed = {
        key: round(last[key] / first[key], 2) for key in first if isinstance(first[key], float) and first[key]
    }
    return {"entries": "largest / smallest", **timed}


if __name__ == "__main__":
    sys.exit(main())
