"""One new encoder of a setting of tier A, by one arm."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ml.experiments.compatible.arms import FREE, NDPP, Arm
from ml.experiments.compatible.heads import Holding, TrainedHeads, train_heads
from ml.experiments.compatible.judging import OldSystem, compared_with_free, judged_new
from ml.experiments.compatible.old_rows import as_stored, kept_vectors, old_system, planned_old
from ml.experiments.compatible.places import Place
from ml.experiments.compatible.settings import learned_classes
from ml.experiments.compatible.trunks import EXPERIMENT, Features
from ml.experiments.data import Ids
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import PlannedRun
from ml.experiments.twin_bottleneck.trunks import Condition

NEW_SEED = 1_000  # what a new encoder's seed is away from the old one's
KEPT, KEPT_SEEDS = (FREE, NDPP), 3  # whose vectors are kept, for rows that stand on them


@dataclass(frozen=True, slots=True)
class Task:
    """One row. free: the arm that is trained without a thought of the old encoder."""

    place: Place
    arm: Arm
    free: Arm
    seed: int

    def planned(self) -> PlannedRun:
        """The row of the arm."""
        old = planned_old(self.place, self.seed)
        identity: dict[str, Any] = {"parent": dict(old.identity), "arm": self.arm.as_values()}
        if self.place.noise:
            identity["noise"] = self.place.noise
        return PlannedRun(
            name=self.arm.name, setting=self.place.title, seed=self.seed, identity=identity,
            work=partial(_measured, self),
        )  # fmt: skip

    def record(self) -> RunRecord:
        """The finished row, made now if the ledger lacks it."""
        run, options = self.planned(), self.place.options
        return options.ledger.run(run.full_identity(EXPERIMENT, smoke=options.smoke), run.work)


def known_labels(place: Place) -> Ids:
    """(n,) labels of all training images as a new training knows them: with the place's share of wrong ones."""
    return Condition(noise=place.noise).apply(place.split.train_labels, len(place.split.base))


def new_features(place: Place) -> Features:
    """What the new heads learn from."""
    _, features = place.features
    labels = known_labels(place)[np.searchsorted(place.split.train, features.rows)]
    return replace(features, labels=labels)


def trained_arm(task: Task, old: OldSystem, checkpoint: Path | None) -> TrainedHeads:
    """The arm's heads. Wrong labels are wrong in prototypes and held codes too."""
    place, arm = task.place, task.arm
    holding = None
    if arm.rule != "free":
        stored = old.stored(place.split, known_labels(place))
        made = arm.alignment(stored, old.rows, old.learned, place.heads, task.seed)
        assert stored.codes is not None
        holding = Holding(old.encoded.embeddings, stored.codes, made)
    return train_heads(
        new_features(place), place.heads, classes=len(place.split.base), seed=task.seed + NEW_SEED,
        holding=holding, checkpoint=checkpoint,
    )  # fmt: skip


def _measured(task: Task, checkpoint: Path) -> RunRecord:
    started, split = time.monotonic(), task.place.split
    old = old_system(task.place, task.seed)
    heads = trained_arm(task, old, checkpoint)
    learned = learned_classes(split, task.place.upgrade.new.classes)
    values, per_query = judged_new(split, old, as_stored(heads), learned=learned, is_whole=task.arm.is_whole)
    is_free = task.arm.name == task.free.name  # else it would wait for itself
    free: Mapping[str, Any] = values if is_free else replace(task, arm=task.free).record().values
    values |= compared_with_free(values, old.record.values, free)
    values |= {name: value for name, value in heads.history[-1].items() if name == "perturbed_degrees"}
    is_kept = task.arm.name in KEPT and task.seed < KEPT_SEEDS
    return RunRecord(
        name=task.arm.name, setting=task.place.title, seed=task.seed, values=values, per_query=per_query,
        seconds=time.monotonic() - started, items=split.final.query_items,
        files=kept_vectors(heads) if is_kept else {},
    )  # fmt: skip
