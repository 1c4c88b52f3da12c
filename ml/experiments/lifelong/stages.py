"""Takes one arm through its chain, stage by stage, with stored codes that nobody may change."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ml.experiments.data import Ids
from ml.experiments.lifelong.arms import Arm, Store
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.curriculum import Curriculum, packed
from ml.methods.lifelong.heads import CrossModalHeads, outputs_of, signs_of_logits
from ml.methods.lifelong.lesson import Generation, Lesson
from ml.methods.lifelong.statistics import Signs
from ml.methods.lifelong.update import generation_after, learn_increment


@dataclass(frozen=True, slots=True)
class Stage:
    """After stage `number` (0: the base). rows (G,): every entry, in the order of learning, codes (G, c) as stored;
    learned: how many of them were there before. seconds: of training; remembering: of making what later updates
    need. old_codes_changed: stored codes whose bytes are not those of before, by digest.
    """

    number: int
    heads: CrossModalHeads
    rows: Ids
    codes: Signs
    learned: int
    seconds: float
    remembering: float = 0.0
    old_codes_changed: int = 0
    history: tuple[dict[str, float], ...] = field(default=())


def stages(place: Place, arm: Arm, store: Store, *, seed: int) -> Iterator[Stage]:
    """Stage after stage of one arm; store: which codes are kept."""
    base = place.lesson(arm.base, arm.scheme, stage=0, seed=seed)
    if arm.kind == "retrain":
        return _retrained(place, arm, store, seed=seed, base=base)
    return _updated(place.curriculum(arm.scheme), arm, store, seed=seed, base=base)


def _updated(curriculum: Curriculum, arm: Arm, store: Store, *, seed: int, base: Lesson) -> Iterator[Stage]:
    rows, codes = curriculum.entries(0), stored_codes(base, store)
    started = time.monotonic()
    generation = _after(curriculum, None, base, 0, codes, arm, seed)
    yield Stage(0, base.heads, rows, codes, 0, base.seconds, time.monotonic() - started)
    for stage in range(1, len(curriculum.features.chain.ends)):
        before, learned = digest(codes), len(rows)
        lesson = _lesson(curriculum, generation, arm, stage, seed)
        own = stored_codes(lesson, store)
        started = time.monotonic()
        generation = _after(curriculum, generation, lesson, stage, own, arm, seed)
        remembering = time.monotonic() - started
        rows, codes = np.concatenate([rows, curriculum.entries(stage)]), np.concatenate([codes, own])
        changed = 0 if digest(codes[:learned]) == before else learned
        yield Stage(
            stage, lesson.heads, rows, codes, learned, lesson.seconds, remembering, changed, lesson.history
        )


def _lesson(curriculum: Curriculum, generation: Generation, arm: Arm, stage: int, seed: int) -> Lesson:
    rows = curriculum.entries(stage)
    items = curriculum.items(rows)
    if arm.kind == "frozen":
        encoded = signs_of_logits(outputs_of(generation.heads.image, items.features))
        return Lesson(generation.heads, encoded, encoded, 0.0, 0)
    if arm.renews:
        generation = replace(generation, heads=_renewed(generation.heads, arm, seed * 1_000 + stage))
    return learn_increment(
        generation, curriculum.registries[stage], items, curriculum.texts(rows), arm.config,
        seed=seed * 1_000 + stage,
    )  # fmt: skip


def _renewed(heads: CrossModalHeads, arm: Arm, seed: int) -> CrossModalHeads:
    """Heads of the same shape that have learned nothing."""
    torch.manual_seed(seed)
    config = arm.config
    return CrossModalHeads(
        next(heads.image.parameters()).shape[1], hidden=config.hidden, code_bits=config.code_bits,
        words=0 if heads.text is None else heads.text.config.buckets, text_hidden=config.text_hidden,
    )  # fmt: skip


def _after(  # noqa: PLR0917 -- as generation_after, which it calls
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


def _retrained(place: Place, arm: Arm, store: Store, *, seed: int, base: Lesson) -> Iterator[Stage]:
    """Everything from scratch at each stage, every stored code replaced: what an increment is measured against."""
    curriculum = place.curriculum(arm.scheme)
    rows = curriculum.entries(0)
    yield Stage(0, base.heads, rows, stored_codes(base, store), 0, base.seconds)
    for stage in range(1, len(curriculum.features.chain.ends)):
        learned, rows = len(rows), np.concatenate([rows, curriculum.entries(stage)])
        if arm.is_last_only and stage < len(curriculum.features.chain.ends) - 1:
            continue
        lesson = place.lesson(arm.config, arm.scheme, stage=stage, seed=seed)
        yield Stage(
            stage,
            lesson.heads,
            rows,
            stored_codes(lesson, store),
            learned,
            lesson.seconds,
            old_codes_changed=learned,
        )


def stored_codes(lesson: Lesson, store: Store) -> Signs:
    """(N, c) of the lesson's items."""
    return lesson.solved if store == "solved" else lesson.encoded


def digest(codes: NDArray[np.int8]) -> str:
    """SHA-256 (hex) over packed codes (N, c) in their order."""
    return hashlib.sha256(packed(codes).tobytes()).hexdigest()
