"""Confidence intervals of a mean over queries, by bootstrap over items: photos of one item are not
independent.
"""

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
