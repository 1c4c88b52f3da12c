"""Learns a base generation, and increments on it whose stored codes do not change by a bit."""

import copy
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.exemplars import FeatureBank, kept_exemplars
from ml.methods.lifelong.heads import CrossModalHeads, LabelNetwork, outputs_of, signs_of_logits
from ml.methods.lifelong.labels import LabelRegistry
from ml.methods.lifelong.lesson import Generation, Items, Lesson, Memory, Texts
from ml.methods.lifelong.memory import ClassMemory, fitted_gaussians
from ml.methods.lifelong.refitting import grams, refitted, solved
from ml.methods.lifelong.statistics import CodeStatistics, Signs
from ml.methods.lifelong.training import FixedCodeTrainer, SampleStream, Subject, fit_config
from ml.training.loop import Progress, fit

Watcher = Callable[[Progress], None]


def learn_base(
    registry: LabelRegistry,
    items: Items,
    texts: Texts | None,
    config: LifelongConfig,
    *,
    seed: int,
    validation: Items | None = None,
    checkpoint: Path | None = None,
    on_epoch: Watcher = lambda _progress: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Lesson:
    """The first generation, and full retraining alike: every item is new, the label network is the bridge between
    images and texts, codes start from labels. Raises ValueError without items.
    """
    if not len(items):
        raise ValueError("no items: a base generation needs some to learn from")
    texts = _checked(registry, items, texts)
    torch.manual_seed(seed)
    heads = CrossModalHeads(
        items.features.shape[1], hidden=config.hidden, code_bits=config.code_bits,
        words=0 if texts is None else texts.hashed.shape[1], text_hidden=config.text_hidden,
    )  # fmt: skip
    bridge = LabelNetwork(len(registry), config.hidden, config.code_bits)
    order = items.order()
    subject = Subject(registry, items.picked(order), CodeStatistics(config.code_bits), None, texts)
    lesson = _trained(
        subject, config, heads, bridge, seed=seed, is_update=False, validation=validation, checkpoint=checkpoint,
        on_epoch=on_epoch, is_cancelled=is_cancelled,
    )  # fmt: skip
    return _in_given_order(lesson, order)


def learn_increment(
    parent: Generation,
    registry: LabelRegistry,
    items: Items,
    texts: Texts | None,
    config: LifelongConfig,
    *,
    seed: int,
    validation: Items | None = None,
    checkpoint: Path | None = None,
    on_epoch: Watcher = lambda _progress: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Lesson:
    """New items learned against codes that stay. registry: the parent's, extended. Without new items the heads are
    the parent's. Raises ValueError when the registry is not an extension of the parent's, or when the parent was made
    by a mode that keeps something else.
    """
    if not registry.begins_with(parent.registry):
        raise ValueError(
            "the registry does not begin with the parent's: labels, and their weights, are append-only"
        )
    texts = _checked(registry, items, texts)
    if texts is not None and parent.heads.text is None:
        raise ValueError(
            f"there are {len(texts)} texts, but the parent's heads know no words: learn a base anew"
        )
    if not len(items):
        nothing = np.empty((0, config.code_bits), np.int8)
        return Lesson(parent.heads, nothing, nothing, 0.0, 0)
    order = items.order()
    every = texts if parent.texts is None else parent.texts if texts is None else parent.texts.joined(texts)
    subject = Subject(registry, items.picked(order), parent.statistics, _kept_of(parent, config), every)
    if config.mode == "analytic":
        return _in_given_order(solved(parent, subject, texts, config, seed=seed), order)
    heads = copy.deepcopy(parent.heads).requires_grad_(requires_grad=True)
    torch.manual_seed(seed)
    lesson = _trained(
        subject, config, heads, None, seed=seed, is_update=True, validation=validation, checkpoint=checkpoint,
        on_epoch=on_epoch, is_cancelled=is_cancelled,
    )  # fmt: skip
    return _in_given_order(lesson, order)


def generation_after(  # noqa: PLR0917 -- the parent, then what learn_increment took and gave
    parent: Generation | None,
    registry: LabelRegistry,
    lesson: Lesson,
    items: Items,
    texts: Texts | None,
    codes: Signs,
    config: LifelongConfig,
    *,
    seed: int,
) -> Generation:
    """What the next increment starts from. codes (N, c): those that were stored for `items`, solved or encoded."""
    texts = _checked(registry, items, texts)
    statistics = CodeStatistics.of(items.sets, codes)
    if parent is not None:
        statistics = parent.statistics + statistics
    fresh = texts
    if parent is not None and parent.texts is not None:
        texts = parent.texts if texts is None else parent.texts.joined(texts)
    if parent is not None and not len(items):
        return replace(parent, registry=registry, texts=texts)
    items = items.picked(items.order())  # so that the order of rows does not decide what is kept of them
    image_gram, text_gram = (
        grams(parent, lesson.heads, items, fresh, statistics, config)
        if config.mode == "analytic"
        else (None, None)
    )
    return Generation(
        registry=registry, heads=lesson.heads, statistics=statistics, texts=texts,
        memory=_memory(parent, items, config, seed), image_gram=image_gram, text_gram=text_gram,
    )  # fmt: skip


def _trained(
    subject: Subject,
    config: LifelongConfig,
    heads: CrossModalHeads,
    bridge: LabelNetwork | None,
    *,
    seed: int,
    is_update: bool,
    validation: Items | None,
    checkpoint: Path | None,
    on_epoch: Watcher,
    is_cancelled: Callable[[], bool],
) -> Lesson:
    started = time.monotonic()
    trainer = FixedCodeTrainer(subject, config, heads, bridge=bridge, seed=seed)
    prepared = time.monotonic() - started
    result = fit(
        trainer,
        SampleStream(subject, trainer.sets, config, seed=seed),
        fit_config(config, is_update=is_update),
        checkpoint=checkpoint,
        subject="" if checkpoint is None else _fingerprint(subject, config, heads, validation, seed),
        validate=None if validation is None else trainer.validation(validation),
        on_epoch=on_epoch,
        is_cancelled=is_cancelled,
    )
    learned, ended = cast("CrossModalHeads", result.encoder), time.monotonic()
    if config.refits and not is_update:
        learned = refitted(learned, subject.items, trainer.codes, config, seed=seed)
    refitting = time.monotonic() - ended
    encoded = signs_of_logits(outputs_of(learned.image, subject.items.features))
    return Lesson(
        learned, trainer.codes, encoded, prepared + result.seconds + refitting, result.epochs, result.history
    )


def _in_given_order(lesson: Lesson, order: NDArray[np.int64]) -> Lesson:
    """Codes back in the order the caller's rows have."""
    back = np.argsort(order)
    return Lesson(
        lesson.heads, lesson.solved[back], lesson.encoded[back], lesson.seconds, lesson.epochs, lesson.history
    )


def _kept_of(parent: Generation, config: LifelongConfig) -> Memory | None:
    """What the parent remembers of items that are still there, in the form that the mode reads."""
    if config.mode == "analytic":
        if parent.image_gram is None:
            raise ValueError(_other_mode(parent, config))
        return None
    if config.mode == "new_only" or not parent.statistics.items:
        return None
    if not isinstance(parent.memory, ClassMemory if config.mode == "feature_gaussian" else FeatureBank):
        raise ValueError(_other_mode(parent, config))  # noqa: TRY004 -- a wrong parent, not a wrong type
    return parent.memory.following(parent.statistics.items_of_sets())


def _other_mode(parent: Generation, config: LifelongConfig) -> str:
    if isinstance(parent.memory, ClassMemory):
        kept = "Gaussians"
    elif isinstance(parent.memory, FeatureBank):
        kept = "exemplars"
    else:
        kept = "nothing of features" if parent.image_gram is None else "a Gram matrix"
    return f"mode {config.mode} cannot follow this parent, which keeps {kept}: stay in its mode, or learn a base anew"


def _checked(registry: LabelRegistry, items: Items, texts: Texts | None) -> Texts | None:
    """The texts, None when there is none. Raises ValueError when a label is not in the registry."""
    used = max(
        (labels[-1] for labels in (*items.sets, *(texts.sets if texts is not None else ()))), default=-1
    )
    if used >= len(registry):
        raise ValueError(f"label {used} is not in the registry, which has {len(registry)}")
    return texts if texts is not None and len(texts) else None


def _fingerprint(
    subject: Subject, config: LifelongConfig, heads: CrossModalHeads, validation: Items | None, seed: int
) -> str:
    """Hex SHA-256 of all that a training taken up again must have in common with the one that was left."""
    texts, memory = subject.texts, subject.memory
    named = [
        seed,
        asdict(config),
        subject.registry,
        subject.items.keys,
        subject.items.sets,
        subject.stored.sets,
    ]
    arrays = [subject.items.features, *subject.stored.arrays().values()]
    arrays += [value.numpy() for value in heads.state_dict().values()]
    if texts is not None:
        named, arrays = [*named, texts.sets], [*arrays, texts.hashed]
    if memory is not None:
        named, arrays = [*named, memory.sets], [*arrays, *memory.arrays().values()]
    if validation is not None:
        named, arrays = [*named, validation.sets], [*arrays, validation.features]
    digest = hashlib.sha256(repr(named).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _memory(parent: Generation | None, items: Items, config: LifelongConfig, seed: int) -> Memory | None:
    old = None if parent is None else _kept_of(parent, config)
    if config.mode in {"new_only", "analytic"}:
        return None
    if config.mode == "exemplar":
        kept = kept_exemplars(items.features, items.sets, per_set=config.exemplars, seed=seed)
        return kept.joined(old, per_set=config.exemplars) if isinstance(old, FeatureBank) else kept
    fitted = fitted_gaussians(
        items.features, items.sets, per_set=config.gaussians, from_items=config.gaussians_from, seed=seed,
        pooled=old.pooled if isinstance(old, ClassMemory) else None,
    )  # fmt: skip
    return old.joined(fitted, per_set=config.gaussians) if isinstance(old, ClassMemory) else fitted
