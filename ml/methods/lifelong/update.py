"""Learns a base generation, and increments on it whose stored codes do not change by a bit."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from ml.methods.lifelong.analytic import (
    REFERENCE,
    Floats,
    RidgeLayer,
    hidden_of,
    last_layer,
    rarity,
    with_last_layer,
)
from ml.methods.lifelong.code_solving import first_codewords
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.heads import CrossModalHeads, LabelNetwork, outputs_of, signs_of_logits
from ml.methods.lifelong.labels import Centring, LabelRegistry, LabelSet
from ml.methods.lifelong.lesson import Generation, Items, Lesson, Memory, Texts
from ml.methods.lifelong.memory import ClassMemory, FeatureBank, fitted_gaussians, kept_exemplars
from ml.methods.lifelong.statistics import CodeStatistics, Signs, label_totals
from ml.methods.lifelong.targets import code_targets
from ml.methods.lifelong.training import FixedCodeTrainer, SampleStream, Subject, fit_config
from ml.models.encoder import CodeHead
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
    the parent's. Raises ValueError when the registry is not an extension of the parent's.
    """
    if registry.names[: len(parent.registry)] != parent.registry.names:
        raise ValueError("the registry does not begin with the parent's: labels are append-only")
    if not len(items):
        nothing = np.empty((0, config.code_bits), np.int8)
        return Lesson(parent.heads, nothing, nothing, 0.0, 0)
    order = items.order()
    every = texts if parent.texts is None else parent.texts if texts is None else parent.texts.joined(texts)
    memory = None if config.mode == "new_only" else parent.memory
    subject = Subject(registry, items.picked(order), parent.statistics, memory, every)
    if config.mode == "analytic":
        return _in_given_order(_solved(parent, subject, texts, config, seed=seed), order)
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
    statistics = CodeStatistics.of(items.sets, codes)
    if parent is not None:
        statistics = parent.statistics + statistics
    fresh = texts
    if parent is not None and parent.texts is not None:
        texts = parent.texts if texts is None else parent.texts.joined(texts)
    if parent is not None and not len(items):
        return replace(parent, registry=registry, texts=texts)
    items = items.picked(items.order())  # so that the order of rows does not decide what is kept of them
    grams = _grams(parent, lesson.heads, items, fresh, config) if config.mode == "analytic" else (None, None)
    return Generation(
        registry=registry, heads=lesson.heads, statistics=statistics, texts=texts,
        memory=_memory(parent, items, config, seed), image_gram=grams[0], text_gram=grams[1],
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
        validate=None if validation is None else trainer.validation(validation),
        on_epoch=on_epoch,
        is_cancelled=is_cancelled,
    )
    learned, ended = cast("CrossModalHeads", result.encoder), time.monotonic()
    if config.refits and not (is_update and subject.memory is None):
        learned = _refitted(learned, subject, trainer.codes, config, seed=seed)
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


def _memory(parent: Generation | None, items: Items, config: LifelongConfig, seed: int) -> Memory | None:
    old = None if parent is None else parent.memory
    if config.mode in {"new_only", "analytic"}:
        return None
    if config.mode == "exemplar":
        kept = kept_exemplars(items.features, items.sets, per_set=config.exemplars, seed=seed)
        return kept.joined(old) if isinstance(old, FeatureBank) else kept
    fitted = fitted_gaussians(
        items.features, items.sets, per_set=config.gaussians, from_items=config.gaussians_from, seed=seed,
        pooled=old.pooled if isinstance(old, ClassMemory) else None,
    )  # fmt: skip
    return old.joined(fitted) if isinstance(old, ClassMemory) else fitted


def _grams(
    parent: Generation | None,
    heads: CrossModalHeads,
    items: Items,
    texts: Texts | None,
    config: LifelongConfig,
) -> tuple[Floats, Floats | None]:
    """Of the hidden layers, which no increment changes, over old and new items, and over their texts."""
    image = _gram(heads.image, items.features, items.sets, config)
    if parent is not None and parent.image_gram is not None:
        image = image + parent.image_gram
    text = None if parent is None else parent.text_gram
    if texts is not None and heads.text is not None:
        said = _gram(heads.text.code_head, texts.hashed, texts.sets, config)
        text = said if text is None else text + said
    return image, text


def _gram(
    head: CodeHead, inputs: NDArray[np.float32], sets: Sequence[LabelSet], config: LifelongConfig
) -> Floats:
    hidden = hidden_of(head, inputs)
    return np.asarray((hidden * rarity(sets, config.rarity_exponent)[:, None]).T @ hidden)


