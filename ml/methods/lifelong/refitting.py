"""The last layers solved by ridge regression: after a training by gradient, and alone as mode `analytic`."""

import copy
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.analytic import (
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
from ml.methods.lifelong.statistics import CodeStatistics, Signs
from ml.methods.lifelong.text_targets import spoken_codes
from ml.methods.lifelong.training import Subject, centring_of
from ml.models.encoder import CodeHead


def grams(  # noqa: PLR0917 -- as generation_after, which calls it
    parent: Generation | None,
    heads: CrossModalHeads,
    items: Items,
    texts: Texts | None,
    statistics: CodeStatistics,
    config: LifelongConfig,
) -> tuple[Floats, Floats | None]:
    """Of the hidden layers, which no increment changes, over old and new items, and over their texts. statistics: of
    all codes, the new items' among them.
    """
    image = _gram(heads.image, items.features, items.sets, config)
    if parent is not None and parent.image_gram is not None:
        image = image + parent.image_gram
    text = None if parent is None else parent.text_gram
    if texts is not None and heads.text is not None:
        spoken, _ = _with_codes(texts, statistics)
        said = _gram(heads.text.code_head, spoken.hashed, spoken.sets, config)
        text = said if text is None else text + said
    return image, text


def _gram(
    head: CodeHead, inputs: NDArray[np.float32], sets: Sequence[LabelSet], config: LifelongConfig
) -> Floats:
    hidden = hidden_of(head, inputs)
    return np.asarray((hidden * rarity(sets, config.rarity_exponent)[:, None]).T @ hidden)


def refitted(
    heads: CrossModalHeads, items: Items, codes: Signs, config: LifelongConfig, *, seed: int
) -> CrossModalHeads:
    """A base stage's image head with its last layer fitted anew to its items' codewords; the words stay."""
    words = CodeStatistics.of(items.sets, codes).codewords()
    rows = np.sort(np.random.default_rng(seed).permutation(len(codes))[: config.refit_items])
    counts = rarity(items.sets, config.rarity_exponent)[rows] * (len(codes) / len(rows))
    wanted = np.stack([words[items.sets[row]] for row in rows]).astype(np.float64)
    fitted = copy.deepcopy(heads)
    fitted.image = _refit(heads.image, None, items.features[rows], wanted, counts, config)
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
        spoken, targets = _with_codes(fresh, parent.statistics + CodeStatistics.of(items.sets, codes))
        counts = rarity(spoken.sets, config.rarity_exponent)
        head = heads.text.code_head
        heads.text.code_head = _refit(head, parent.text_gram, spoken.hashed, targets, counts, config)
    return heads


def _with_codes(texts: Texts, statistics: CodeStatistics) -> tuple[Texts, Floats]:
    """Those texts that have a code to be taught, and the codes (M, c)."""
    targets = spoken_codes(statistics, texts.sets).astype(np.float64)
    rows = np.flatnonzero(targets.any(axis=1))
    return Texts(texts.hashed[rows], [texts.sets[row] for row in rows.tolist()]), targets[rows]


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
