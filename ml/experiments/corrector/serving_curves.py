"""What a correction reaches over the number of images encoded anew to fit it, and over those encoded after it."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ml.evaluation.metrics import mean_of
from ml.experiments.corrector.serving_encoders import Encoded
from ml.experiments.corrector.serving_gallery import Entries, Task, Upgrade, backfilled, first_of
from ml.experiments.corrector.serving_maps import (
    CONFIG,
    MAPS,
    encoding_of,
    full_map,
    predicted_order,
    random_order,
    true_errors,
    usual_count,
)
from ml.experiments.data.parts import evenly
from ml.experiments.ledger import RunRecord, Value

PAIRS, BACKFILL = "pairs", "backfill"
COUNTS = (128, 256, 512, 1024, 2048)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
CURVE_QUERIES = 1_000  # evenly spaced: a curve only describes


def measured_pairs(task: Task, _checkpoint: Path) -> RunRecord:
    """Share of the gain over the number of images encoded anew, by map."""
    started, upgrade = time.monotonic(), task.upgrade()
    ends = _ends(upgrade)
    values: dict[str, Value] = {}
    for count in COUNTS:
        if count > len(upgrade.task.gallery):
            continue
        encoding = encoding_of(upgrade, count, task.seed)
        for title, fit in MAPS.items():
            entries = upgrade.corrected_entries(fit(encoding, CONFIG, task.seed).corrector)
            values |= _point(f"{title}_{count}", upgrade, entries, ends)
    return _curve(task, PAIRS, values, started)


def measured_backfill(task: Task, _checkpoint: Path) -> RunRecord:
    """mAP over the share of the gallery that is encoded anew after the correction, by order."""
    started, upgrade, seed = time.monotonic(), task.upgrade(), task.seed
    encoding = encoding_of(upgrade, usual_count(upgrade), seed)
    fitted = full_map(encoding, CONFIG, seed)
    order, _ = predicted_order(upgrade, encoding, fitted, CONFIG, seed)
    errors = true_errors(upgrade, fitted.corrector)
    orders = {"predicted": order, "random": random_order(len(order), seed, 0), "true": np.argsort(-errors)}
    corrected, full, ends = (
        upgrade.corrected_entries(fitted.corrector),
        upgrade.full_entries(),
        _ends(upgrade),
    )
    values: dict[str, Value] = {}
    for share in SHARES:
        for title, own in orders.items():
            entries = backfilled(corrected, full, first_of(own, share))
            values |= _point(f"{title}_{round(100 * share)}", upgrade, entries, ends)
    return _curve(task, BACKFILL, values, started)


def _ends(upgrade: Upgrade) -> dict[str, float]:
    """mAP of the curve's queries before and after the whole upgrade, fused and by embeddings alone."""
    found: dict[str, float] = {}
    for state, asking, entries in (
        ("old", upgrade.old, upgrade.old_entries()), ("full", upgrade.new, upgrade.full_entries()),
    ):  # fmt: skip
        for title, answer in _answers(upgrade, entries, asking=asking).items():
            found[f"{title}_{state}"] = answer
    return found


def _answers(upgrade: Upgrade, entries: Entries, *, asking: Encoded | None = None) -> dict[str, float]:
    queries = evenly(np.arange(len(upgrade.task.queries)), CURVE_QUERIES)
    asking = upgrade.new if asking is None else asking
    return {
        "map": mean_of(upgrade.asked(asking, entries, queries).map)[0],
        "cosine_map": mean_of(upgrade.asked_by_cosine(asking, entries, queries).map)[0],
    }


def _point(name: str, upgrade: Upgrade, entries: Entries, ends: Mapping[str, float]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for title, value in _answers(upgrade, entries).items():
        gain = ends[f"{title}_full"] - ends[f"{title}_old"]
        found |= {f"{title}_{name}": value, f"{title}_share_{name}": (value - ends[f"{title}_old"]) / gain}
    return found


def _curve(task: Task, name: str, values: Mapping[str, Value], started: float) -> RunRecord:
    return RunRecord(
        name=name, setting=f"{task.setting}/{name}", seed=task.seed, values=values,
        seconds=time.monotonic() - started,
    )  # fmt: skip
