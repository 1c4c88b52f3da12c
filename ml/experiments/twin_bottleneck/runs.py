"""Trains, or fits, one arm on cached features and measures it: from features to a row and its per-query values."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.codes import code_diagnostics
from ml.evaluation.metrics import mean_of
from ml.experiments.data import ClassSplit, RetrievalTask
from ml.experiments.ledger import RunRecord
from ml.experiments.twin_bottleneck.arms import PRODUCT_LENGTH, Arm
from ml.experiments.twin_bottleneck.costs import chosen_mix, two_stages
from ml.experiments.twin_bottleneck.heads import Vectors, train_heads
from ml.experiments.twin_bottleneck.measuring import code_quality, float_quality, macro
from ml.experiments.twin_bottleneck.trunks import Features
from ml.methods.projection_codes import iterative_quantisation, random_hyperplanes, sign_bits, unit

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Task:
    """One run on cached features; they are trained when they are asked for."""

    arm: Arm
    setting: str
    seed: int
    features: Callable[[], Features]


def measure(task: Task, checkpoint: Path) -> RunRecord:
    """The row of one arm and seed. Values that begin with `choosing_` are of validation classes and queries."""
    features, arm = task.features(), task.arm
    started = time.monotonic()
    vectors = _vectors(features, arm, task.seed, checkpoint)
    values: dict[str, float | int | str] = {"fit_seconds": round(vectors.seconds, 2)}
    final, choosing = features.split.final, features.split.choosing
    per_query = judged(vectors, arm, final)
    for metric, own in judged(vectors, arm, choosing).items():
        if metric.startswith("map_at_1000"):
            values[f"choosing_{metric}"] = mean_of(own)[0]
    values["macro_map_at_1000_all"] = macro(per_query["map_at_1000_all"], final.query_labels)
    if arm.source != "float":
        values |= _structure(vectors, final)
    if arm.source == "heads" and arm.settings.ce_weight + arm.settings.ms_weight > 0:
        embedded = float_quality(vectors.embeddings, final)
        per_query |= {f"embedding_{m}": own for m, own in embedded.items() if m.startswith("map_at_1000")}
        if arm.heads.code_bits == PRODUCT_LENGTH:
            staged, costs = two_stages(vectors, final, chosen_mix(vectors, choosing))
            per_query |= staged
            values |= costs
    means = {metric: mean_of(own)[0] for metric, own in per_query.items()}
    return RunRecord(
        name=arm.name, setting=task.setting, seed=task.seed, values=values | means, per_query=per_query,
        seconds=time.monotonic() - started, items=final.query_items,
    )  # fmt: skip


def judged(vectors: Vectors, arm: Arm, task: RetrievalTask) -> dict[str, Values]:
    """Quality of what the arm is about: its codes, or for the float baseline its embeddings."""
    if arm.source == "float":
        return float_quality(vectors.embeddings, task)
    return code_quality(vectors.codes, task)


def _vectors(features: Features, arm: Arm, seed: int, checkpoint: Path) -> Vectors:
    started = time.monotonic()
    own, every = features.vectors[features.split.train], features.vectors
    match arm.source:
        case "heads":
            sets = label_sets(features.split) if arm.has_tags else None
            return train_heads(
                features, arm.settings, arm.heads, seed=seed, checkpoint=checkpoint, label_sets=sets
            )
        case "classifier":
            heads = train_heads(features, arm.settings, arm.heads, seed=seed, checkpoint=checkpoint)
            codes = sign_bits(arm.heads.code_bits).encode(heads.embeddings)
            return Vectors(codes, heads.embeddings, heads.seconds)
        case "float":
            return Vectors(np.zeros((len(every), 1), np.uint8), unit(every), time.monotonic() - started)
        case _:
            fitted = iterative_quantisation if arm.source == "itq" else random_hyperplanes
            codes = fitted(own, arm.heads.code_bits, seed=seed).encode(every)
            return Vectors(codes, unit(every), time.monotonic() - started)


def label_sets(split: ClassSplit) -> NDArray[np.float32]:
    """(C, C + T) in {0, 1}: each base class has itself as a label, and the tags its training photos share."""
    tags = sorted({tag for name in split.base for tag in split.tags[name]})
    tagged = [[tag in split.tags[name] for tag in tags] for name in split.base]
    return np.hstack([np.eye(len(split.base)), np.array(tagged).reshape(len(split.base), -1)]).astype(
        np.float32
    )


def _structure(vectors: Vectors, task: RetrievalTask) -> dict[str, float]:
    """Section 13 of the method file, on the entries of seen and of unseen classes."""
    found: dict[str, float] = {}
    for kind, rows in (("seen", ~task.gallery_unseen), ("unseen", task.gallery_unseen)):
        own = code_diagnostics(vectors.codes[task.gallery[rows]], task.gallery_labels[rows])
        found |= {f"{name}_{kind}": value for name, value in own.items()}
    return found
