"""Takes one arm through its chain, stage by stage, with stored codes that nobody may change."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ml.experiments.data import Ids
from ml.experiments.lifelong.arms import Arm, Store
from ml.experiments.lifelong.curriculum import Curriculum, packed
from ml.methods.lifelong.heads import CrossModalHeads, outputs_of, signs_of_logits
from ml.methods.lifelong.lesson import Generation, Lesson
from ml.methods.lifelong.statistics import Signs
from ml.methods.lifelong.update import generation_after, learn_base, learn_increment


@dataclass(frozen=True, slots=True)
class Stage:
    """After stage `number` (0: the base). rows (G,): every entry, ascending by learning, codes (G, c) as stored;
    learned: how many of them were there before. seconds: of training, with what is kept for later updates.
    """

    number: int
    heads: CrossModalHeads
    rows: Ids
    codes: Signs
    learned: int
    seconds: float
    old_codes_changed: int
    history: tuple[dict[str, float], ...] = field(default=())


def stages(
    curriculum: Curriculum, arm: Arm, store: Store, *, seed: int, base: Lesson, start: int = 0
) -> Iterator[Stage]:
    """Stage after stage of one arm. base: its first generation, trained or read; store: which codes are kept."""
    if arm.kind == "retrain":
        yield from _retrained(curriculum, arm, store, seed=seed, base=base)
        return
    rows, codes = curriculum.entries(0), _stored(base, store)
    generation = _after(curriculum, None, base, 0, codes, arm, seed)
    yield Stage(0, base.heads, rows, codes, 0, base.seconds, 0, base.history)
    for stage in range(1, len(curriculum.features.chain.ends)):
        before = _digest(codes)
        lesson = _lesson(curriculum, generation, arm, stage, seed)
        own = _stored(lesson, store)
        started = time.monotonic()
        generation = _after(curriculum, generation, lesson, stage, own, arm, seed)
        remembering = time.monotonic() - started
        learned = len(rows)
        rows, codes = np.concatenate([rows, curriculum.entries(stage)]), np.concatenate([codes, own])
        changed = 0 if _digest(codes[:learned]) == before else learned
        yield Stage(
            stage, lesson.heads, rows, codes, learned, lesson.seconds + remembering, changed, lesson.history
        )


def _lesson(curriculum: Curriculum, generation: Generation, arm: Arm, stage: int, seed: int) -> Lesson:
    rows = curriculum.entries(stage)
    items = curriculum.items(rows)
    if arm.kind == "frozen":
        encoded = signs_of_logits(outputs_of(generation.heads.image, items.features))
        return Lesson(generation.heads, encoded, encoded, 0.0, 0)
    return learn_increment(
        generation, curriculum.registries[stage], items, curriculum.texts(rows), arm.config,
        seed=seed * 1_000 + stage, validation=curriculum.validation(stage) if arm.config.patience else None,
    )  # fmt: skip


def _after(
    curriculum: Curriculum,
    parent: Generation | None,
    lesson: Lesson,
    stage: int,
    codes: Signs,
    arm: Arm,
    seed: int,
) -> Generation:
    rows = curriculum.entries(stage)
    return generation_after(
        parent, curriculum.registries[stage], lesson, curriculum.items(rows), curriculum.texts(rows), codes,
        arm.config, seed=seed,
    )  # fmt: skip


def _retrained(curriculum: Curriculum, arm: Arm, store: Store, *, seed: int, base: Lesson) -> Iterator[Stage]:
    """Everything from scratch at each stage, every stored code replaced: what an increment is measured against."""
    rows, learned = curriculum.entries(0), 0
    yield Stage(0, base.heads, rows, _stored(base, store), 0, base.seconds, 0, base.history)
    for stage in range(1, len(curriculum.features.chain.ends)):
        learned, rows = len(rows), np.concatenate([rows, curriculum.entries(stage)])
        lesson = trained_base(curriculum, arm, stage, seed=seed, rows=rows)
        codes = _stored(lesson, store)
        yield Stage(stage, lesson.heads, rows, codes, learned, lesson.seconds, learned, lesson.history)


def trained_base(
    curriculum: Curriculum, arm: Arm, stage: int, *, seed: int, rows: Ids | None = None
) -> Lesson:
    """A first generation from all entries of the stages up to `stage`."""
    rows = curriculum.entries_until(stage) if rows is None else rows
    return learn_base(
        curriculum.registries[stage], curriculum.items(rows), curriculum.texts(rows), arm.config, seed=seed,
        validation=curriculum.validation(0) if arm.config.patience else None,
    )  # fmt: skip


def _stored(lesson: Lesson, store: Store) -> Signs:
    return lesson.solved if store == "solved" else lesson.encoded


def _digest(codes: NDArray[np.int8]) -> str:
    return hashlib.sha256(packed(codes).tobytes()).hexdigest()
