"""What a better encoder is worth over a gallery that is never encoded again, by the product's own commands.

Run as `python -m benchmarks.upgrade_quality [methods] [ladder] [--stock DIR]`; writes docs/results/bench_upgrade.json.
A candidate takes some minutes to half an hour to train on two cores.
"""

import ml.threads  # noqa: F401  isort: skip

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.gallery_data import machine
from benchmarks.learning_shop import DATA, PACKS, RESULTS, STOCK, Shop, fingerprints, shop, tables_write

RESULT = RESULTS / "bench_upgrade.json"
SEED = 0
METHODS = ("bct", "independent", "ndpp")  # the last is the one that climbs the ladder
ARCHITECTURE = "budget"
LADDER = (0.1, 0.25, 0.5, 1.0)  # of the photos that the new encoder has not encoded yet
METRICS = {"map": "mAP", "recall_at_1": "Recall@1", "recall_at_10": "Recall@10", "mrr": "MRR"}
STATES = {
    "stored": "as stored",
    "corrected": "corrected",
    "backfilled": "encoded anew",
    "added_by_candidate": "items added by the candidate",
}
# The cell that serves, as services.quality_watch measures it after a promotion.
CELL = """
import json, ml.threads, django; django.setup()
from searchapp.services import verdicts, versions
live = versions.champion()
found = verdicts.cell_measured(live.version, live.view.corrector_digest)
print(json.dumps({"version": live.version.name, **found}))
"""
ABOUT = (
    "A shop with the sample catalogue and the reserved classes, which it has learned as version 1.1, trains a larger "
    "encoder on its own photos: `train_candidate --wait --json`, `evaluate --json`, `promote`, `correct_gallery`, "
    "`backfill`. Nothing is encoded again but what a row says. Held-out photos are asked two-stage and calibrated, as "
    "the shop answers; intervals are 95 % bootstraps over items, changes paired by query against the version in use "
    "over its own gallery."
)
MATRIX_NOTE = (
    "`change`: against 1.1 over what is stored. `items added by the candidate`: each item in turn counts as added "
    "under it, a quarter of the items at a time; asked by the version before, that is what going back finds."
)
GATES_NOTE = (
    "A loss: positive is worse. A gate fails when the whole interval lies above its limit, passes when it lies at or "
    "below it."
)
LADDER_NOTE = (
    "The live gallery after the promotion of the `ndpp` candidate (with the gates overridden, as a run of every rung "
    "must): as stored, corrected if the correction passes its gate, then encoded anew where the predicted error is "
    "largest. Each row is the answer of the version in use at that moment over the gallery as it serves. `encoded`: "
    "photos opened for that rung."
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upgrade_quality", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="methods, ladder; both by default")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--epochs", type=int, metavar="N", help="shorter trainings, without a pilot")
    parser.add_argument("--stock", type=Path, default=STOCK, metavar="DIR", help="made when missing")
    parser.add_argument(
        "--quick", action="store_true", help="an ndpp candidate of two epochs; writes no result"
    )
    options = parser.parse_args()
    parts = options.parts or ["methods", "ladder"]
    epochs = 2 if options.quick else options.epochs
    more = [] if epochs is None else ["--epochs", str(epochs), "--no-pilot"]
    with shop(options.stock) as one:
        learned(one)
        candidate: dict[str, Any] = {}
        tables: list[dict[str, Any]] = []
        if "methods" in parts:
            candidate, tables = compared(one, METHODS[-1:] if options.quick else options.methods, more)
        if "ladder" in parts:
            rows = ladder(one, candidate or trained(one, METHODS[-1], more))
            tables.append({"title": "The ladder of a live gallery", "note": LADDER_NOTE, "rows": rows})
    if options.quick:
        return
    head = {
        "title": "Upgrades: quality",
        "about": ABOUT,
        "command": "python -m benchmarks.upgrade_quality",
        "seed": SEED,
        "machine": {**machine(), "data": fingerprints()},
    }
    tables_write(RESULT, head, tables)


def learned(one: Shop) -> None:
    """The reserved classes come and are learned: version 1.1."""
    for pack in PACKS:
        one.json("import_catalogue", str(DATA / pack), "--include-reserved")
    one.json("learn_categories", "--wait")


def trained(one: Shop, method: str, more: Sequence[str]) -> dict[str, Any]:
    arguments = ("--method", method, "--architecture", ARCHITECTURE, *more)
    result: dict[str, Any] = one.json("train_candidate", *arguments, "--wait")
    print(json.dumps(result), flush=True)
    return result