def _refitted(
    heads: CrossModalHeads, subject: Subject, codes: Signs, config: LifelongConfig, *, seed: int
) -> CrossModalHeads:
    """Both last layers fitted anew to codewords: of the new items, of remembered features, and of every text."""
    new = CodeStatistics.of(subject.items.sets, codes)
    every = subject.stored + new
    words = new.codewords() | subject.stored.codewords()
    rng = np.random.default_rng([seed, subject.stored.items])
    rows = np.sort(rng.permutation(len(codes))[: config.refit_items])
    items = subject.items.picked(rows)
    features, sets = items.features, list(items.sets)
    counts = rarity(subject.items.sets, config.rarity_exponent)[rows] * (len(codes) / len(rows))
    if subject.memory is not None:
        count = min(subject.stored.items, config.refit_items)
        drawn, owner = subject.memory.draw(count, rng)
        owners = [subject.memory.sets[own] for own in owner]
        sizes = np.array([subject.stored.tallies[labels].items for labels in owners])
        shares = (REFERENCE / sizes) ** config.rarity_exponent * subject.stored.items / count
        features, sets = np.concatenate([features, drawn]), [*sets, *owners]
        counts = np.concatenate([counts, shares])
    fitted, wanted = copy.deepcopy(heads), np.stack([words[labels] for labels in sets]).astype(np.float64)
    fitted.image = _refit(heads.image, None, features, wanted, counts, config)
    if subject.texts is not None and heads.text is not None and fitted.text is not None:
        targets = _text_targets(subject.texts, every, subject)
        counts = rarity(subject.texts.sets, config.rarity_exponent)
        head = heads.text.code_head
        fitted.text.code_head = _refit(head, None, subject.texts.hashed, targets, counts, config)
    return fitted


def _solved(
    parent: Generation, subject: Subject, fresh: Texts | None, config: LifelongConfig, *, seed: int
) -> Lesson:
    """Mode `analytic`: one linear system for each head. fresh: the texts that are new."""
    started = time.monotonic()
    items, known = subject.items, parent.statistics.codewords()
    counts = [(labels, list(items.sets).count(labels)) for labels in sorted(set(items.sets) - known.keys())]
    centring = _centring(subject)
    words = known | first_codewords(parent.statistics, subject.registry, counts, centring, seed=seed)
    codes = np.stack([words[labels] for labels in items.sets])
    heads = _fitted(parent, subject, fresh, codes, config)
    encoded = signs_of_logits(outputs_of(heads.image, items.features))
    return Lesson(heads, codes, encoded, time.monotonic() - started, 0)


def _fitted(
    parent: Generation, subject: Subject, fresh: Texts | None, codes: Signs, config: LifelongConfig
) -> CrossModalHeads:
    """The parent's heads with their last layers fitted to the new items' codes and to what new texts say."""
    heads, items = copy.deepcopy(parent.heads), subject.items
    counts = rarity(items.sets, config.rarity_exponent)
    wanted = codes.astype(np.float64)
    heads.image = _refit(heads.image, parent.image_gram, items.features, wanted, counts, config)
    if fresh is not None and heads.text is not None:
        every = parent.statistics + CodeStatistics.of(items.sets, codes)
        targets = _text_targets(fresh, every, subject)
        counts = rarity(fresh.sets, config.rarity_exponent)
        head = heads.text.code_head
        heads.text.code_head = _refit(head, parent.text_gram, fresh.hashed, targets, counts, config)
    return heads


def _refit(  # noqa: PLR0917 -- one linear system, in the order of its parts
    head: CodeHead,
    gram: Floats | None,
    inputs: NDArray[np.float32],
    targets: Floats,
    counts: Floats,
    config: LifelongConfig,
) -> CodeHead:
    weights = last_layer(head)
    layer = RidgeLayer.unfitted(weights) if gram is None else RidgeLayer(weights, gram)
    fitted = layer.fitted(hidden_of(head, inputs), targets, counts, ridge=config.ridge)
    return with_last_layer(head, fitted.weights)


def _text_targets(texts: Texts, every: CodeStatistics, subject: Subject) -> Floats:
    """(M, c): the codeword of a text's label set, or, for a part of one, the bits its labels ask for."""
    words, centring = every.codewords(), _centring(subject)
    totals = label_totals(every, subject.registry)
    wanted = code_targets(totals, subject.registry.rows(list(texts.sets)), centring)
    return np.stack(
        [
            words[labels].astype(np.float64) if labels in words else np.where(target >= 0, 1.0, -1.0)
            for labels, target in zip(texts.sets, wanted, strict=True)
        ]
    )


def _centring(subject: Subject) -> Centring:
    """Over stored and new items."""
    stored = label_totals(subject.stored, subject.registry)
    own = subject.registry.rows(subject.items.sets).sum(axis=0)
    return Centring.of(own + stored.label_total, len(subject.items) + stored.items)
