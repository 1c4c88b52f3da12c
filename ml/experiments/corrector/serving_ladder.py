"""The ladder of an upgrade: from the old system over a corrected gallery to one that is encoded anew."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ml.evaluation.metrics import mean_of
from ml.experiments.corrector.serving_encoders import seconds_per_image
from ml.experiments.corrector.serving_gallery import Entries, Task, Upgrade, Values, backfilled, first_of
from ml.experiments.corrector.serving_groups import groups_of, judged_groups, worst_group
from ml.experiments.corrector.serving_maps import (
    CONFIG,
    MAPS,
    Encoding,
    Stopwatch,
    encoding_of,
    every_pair,
    full_map,
    predicted_order,
    random_order,
    rank_correlation,
    true_errors,
    usual_count,
)
from ml.experiments.data import ClassSplit, Ids
from ml.experiments.data.parts import evenly
from ml.experiments.ledger import RunRecord, Value
from ml.methods.corrector.fitting import Fitted
from ml.methods.corrector.probe import floor_estimate

NAME = "upgrade"
PARTIAL = 0.1  # of the gallery, encoded anew after the correction
RANDOM_ORDERS = 3
FLOOR_PAIRS = 2_000  # evenly spaced, not encoded for the fit


def measured_upgrade(task: Task, _checkpoint: Path) -> RunRecord:
    """The ladder, the simple maps, groups, the gate's values and costs."""
    started, upgrade, seed = time.monotonic(), task.upgrade(), task.seed
    encoding = encoding_of(upgrade, usual_count(upgrade), seed)
    watch = Stopwatch()
    fitted = full_map(encoding, CONFIG, seed)
    fitting = watch.seconds()
    order, predicted = predicted_order(upgrade, encoding, fitted, CONFIG, seed)
    errors = true_errors(upgrade, fitted.corrector)
    drawn = [random_order(len(order), seed, number) for number in range(RANDOM_ORDERS)]
    orders = {"predicted": [order], "random": drawn, "true": [np.argsort(-errors)]}
    per_query = _ladder(upgrade, encoding, fitted, orders) | _simple_maps(upgrade, encoding, seed)
    per_query |= {
        f"gain_{state}": per_query[f"map_{state}"] - per_query["map_old"] for state in _states(per_query)
    }
    values: dict[str, Value] = {metric: mean_of(own)[0] for metric, own in per_query.items()}
    values |= _shares_of_gain(values) | _flips(per_query) | _worst_groups(task.split, per_query)
    values |= _gate(upgrade, encoding, fitted) | {"error_correlation": rank_correlation(predicted, errors)}
    values |= _costs(task, upgrade, encoding, fitting)
    return RunRecord(
        name=NAME, setting=task.setting, seed=seed, values=values, per_query=per_query,
        seconds=time.monotonic() - started, items=upgrade.task.query_items,
    )  # fmt: skip


def _ladder(
    upgrade: Upgrade, encoding: Encoding, fitted: Fitted, orders: Mapping[str, Sequence[Ids]]
) -> dict[str, Values]:
    """map, recall_at_1 and cosine_map of each gallery state, per query."""
    corrected, full = upgrade.corrected_entries(fitted.corrector), upgrade.full_entries()
    paid = np.zeros(len(upgrade.task.gallery), np.bool_)
    paid[encoding.rows] = True
    found = _named("old", upgrade, [upgrade.old_entries()], is_old=True)
    found |= _named("cross", upgrade, [upgrade.stale_entries()])
    found |= _named("corrected", upgrade, [corrected])
    found |= _named("kept", upgrade, [backfilled(corrected, full, paid)])
    for title, own in orders.items():
        states = [backfilled(corrected, full, first_of(order, PARTIAL)) for order in own]
        found |= _named(title, upgrade, states)
    return found | _named("full", upgrade, [full])


def _named(
    state: str, upgrade: Upgrade, galleries: Sequence[Entries], *, is_old: bool = False
) -> dict[str, Values]:
    """The mean over galleries, per query."""
    asking = upgrade.old if is_old else upgrade.new
    everyone = np.arange(len(upgrade.task.queries))
    fused = [upgrade.asked(asking, entries, everyone) for entries in galleries]
    cosine = [upgrade.asked_by_cosine(asking, entries, everyone) for entries in galleries]
    return {
        f"map_{state}": _mean([found.map for found in fused]),
        f"recall_at_1_{state}": _mean([found.recall_at_1 for found in fused]),
        f"cosine_map_{state}": _mean([found.map for found in cosine]),
    }