def compared(
    one: Shop, methods: Sequence[str], more: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One candidate of each method from the same shop, each with its verdict; the shop keeps the last alone.

    Returns what its training said, if it is the one that climbs the ladder, and the tables.
    """
    outcomes: list[dict[str, Any]] = []
    matrix: list[dict[str, Any]] = []
    gates: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    for method in methods:
        with nullcontext() if method == METHODS[-1] else one.put_back():
            result = trained(one, method, more)
            report = one.json("evaluate", result["version"], "--wait")
        if method == METHODS[-1]:
            last = result
        print(json.dumps(report), flush=True)
        outcomes.append(outcome(method, result, report))
        matrix += [cell(method, row, report["against"]) for row in report["matrix"]]
        gates += [{"method": method, **gate_row(gate)} for gate in report["gates"]]
        changes.append(category_changes(method, report))
    return last, [
        {"title": "Candidates", "rows": outcomes},
        {"title": "The compatibility matrix", "note": MATRIX_NOTE, "rows": matrix},
        {"title": "Gates", "note": GATES_NOTE, "rows": gates},
        {"title": "Categories that gain and lose", "rows": changes},
    ]


def outcome(method: str, result: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    flips, costs, pilot = report["flips"], report["costs"], result.get("pilot") or {}
    return {
        "method": method,
        "photos": result["photos"],
        "training_seconds": result["training_seconds"],
        "update_gain": report["update_gain"],
        "pilot_said_cross_map": pilot.get("predicted_cross_map"),
        "negative_flips": flips["negative"],
        "positive_flips": flips["positive"],
        "of_queries": flips["queries"],
        "bytes": costs["bytes"][report["version"]],
        "p50_ms": costs["latency_ms"][report["version"]]["p50"],
        "p50_ms,_before": costs["latency_ms"][report["against"]]["p50"],
        "re-encode_seconds_spared": costs["reencode_seconds"],
    }


def cell(method: str, row: Mapping[str, Any], against: str) -> dict[str, Any]:
    asking = "version in use" if row["query_version"] == against else "candidate"
    found: dict[str, Any] = {
        "method": method,
        "who_asks": asking,
        "gallery": STATES[row["gallery_state"]],
        "photos": row["n"],
    }
    for name, label in METRICS.items():
        found[label] = row[name]
    change = (row["change"] or {}).get("map")
    found["mAP_interval"] = [row["map_low"], row["map_high"]]
    found["change_of_mAP"] = change and change["value"]
    found["its_interval"] = change and [change["low"], change["high"]]
    return found


def gate_row(gate: Mapping[str, Any]) -> dict[str, Any]:
    interval = None if gate["low"] is None else [gate["low"], gate["high"]]
    return {
        "gate": gate["name"].replace("_", " "),
        "limit": gate["threshold"],
        "value": gate["value"],
        "interval": interval,
        "verdict": gate["verdict"].replace("_", " "),
    }


def category_changes(method: str, report: Mapping[str, Any]) -> dict[str, Any]:
    rows = report["per_category"]
    return {
        "method": method,
        "categories": len(rows),
        "gain": sum(row["change"] > 0 for row in rows),
        "lose": sum(row["change"] < 0 for row in rows),
        "lose_beyond_chance": sum(row["high"] is not None and row["high"] < 0 for row in rows),
        "gain_beyond_chance": sum(row["low"] is not None and row["low"] > 0 for row in rows),
        "worst": rows[0]["path"] if rows else None,
        "its_change": rows[0]["change"] if rows else None,
    }


def ladder(one: Shop, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rungs of one live gallery, each asked as it serves at that moment."""
    rows = [rung("before the promotion", one)]
    one.json("promote", result["version"], "--override", "a benchmark takes every rung")
    rows.append(rung("promoted, as stored", one))
    done = corrected_gallery(one)
    rows.append(rung("corrected" if done["encoded"] else "correction given up", one) | done)
    first = one.json("backfill", "--limit", "1", "--order", "error")
    total, remaining = first["remaining"] + 1, first["remaining"]
    for share in LADDER:
        wanted = round(share * total) - (total - remaining)
        done = one.json("backfill", "--limit", str(wanted), "--order", "error")
        remaining = done["remaining"]
        told = {"encoded": done["encoded"], "seconds": done.get("seconds")}
        rows.append(rung(f"{share:.0%} encoded anew", one) | told)
    return rows


def corrected_gallery(one: Shop) -> dict[str, Any]:
    """A correction that is given up says so: the gallery stays as stored, and the rungs after it too."""
    try:
        done = one.json("correct_gallery")
    except RuntimeError as error:
        return {
            "encoded": 0,
            "seconds": None,
            "why_not": str(error).partition("CommandError: ")[2].strip()[:200],
        }
    return {"encoded": done["fitted_on"], "seconds": done["seconds"]}


def rung(name: str, one: Shop) -> dict[str, Any]:
    found = json.loads(one.python("-c", CELL).splitlines()[-1])
    print(json.dumps({"rung": name, **found}), flush=True)
    row: dict[str, Any] = {"gallery": name, "who_answers": found["version"], "photos": found["n"]}
    row |= {label: found[metric] for metric, label in METRICS.items()}
    row["mAP_interval"] = [found["map_low"], found["map_high"]]
    return row | {"encoded": 0, "seconds": None, "why_not": None}


if __name__ == "__main__":
    main()
