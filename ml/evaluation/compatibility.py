"""How well new queries work on an old gallery: the criteria of backward compatibility, from measured values.

M(a, b) is a retrieval metric with queries of encoder a and a gallery of encoder b. `cross` is M(new, old), `old`
M(old, old), `own` M(new, new), and `independent` M of an encoder trained without a thought of the old one, with itself.
Source: method file backward_compatible, section 1.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.intervals import Interval, paired_interval
from ml.evaluation.metrics import mean_of

Values = NDArray[np.float64]
Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Criterion(NamedTuple):
    """Whether new queries beat old ones on the old gallery: gain is mean(cross - old) with its 95 % interval."""

    gain: Interval
    holds: bool


class Figures(NamedTuple):
    """One metric's four values on one test set, in one unit."""

    own: float
    cross: float
    old: float
    independent: float


class SummaryScores(NamedTuple):
    """AdvBCT's summary of several test sets, each in (0, 1).

    up (P_up): 0.5 when nothing is lost to independent training. compatible (P_comp): 0.5 when new queries are as good
    as the old system was. both (P_1): mean over test sets of the harmonic mean of the two.
    """

    up: float
    compatible: float
    both: float


class Flips(NamedTuple):
    """Per query (Q,) 1, 0, or NaN where either side has no value: right before and wrong now, and the other way."""

    negative: Values
    positive: Values


class OldShares(NamedTuple):
    """Per query (Q,) in [0, 1]: share of old entries among its best answers, and among its relevant entries, which is
    what producers that are treated alike come to on the mean. NaN without a relevant entry.
    """

    found: Values
    expected: Values


class Pointwise(NamedTuple):
    """Share of pairs, in [0, 1], that meet the strict definition: of all, of one class, of two. NaN without a pair."""

    share: float
    same: float
    different: float


def empirical_criterion(cross: Values, old: Values, item_ids: Labels, *, seed: int) -> Criterion:
    """Per-query values (Q,) of the same queries, in any order that both share; item_ids (Q,) as for `paired_interval`.

    It holds when the lower bound of the two-sided 95 % bootstrap interval of cross - old is above 0, not merely the
    mean. Queries without a value on either side are left out; ValueError when none is left.
    """
    gain = paired_interval(cross, old, item_ids, seed=seed)
    return Criterion(gain, gain.low > 0)


def update_gain(cross: float, old: float, upper: float) -> float:
    """(cross - old) / (upper - old): above 0 is compatible, 1 makes a backfill needless (Shen et al., eq. 9).

    upper: `independent`. NaN when it is not above `old`, for then there is nothing to gain.
    """
    return (cross - old) / (upper - old) if upper > old else math.nan


def summary_scores(sets: Sequence[Figures]) -> SummaryScores:
    """Over one or more test sets; NaN where an update gain is. Raises ValueError without a set or when an
    `independent` is not above 0.

    Reconstructed from the printed table of AdvBCT, Pan et al., CVPR 2023, whose rows it reproduces to 0.1 point.
    """
    if not sets or any(not figures.independent > 0 for figures in sets):
        raise ValueError(
            f"independent values are {[figures.independent for figures in sets]}: one or more, each above 0"
        )
    up = [_sigmoid((figures.own - figures.independent) / figures.independent) for figures in sets]
    compatible = [_sigmoid(update_gain(figures.cross, figures.old, figures.independent)) for figures in sets]
    both = [2 * one * other / (one + other) for one, other in zip(up, compatible)]
    return SummaryScores(*(float(np.mean(values)) for values in (up, compatible, both)))


def flips(old_right: Values, new_right: Values) -> Flips:
    """From whether each query (Q,) was and is answered rightly: 1, 0, or NaN for a query without a relevant entry.

    `recall_at_1` and `recall_at_10` of `retrieval_values` are such values, of the configuration that serves: old
    queries on the old gallery, then new ones. `mean_of` gives the rates. Raises ValueError on other values.
    """
    _check_right(old_right, new_right)
    missing = np.isnan(old_right) | np.isnan(new_right)
    negative, positive = (old_right > new_right), (new_right > old_right)
    return Flips(*(np.where(missing, np.nan, flags) for flags in (negative, positive)))