def _mean(columns: Sequence[Values]) -> Values:
    return np.asarray(np.mean(columns, axis=0), np.float64)


def _simple_maps(upgrade: Upgrade, encoding: Encoding, seed: int) -> dict[str, Values]:
    """The baselines, from the same pairs."""
    found: dict[str, Values] = {}
    for title, fit in MAPS.items():
        if title != "corrected":
            fitted = fit(encoding, CONFIG, seed)
            found |= _named(title, upgrade, [upgrade.corrected_entries(fitted.corrector)])
    return found


def _states(per_query: Mapping[str, Values]) -> list[str]:
    found = [metric.removeprefix("map_") for metric in per_query if metric.startswith("map_")]
    return [state for state in found if state != "old"]


def _shares_of_gain(values: Mapping[str, Value]) -> dict[str, Value]:
    """What each state reaches of what the full backfill gains, by the fused answer and by embeddings alone."""
    shares: dict[str, Value] = {}
    for metric in [metric for metric in values if metric.startswith("gain_")]:
        state = metric.removeprefix("gain_")
        shares[f"share_{state}"] = _share(values, "map_", state)
        shares[f"cosine_share_{state}"] = _share(values, "cosine_map_", state)
    return shares


def _share(values: Mapping[str, Value], prefix: str, state: str) -> float:
    reached, old, full = (float(values[f"{prefix}{name}"]) for name in (state, "old", "full"))
    return (reached - old) / (full - old) if full != old else float("nan")


def _flips(per_query: Mapping[str, Values]) -> dict[str, Value]:
    """Share of queries that the old system answered right and this state answers wrong at first place."""
    old = per_query["recall_at_1_old"]
    return {
        f"flips_{state}": mean_of(
            np.where(np.isnan(old), np.nan, old * (1 - per_query[f"recall_at_1_{state}"]))
        )[0]
        for state in _states(per_query)
    }


def _worst_groups(split: ClassSplit, per_query: Mapping[str, Values]) -> dict[str, Value]:
    """Of each grouping, what the group that gains least gains by the correction, and which it is."""
    values: dict[str, Value] = {}
    for grouping, names in groups_of(split, split.final).items():
        for state in ("corrected", "full"):
            worst = worst_group(names, per_query[f"gain_{state}"])
            values[f"judged_{grouping}"] = len(judged_groups(names, per_query[f"gain_{state}"]))
            if worst is not None:
                values |= {f"worst_{grouping}_{state}_name": worst[0], f"worst_{grouping}_{state}": worst[1]}
    return values


def _gate(upgrade: Upgrade, encoding: Encoding, fitted: Fitted) -> dict[str, Value]:
    """What the probe says, and the floor on entries that were not encoded: on those the map was fitted to it is low."""
    report = fitted.report
    others = np.setdiff1d(np.arange(len(upgrade.task.gallery)), encoding.rows)
    floor = float("nan")  # where everything was encoded
    if len(others) > 1:
        floor = floor_estimate(every_pair(upgrade).picked(evenly(others, FLOOR_PAIRS)), fitted.corrector)
    return {
        "kind": fitted.kind, "ridge": fitted.ridge, "steps": fitted.steps,
        "probe_ratio": report.ratio, "probe_error": report.error, "probe_cosine_median": report.cosine_median,
        "probe_cosine_low": report.cosine_low, "floor": floor,
    }  # fmt: skip


def _costs(task: Task, upgrade: Upgrade, encoding: Encoding, fitting: float) -> dict[str, Value]:
    """Seconds of the processor, all of this run."""
    entries, each = len(upgrade.task.gallery), seconds_per_image(task.split, task.kind)
    return {
        "entries": entries, "encoded": len(encoding.rows), "encoded_share": len(encoding.rows) / entries,
        "fitting_seconds": fitting, "encoding_seconds": each * len(encoding.rows),
        "backfill_seconds": each * entries,
        "seconds_ratio": (fitting + each * len(encoding.rows)) / (each * entries),
    }  # fmt: skip
