"""The last layers solved by ridge regression: after a training by gradient, and alone as mode `analytic`."""

import copy
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
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
from ml.methods.lifelong.heads import CrossModalHeads, outputs_of, signs_of_logits
from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.lesson import Generation, Items, Lesson, Texts
from ml.methods.lifelong.statistics import CodeStatistics, Signs, label_totals
from ml.methods.lifelong.targets import code_targets
from ml.methods.lifelong.training import Subject, centring_of
from ml.models.encoder import CodeHead


def grams(
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


def refitted(
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
        targets = _text_targets(subject.texts, every, subject, config)
        counts = rarity(subject.texts.sets, config.rarity_exponent)
        head = heads.text.code_head
        fitted.text.code_head = _refit(head, None, subject.texts.hashed, targets, counts, config)
    return fitted


def solved(
    parent: Generation, subject: Subject, fresh: Texts | None, config: LifelongConfig, *, seed: int
) -> Lesson:
    """Mode `analytic`: one linear system for each head. fresh: the texts that are new."""
    started = time.monotonic()
    items = subject.items
    counts = sorted(Counter(items.sets).items())
    words = first_codewords(
        parent.statistics, subject.registry, counts, centring_of(subject, config), seed=seed
    )
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
        targets = _text_targets(fresh, every, subject, config)
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


def _text_targets(texts: Texts, every: CodeStatistics, subject: Subject, config: LifelongConfig) -> Floats:
    """(M, c): the codeword of a text's label set, or, for a part of one, the bits its labels ask for."""
    words, centring = every.codewords(), centring_of(subject, config)
    totals = label_totals(every, subject.registry)
    wanted = code_targets(totals, subject.registry.rows(list(texts.sets)), centring)
    return np.stack(
        [
            words[labels].astype(np.float64) if labels in words else np.where(target >= 0, 1.0, -1.0)
            for labels, target in zip(texts.sets, wanted, strict=True)
        ]
    )
