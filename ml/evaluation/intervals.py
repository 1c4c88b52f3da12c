"""Confidence intervals of a mean over queries, by bootstrap over items: photos of one item are not
independent. For a handful of queries, and at high confidence, by Student's t: a bootstrap of five values never
leaves their range, however sure it has to be.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, the bounds of its percentile interval, and how many items were resampled."""

    value: float
    low: float
    high: float
    clusters: int


def clustered_interval(
    values: Values, item_ids: NDArray[np.int64], *, seed: int, draws: int = 2000, confidence: float = 0.95
) -> Interval:
    """Mean of `values` (Q,) and its interval, items drawn with replacement, each with all of its queries.

    item_ids (Q,) names the item of each query. Queries whose value is NaN (nothing relevant) are left out.
    The mean weighs queries, not items, alike. The same seed gives the same interval. Raises ValueError when
    no value is left or the lengths differ; with one item both bounds equal the mean, for nothing is known
    about other items.
    """
    if len(values) != len(item_ids):
        raise ValueError(f"{len(values)} values but {len(item_ids)} item ids")
    if draws < 1 or not 0 < confidence < 1:
        raise ValueError(f"draws is {draws} (at least 1), confidence {confidence} (between 0 and 1)")
    present = ~np.isnan(values)
    if not present.any():
        raise ValueError("no query has a value")
    _, cluster = np.unique(item_ids[present], return_inverse=True)
    sums = np.bincount(cluster, weights=values[present])
    sizes = np.bincount(cluster)
    count = len(sums)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for start in range(0, draws, _CHUNK):  # bounded memory: a chunk of draws at a time
        drawn = rng.integers(0, count, (min(_CHUNK, draws - start), count))
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(sums.sum() / sizes.sum()), float(low), float(high), count)


def paired_interval(
    values: Values,
    baseline: Values,
    item_ids: NDArray[np.int64],
    *,
    seed: int,
    draws: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Interval of mean(values - baseline), both (Q,) over the same queries: what they share cancels.

    A query counts only when both have a value. Errors as for `clustered_interval`.
    """
    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} values but {len(baseline)} baseline values")
    return clustered_interval(values - baseline, item_ids, seed=seed, draws=draws, confidence=confidence)


def student_interval(values: Values, item_ids: NDArray[np.int64], *, confidence: float) -> Interval:
    """As `clustered_interval`, by Student's t over items: mean of `values` give or take t times its standard error.

    The error is that of a ratio of sums over items, so queries weigh alike; with items of one query each it is the
    usual one. With one item the bounds are infinite: nothing is known about other items.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, it must lie between 0 and 1")
    present = ~np.isnan(values)
    if not present.any():
        raise ValueError("no query has a value")
    _, cluster = np.unique(item_ids[present], return_inverse=True)
    mean = float(values[present].mean())
    residuals = np.bincount(cluster, weights=values[present] - mean)
    count = len(residuals)
    if count < 2:
        return Interval(mean, -math.inf, math.inf, count)
    error = math.sqrt(count / (count - 1) * float(np.square(residuals).sum())) / int(present.sum())
    reach = student_quantile((1 + confidence) / 2, count - 1) * error
    return Interval(mean, mean - reach, mean + reach, count)


def student_quantile(probability: float, freedom: int) -> float:
    """Of Student's t with a whole number of degrees of freedom, for a probability in [0.5, 1), by bisection."""
    if not 0.5 <= probability < 1 or freedom < 1:
        raise ValueError(f"probability is {probability} (0.5 to 1), freedom {freedom} (at least 1)")
    low, high = 0.0, 1.0
    while _student_below(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_below(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _student_below(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0, by the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    is_odd = freedom % 2
    total, term = 0.0, cosine if is_odd else 1.0
    for step in range(2 if is_odd else 1, freedom, 2):
        total += term
        term *= cosine * cosine * step / (step + 1)
    within = math.sin(angle) * total
    if is_odd:
        within = 2 / math.pi * (angle + within)
    return (1 + within) / 2


def rate_interval(flags: Values, item_ids: NDArray[np.int64], *, seed: int) -> Interval:
    """Of the share of queries (Q,) that are 1 (0 or NaN otherwise): `clustered_interval`, which is blind when all are
    alike. Then the bound is that of as many independent items: p such that seeing none has 2.5 % chance.
    """
    found = clustered_interval(flags, item_ids, seed=seed)
    unseen = 1 - 0.025 ** (1 / found.clusters)
    if found.value == 0:
        return Interval(0.0, 0.0, unseen, found.clusters)
    if found.value == 1:
        return Interval(1.0, 1 - unseen, 1.0, found.clusters)
    return found
