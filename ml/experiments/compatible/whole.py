"""Tier B: encoders trained as wholes at 64 pixels, from a small one that saw few images to a larger one that saw all.

The old encoder and the one trained without a thought of it are those of the corrector experiment, found in the same
ledger; the compatible ones differ from the latter in the alignment and the held codes alone.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from ml.base_version.recipe import Recipe, train_encoder
from ml.experiments.compatible.arms import FREE, OLD, Arm
from ml.experiments.compatible.judging import OldSystem, compared_with_free, judged_new, judged_old
from ml.experiments.compatible.old_rows import encoded_from
from ml.experiments.compatible.trunks import EXPERIMENT
from ml.experiments.corrector.serving_encoders import (
    VECTORS_FILE,
    Role,
    encode_all,
    encoded_by,
    planned_encoders,
    recipe_of,
)
from ml.experiments.data import ClassSplit
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import Options, PlannedRun
from ml.experiments.twin_bottleneck.trunks import training_images

SEEDS = 3


@dataclass(frozen=True, slots=True)
class Whole:
    """One seed's encoders of one split."""

    split: ClassSplit
    seed: int
    options: Options

    @property
    def title(self) -> str:
        """As rows name the setting."""
        return f"end-to-end/{self.split.name}"

    def runs(self) -> Mapping[Role, PlannedRun]:
        """Of the encoders that both experiments share."""
        return planned_encoders(self.split, self.seed, self.options)

    def old(self) -> OldSystem:
        """The old encoder, with its row."""
        run = self.planned_shared(OLD)
        record = self.options.ledger.run(run.full_identity(EXPERIMENT, smoke=self.options.smoke), run.work)
        every = np.ones(len(self.split.base), np.bool_)
        return OldSystem(
            encoded_by(self.runs()["old"], self.options), np.zeros((0, 0), np.float32), every, record
        )

    def planned_shared(self, name: str) -> PlannedRun:
        """The row of `old` or `independent`: measured here, trained there."""
        role: Role = "old" if name == OLD else "independent"
        identity: dict[str, Any] = {"encoder": dict(self.runs()[role].identity)}
        if name == FREE:
            identity["old"] = dict(self.runs()["old"].identity)
        work = partial(_measured_old, self) if name == OLD else partial(_measured_free, self)
        return PlannedRun(name=name, setting=self.title, seed=self.seed, identity=identity, work=work)

    def free_values(self) -> Mapping[str, Any]:
        """The row of `independent`."""
        run = self.planned_shared(FREE)
        return self.options.ledger.run(
            run.full_identity(EXPERIMENT, smoke=self.options.smoke), run.work
        ).values

    def recipe(self) -> Recipe:
        """Of the encoder that is trained without a thought of the old one."""
        images = len(self.split.train)
        return recipe_of(self.split, "independent", images=images, seed=self.seed, smoke=self.options.smoke)

    def planned_arm(self, arm: Arm) -> PlannedRun:
        """The row of a compatible encoder."""
        recipe = replace(self.recipe(), compatibility=arm.settings)
        identity: dict[str, Any] = {
            "recipe": recipe.as_values(), "old": dict(self.runs()["old"].identity),
            "data": self.split.fingerprint,
            "learned": hashlib.sha256(self.split.train_labels.astype("<i8").tobytes()).hexdigest(),
        }  # fmt: skip
        work = partial(_measured_arm, self, arm)
        return PlannedRun(name=arm.name, setting=self.title, seed=self.seed, identity=identity, work=work)


def planned_whole(split: ClassSplit, arms: list[Arm], options: Options) -> list[PlannedRun]:
    """Rows of the first seeds; the encoders that they stand on are trained in their course."""
    planned: list[PlannedRun] = []
    for seed in options.seeds[:SEEDS]:
        whole = Whole(split, seed, options)
        planned += [whole.planned_shared(OLD), whole.planned_shared(FREE)]
        planned += [
            whole.planned_arm(arm)
            for arm in arms
            if arm.rule == "prototypes" and seed in options.seeds[: arm.seeds]
        ]
    return planned


def _measured_old(whole: Whole, _checkpoint: Path) -> RunRecord:
    started = time.monotonic()
    return _record(
        whole, OLD, judged_old(whole.split, encoded_by(whole.runs()["old"], whole.options)), started
    )


def _measured_free(whole: Whole, _checkpoint: Path) -> RunRecord:
    started = time.monotonic()
    new = encoded_by(whole.runs()["independent"], whole.options)
    old = whole.old()
    values, per_query = judged_new(whole.split, old, new, learned=old.learned, is_whole=True)
    values |= compared_with_free(values, old.record.values, values)
    return _record(whole, FREE, (values, per_query), started)


def _measured_arm(whole: Whole, arm: Arm, checkpoint: Path) -> RunRecord:
    started, split, old = time.monotonic(), whole.split, whole.old()
    recipe = replace(whole.recipe(), compatibility=arm.settings)
    trained = train_encoder(
        training_images(split, split.train_labels), recipe, stored=old.stored(split), checkpoint=checkpoint
    )
    found = encode_all(trained.encoder, split.images.images.pixels)
    kept: dict[str, NDArray[Any]] = {
        "codes": found.codes,
        "embeddings": found.embeddings.astype(np.float16),
    }
    new = encoded_from(kept)
    values, per_query = judged_new(split, old, new, learned=old.learned, is_whole=True)
    values |= compared_with_free(values, old.record.values, whole.free_values())
    values |= {
        "training_seconds": round(trained.seconds, 1), "epochs": trained.epochs,
        "perturbed_degrees": trained.history[-1]["perturbed_degrees"],
    }  # fmt: skip
    files = {VECTORS_FILE: save(kept)}
    return _record(whole, arm.name, (values, per_query), started, files)


def _record(
    whole: Whole,
    name: str,
    judged: tuple[Mapping[str, Any], Mapping[str, Any]],
    started: float,
    files: Mapping[str, bytes] | None = None,
) -> RunRecord:
    values, per_query = judged
    return RunRecord(
        name=name, setting=whole.title, seed=whole.seed, values=values, per_query=per_query,
        seconds=time.monotonic() - started, items=whole.split.final.query_items, files=files or {},
    )  # fmt: skip
