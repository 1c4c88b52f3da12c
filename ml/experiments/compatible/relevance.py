"""A live gallery of which the new encoder has encoded a half: whether its entries and the old ones are treated alike.

Calibrations and pool sizes are found on the choosing task, one for each producer, and judged on the final one.
"""

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load

from ml.evaluation.compatibility import old_shares
from ml.evaluation.metrics import mean_of
from ml.evaluation.retrieval import signs_of
from ml.evaluation.two_stage import CodedSet, answer_values, two_stage_scores
from ml.experiments.compatible.measuring import Values
from ml.experiments.compatible.new_rows import Task
from ml.experiments.compatible.old_rows import VECTORS_FILE, encoded_from, old_system
from ml.experiments.corrector.serving_encoders import Encoded
from ml.experiments.data import ClassSplit, Ids, RetrievalTask
from ml.experiments.data.parts import evenly
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import PlannedRun
from ml.protocol import Calibration
from ml.training.producer_calibration import Asked, producer_calibrations

NAME = "half backfilled"
SETTING_END = "/mixed gallery"
FITTED_ON = 200  # queries of trained and of held-out classes each, evenly spaced
JUDGED = 600  # queries, evenly spaced
OLD, NEW = "old", "self"


def planned_relevance(task: Task) -> PlannedRun:
    """The row of a task whose run keeps its vectors."""
    parent = task.planned()
    identity: dict[str, Any] = {
        "parent": dict(parent.identity), "arm": task.arm.name, "fitted_on": FITTED_ON, "judged": JUDGED,
    }  # fmt: skip
    return PlannedRun(
        name=NAME, setting=f"{parent.setting}{SETTING_END}", seed=task.seed, identity=identity,
        work=partial(_measured, task),
    )  # fmt: skip


def _measured(task: Task, _checkpoint: Path) -> RunRecord:
    started, split = time.monotonic(), task.place.split
    old = old_system(task.place, task.seed).encoded
    new = encoded_from(load(task.record().files[VECTORS_FILE]))
    calibrations = _calibrated(split, old, new)
    per_query, values = _judged(split, old, new, calibrations, task.seed)
    values |= {metric: mean_of(own)[0] for metric, own in per_query.items()}
    for name, calibration in calibrations.items():
        values |= {f"{name}_{key}": value for key, value in asdict(calibration).items()}
    queries = evenly(np.arange(len(split.final.queries)), JUDGED)
    return RunRecord(
        name=NAME, setting=f"{task.planned().setting}{SETTING_END}", seed=task.seed, values=values,
        per_query=per_query, seconds=time.monotonic() - started, items=split.final.query_items[queries],
    )  # fmt: skip


def _calibrated(split: ClassSplit, old: Encoded, new: Encoded) -> dict[str, Calibration]:
    """Of the new encoder's queries, on the choosing task."""
    task = split.choosing
    rows = [evenly(np.flatnonzero(task.query_unseen == unseen), FITTED_ON) for unseen in (False, True)]
    queries = np.concatenate(rows)
    asked = Asked(
        _coded(new, task.queries[queries]), task.query_labels[queries], task.query_unseen[queries],
        tuple(split.images.images.packs[row] for row in task.queries[queries]),
    )  # fmt: skip
    producers = {OLD: _coded(old, task.gallery), NEW: _coded(new, task.gallery)}
    return producer_calibrations(asked, task.gallery_labels, producers, newest=NEW)


def _judged(
    split: ClassSplit, old: Encoded, new: Encoded, calibrations: dict[str, Calibration], seed: int
) -> tuple[dict[str, Values], dict[str, Any]]:
    task: RetrievalTask = split.final
    queries = evenly(np.arange(len(task.queries)), JUDGED)
    asked = _coded(new, task.queries[queries])
    relevant = task.query_labels[queries][:, None] == task.gallery_labels
    is_old = np.zeros(len(task.gallery), np.bool_)
    is_old[np.random.default_rng(seed).permutation(len(is_old))[: len(is_old) // 2]] = True
    mixed = _picked(_coded(old, task.gallery), _coded(new, task.gallery), is_old)
    scores = two_stage_scores(
        asked, mixed, (~is_old).astype(np.int64), [calibrations[OLD], calibrations[NEW]]
    )
    shares = old_shares(scores, relevant, is_old)
    answers = answer_values(scores, relevant)
    per_query = {
        "old_share": shares.found, "expected_share": shares.expected, "mixed_map": answers["map"],
        "mixed_recall_at_1": answers["recall_at_1"],
    }  # fmt: skip
    return per_query, {"entries": len(is_old)}


def _coded(encoded: Encoded, rows: Ids) -> CodedSet:
    return CodedSet(signs_of(encoded.codes[rows]), encoded.embeddings[rows])


def _picked(old: CodedSet, new: CodedSet, is_old: Any) -> CodedSet:
    """Entry by entry of one or the other."""
    chosen = is_old[:, None]
    return CodedSet(np.where(chosen, old.signs, new.signs), np.where(chosen, old.embeddings, new.embeddings))
