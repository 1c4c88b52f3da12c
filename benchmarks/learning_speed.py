"""How long learning takes, what shoppers notice of it, and whether thirty increments in a row stay flat and clean.

Run as `python -m benchmarks.learning_speed [served] [chain] [--stock DIR] [--quick]`; writes
docs/results/bench_learning_speed.json (not with --quick).
"""

import ml.threads  # noqa: F401  isort: skip

import argparse
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.gallery_data import machine
from benchmarks.learning_shop import RESULTS, STOCK, Served, fingerprints, shop, tables_write

RESULT = RESULTS / "bench_learning_speed.json"
SEED = 24
INCREMENTS = 30
ABOUT = (
    "A shop with the sample catalogue. First `manage.py serve` runs it (two web processes, two niced workers, relay, "
    "SQLite), and reserved classes are added with 30 photos each, as the admin page adds them. Then, in a process of "
    "its own, thirty increments of two categories each follow one another."
)
SAVING_NOTE = (
    "Seconds from the save to: the save's answer; the first search that finds the new photos, encoded by the version "
    "in use; the first of six answers in a row by the new version. Three categories one after the other; the first "
    "also counts the stock's codes."
)
LOAD_NOTE = (
    "Two users search by held-out photos without a pause, first in a quiet shop, then as categories "
    "are added one after the other, then in a quiet shop again: `idle before` and `idle after` say how far the machine "
    "itself varied. `training`: the niced worker trains, on one thread. `saving`: between jobs, the save among them. "
    "While a category is on its way, one more user asks ten times a second whether the new version answers."
)
CHAIN_NOTE = (
    "Sixty categories of the sample packs count as new before anything is learned; two at a time are learned in one "
    "process. The trunk was trained on most of them, so this says nothing of gains; it is for time, memory and loss. "
    "Slopes and ratios are of the increments after the first."
)
DRIFT_NOTE = (
    "Held-out photos of categories known from the start, over the same stored photos throughout; change against the "
    "version before the first increment, paired by query, intervals over items."
)
PRODUCERS_NOTE = (
    "Pools of candidates are drawn per producer. The same entries, as if one version had made them all and as the "
    "increments did; in one process, in turns. `same best item`: how often both ways agree on the first result."
)


def served(stock: Path) -> list[dict[str, Any]]:
    with shop(stock) as one, Served(one) as running:
        said = one.python("-m", "benchmarks.learning_served", str(running.port), str(running.process.pid))
    found = json.loads(said)
    return [
        {"title": "From save to searchable", "note": SAVING_NOTE, "rows": found["saving"]},
        {"title": "Searching meanwhile", "note": LOAD_NOTE, "rows": found["load"]},
    ]


def chain(stock: Path, increments: int) -> list[dict[str, Any]]:
    with shop(stock) as one:
        found = json.loads(one.python("-m", "benchmarks.learning_chain", str(increments)))
    return [
        {"title": "Increments in a row: flat?", "note": CHAIN_NOTE, "rows": found["flat"]},
        {"title": "Increments in a row: loss", "note": DRIFT_NOTE, "rows": found["drift"]},
        {"title": "Many producers in one gallery", "note": PRODUCERS_NOTE, "rows": found["producers"]},
        {"title": "Each increment", "rows": found["steps"]},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_speed", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="served, chain; both by default")
    parser.add_argument("--stock", type=Path, default=STOCK, metavar="DIR", help="made when missing")
    parser.add_argument("--quick", action="store_true", help="four increments, no shoppers; writes no result")
    options = parser.parse_args()
    parts = ["chain"] if options.quick else options.parts or ["served", "chain"]
    tables = served(options.stock) if "served" in parts else []
    tables += chain(options.stock, 4 if options.quick else INCREMENTS) if "chain" in parts else []
    head = {
        "title": "Learning: time, shoppers, thirty in a row",
        "about": ABOUT,
        "command": "python -m benchmarks.learning_speed",
        "seed": SEED,
        "machine": {**machine(), "load": os.getloadavg()[0], "data": ", ".join(fingerprints().values())},
    }
    print(json.dumps(tables, indent=1))
    if not options.quick:
        tables_write(RESULT, head, tables)


if __name__ == "__main__":
    main()
