"""Turns the two similarities into a probability of relevance, and that probability into words."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.metrics import Ranking, average_precision, mean_of, recall_at
from ml.protocol import Calibration

Floats = NDArray[np.float32] | NDArray[np.float64]
Flags = NDArray[np.bool_]

POOL_SIZES = (50, 100, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000, 10000)
MIXES = tuple(round(0.05 * step, 2) for step in range(21))  # share of the cosine in the fused score
FIT_POOL = 200  # candidates per query that the logistic fit sees: the nearest by code
POOL_RECALL = 0.98  # of the exact top 10 that the shortlist must keep
TOP = 10
MAX_FALSE_STRONG = 0.03  # of the queries without a relevant entry whose best result may be called strong
MAX_HIDDEN_CORRECT = 0.10  # of the correct best results that may fall below `weak`
_RIDGE = 1e-4
_ITERATIONS = 100


@dataclass(frozen=True, slots=True)
class Similarities:
    """Every query against every gallery entry; rows are queries."""

    code: Floats  # (Q, N) in [-1, 1]
    cosine: Floats  # (Q, N) in [-1, 1]
    relevant: Flags  # (Q, N)

    def __post_init__(self) -> None:
        if not self.code.shape == self.cosine.shape == self.relevant.shape or self.code.ndim != 2:
            raise ValueError(
                f"shapes differ: code {self.code.shape}, cosine {self.cosine.shape}, "
                f"relevant {self.relevant.shape}"
            )


@dataclass(frozen=True, slots=True)
class Fusion:
    """log-odds of relevance = intercept + code_weight * code similarity + embedding_weight * cosine."""

    intercept: float
    code_weight: float
    embedding_weight: float

    def probability(self, code: Floats, cosine: Floats) -> NDArray[np.float64]:
        """Element by element, any shape; in (0, 1)."""
        odds = self.intercept + self.code_weight * code + self.embedding_weight * cosine
        return np.asarray(1.0 / (1.0 + np.exp(-odds)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class OpenSet:
    """Best probability of each query that has no relevant entry, and the group (pack) it belongs to."""

    best: NDArray[np.float64]  # (Q,)
    groups: tuple[str, ...]


def calibrate(
    known: Similarities,
    unseen: Similarities,
    unknown: Similarities,
    unknown_groups: tuple[str, ...],
    *,
    is_cautious: bool = False,
) -> Calibration:
    """The calibration of one (query version, producer) pair, by the rules below; deterministic.

    known: queries of trained classes. unseen: queries of classes that were never trained on but are in the
    gallery. unknown: queries whose class is not in the gallery (`relevant` all False). is_cautious: for few
    queries (see `fit_fusion`).
    """
    if unknown.relevant.any():
        raise ValueError("open-set queries must have no relevant entry in the gallery")
    return calibration_of(fit_fusion(known, unseen, is_cautious=is_cautious), known, unknown, unknown_groups)


def calibration_of(
    fusion: Fusion, known: Similarities, unknown: Similarities, unknown_groups: tuple[str, ...]
) -> Calibration:
    """The thresholds and the pool that belong to a fusion; arguments as for `calibrate`."""
    strong = strong_threshold(
        OpenSet(fusion.probability(unknown.code, unknown.cosine).max(axis=1), unknown_groups)
    )
    weak = min(weak_threshold(known, fusion), strong)
    return Calibration(
        intercept=fusion.intercept, code_weight=fusion.code_weight, embedding_weight=fusion.embedding_weight,
        strong=strong, weak=weak, pool_size=choose_pool_size(known, fusion),
    )  # fmt: skip


def fit_fusion(
    known: Similarities,
    unseen: Similarities,
    *,
    pool: int = FIT_POOL,
    is_cautious: bool = False,
    mixes: Sequence[float] = MIXES,
) -> Fusion:
    """The mix of the two similarities that ranks best, scaled to a probability.

    The share of the cosine is the one of `mixes` with the highest mean of Recall@1 and average precision, half
    of it over the queries of trained classes and half over those of unseen ones (ties: nearest to a half):
    codes are at their best on the classes they were trained on, embeddings on those they were not, and a
    catalogue holds both. A logistic regression of relevance on that mix, over each known query's `pool`
    nearest codes, gives scale and intercept. A plain regression on both similarities ranks worse: it fits the
    many distant pairs, not the few at the top. Weights are never negative: a nearer entry never scores lower.
    is_cautious: fit to Platt's targets (1999), (Q + 1) / (Q + 2) for relevant pairs and 1 / (irrelevant pairs
    + 2) for others, instead of 1 and 0: few and cleanly separated queries otherwise claim false certainty.
    Raises ValueError when there is nothing to separate or relevance falls with similarity.
    """
    qualities = [
        sum(
            _ranking_quality((1 - mix) * pairs.code + mix * pairs.cosine, pairs.relevant)
            for pairs in (known, unseen)
        )
        for mix in mixes
    ]
    mix = min(
        (mix for mix, quality in zip(mixes, qualities) if not quality < max(qualities)),
        key=lambda mix: abs(mix - 0.5),
    )
    candidates = _nearest(known.code, pool)
    combined = np.take_along_axis((1 - mix) * known.code + mix * known.cosine, candidates, axis=1).ravel()
    relevant = np.take_along_axis(known.relevant, candidates, axis=1).ravel()
    if not relevant.any() or relevant.all():
        raise ValueError(
            f"{int(relevant.sum())} of {relevant.size} candidate pairs are relevant: nothing to separate"
        )
    target = relevant.astype(np.float64)
    if is_cautious:
        queries = len(known.relevant)
        target = np.where(relevant, (queries + 1) / (queries + 2), 1 / (int((~relevant).sum()) + 2))
    intercept, slope = _logistic(np.stack([np.ones(combined.size), combined], axis=1), target)
    if slope <= 0:
        raise ValueError(
            f"relevance falls with similarity (slope {slope}): these encodings cannot be calibrated"
        )
    return Fusion(float(intercept), float(slope * (1 - mix)), float(slope * mix))


def strong_threshold(open_set: OpenSet, *, limit: float = MAX_FALSE_STRONG) -> float:
    """The smallest probability that at most `limit` of the best results reach, every group counting alike."""
    sizes = Counter(open_set.groups)
    shares = np.array([1 / (len(sizes) * sizes[group]) for group in open_set.groups])
    order = np.argsort(-open_set.best, kind="stable")
    reached = np.cumsum(shares[order])  # the share of false alarms if the threshold were just below
    first_too_many = int(np.searchsorted(reached, limit + 1e-12, side="right"))
    return float(np.nextafter(open_set.best[order[first_too_many]], 1.0))


def weak_threshold(known: Similarities, fusion: Fusion, *, hidden: float = MAX_HIDDEN_CORRECT) -> float:
    """The probability below which `hidden` of the correct best results of known queries fall."""
    scores = fusion.probability(known.code, known.cosine)
    best = scores.argmax(axis=1)
    rows = np.arange(len(best))
    correct = scores[rows, best][known.relevant[rows, best]]
    if correct.size == 0:
        raise ValueError("no query has a relevant best result: the weak threshold has nothing to rest on")
    return float(np.quantile(correct, hidden))


def choose_pool_size(known: Similarities, fusion: Fusion) -> int:
    """The smallest of POOL_SIZES that keeps at least POOL_RECALL of the exact top 10; N when none does."""
    size = int(known.code.shape[1])
    for pool in POOL_SIZES:
        if pool < size and pool_recall(known, fusion, pool) >= POOL_RECALL:
            return pool
    return size


def pool_recall(known: Similarities, fusion: Fusion, pool: int) -> float:
    """Share of the exact fused top 10 that the `pool` nearest codes hold, mean over queries, in [0, 1]."""
    scores = fusion.probability(known.code, known.cosine)
    exact = np.argpartition(-scores, TOP - 1, axis=1)[:, :TOP]
    inside = np.zeros(scores.shape, dtype=np.bool_)
    np.put_along_axis(inside, _nearest(known.code, pool), np.True_, axis=1)
    return float(np.take_along_axis(inside, exact, axis=1).mean())


def rankings(scores: Floats, relevant: Flags) -> Iterator[Ranking]:
    """The gallery ranked for each query: (Q, N) scores and relevance; ties to the lower column."""
    for order, row_scores, row_relevant in zip(np.argsort(-scores, axis=1, kind="stable"), scores, relevant):
        yield Ranking(row_scores[order], row_relevant[order])


def _ranking_quality(scores: Floats, relevant: Flags) -> float:
    """Mean over queries of (Recall@1 + average precision) / 2, in [0, 1]."""
    found = [
        (recall_at(ranking, 1) + average_precision(ranking)) / 2 for ranking in rankings(scores, relevant)
    ]
    return mean_of(np.array(found))[0]


def _nearest(code: Floats, pool: int) -> NDArray[np.int64]:
    """(Q, min(pool, N)) columns of the nearest codes; ties by lower column, as the index breaks them."""
    return np.argsort(-code, axis=1, kind="stable")[:, :pool]


def _logistic(design: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of a logistic regression by Newton's method with a tiny ridge; (M, F), (M,) -> (F,)."""
    weights = np.zeros(design.shape[1])
    for _ in range(_ITERATIONS):
        probability = 1.0 / (1.0 + np.exp(-design @ weights))
        gradient = design.T @ (probability - target) + _RIDGE * weights
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + _RIDGE * np.eye(
            len(weights)
        )
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if float(np.abs(step).max()) < 1e-9:
            return weights
    raise ArithmeticError(f"logistic fit did not converge in {_ITERATIONS} steps; last step {step}")