def relative_flip_rate(old_right: Values, new_right: Values) -> float:
    """Negative flip rate over what independent errors would give, (1 - old error rate) * new error rate; >= 0.

    1 is no better than chance. Arguments as for `flips`; only queries with both values count. NaN when the old side
    was never right or the new one never wrong: nothing could flip. Source: Yan et al., CVPR 2021.
    """
    negative = flips(old_right, new_right).negative
    both = ~np.isnan(negative)
    expected = mean_of(old_right[both])[0] * (1 - mean_of(new_right[both])[0])
    return mean_of(negative)[0] / expected if expected > 0 else math.nan


def old_shares(scores: Values, relevant: Flags, is_old: Flags, *, top: int = 10) -> OldShares:
    """Of the `top` highest scores (Q, N) in a gallery of several producers, ties to the lower column.

    relevant (Q, N); is_old (N,): of an older producer. A gallery of fewer entries than `top` is answered with whole.
    """
    if scores.shape != relevant.shape or scores.shape[1:] != is_old.shape:
        raise ValueError(
            f"shapes differ: scores {scores.shape}, relevant {relevant.shape}, is_old {is_old.shape}"
        )
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    wanted = relevant.sum(axis=1)
    expected = np.where(wanted > 0, (relevant & is_old).sum(axis=1) / np.maximum(1, wanted), np.nan)
    return OldShares(np.where(wanted > 0, is_old[best].mean(axis=1), np.nan), expected)


def sampled_pairs(
    query_labels: Labels, gallery_labels: Labels, *, count: int, seed: int
) -> NDArray[np.int64]:
    """(P, 2) rows of a query and of an entry, the same for the same seed; P <= count, with repeats.

    Half are of one class and half of two, where there are any: drawn evenly nearly all would be of two. Queries count
    alike; those with a negative label have no class and are left out.
    """
    rng = np.random.default_rng(seed)
    pairs: list[tuple[int, int]] = []
    for wants_same in (True, False):
        shares = np.array([np.any((gallery_labels == label) == wants_same) for label in query_labels])
        asking = np.flatnonzero(shares & (query_labels >= 0))
        for query in rng.choice(asking, count // 2) if len(asking) else ():
            entries = np.flatnonzero((gallery_labels == query_labels[query]) == wants_same)
            pairs.append((int(query), int(rng.choice(entries))))
    return np.array(pairs, np.int64).reshape(-1, 2)


def pointwise_shares(
    new_queries: Vectors, old_queries: Vectors, old_entries: Vectors, pairs: NDArray[np.int64], same: Flags
) -> Pointwise:
    """How often d(new_i, old_j) <= d(old_i, old_j) for pairs of one class, and >= for pairs of two.

    new_queries, old_queries (Q, D) of the same images and old_entries (N, D), unit: a larger cosine is a smaller
    distance. pairs (P, 2) rows (i, j), same (P,). Too strict to decide by; the definition is of Shen et al., CVPR 2020.
    """
    if len(pairs) != len(same):
        raise ValueError(f"{len(pairs)} pairs but {len(same)} flags")
    asked, entries = pairs[:, 0], old_entries[pairs[:, 1]]
    before, now = (np.einsum("pd,pd->p", found[asked], entries) for found in (old_queries, new_queries))
    satisfied = np.where(same, now >= before, now <= before).astype(np.float64)
    return Pointwise(*(mean_of(satisfied[chosen])[0] for chosen in (slice(None), same, ~same)))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _check_right(old_right: Values, new_right: Values) -> None:
    for values in (old_right, new_right):
        other = values[~np.isnan(values) & ~np.isin(values, (0, 1))]
        if len(other):
            raise ValueError(f"whether a query is right is {other[0]}, it must be 0, 1 or NaN")
    if len(old_right) != len(new_right):
        raise ValueError(f"{len(old_right)} old answers but {len(new_right)} new ones")
