"""Whether new photos look to the trunk as those it learned from did: an alarm on features, no image opened.

Method file, section 8 (Mahalanobis alarm on cached features). The threshold is ours: not assumed from a distribution
but drawn from held-out photos, because features are not Gaussian and memory was fitted to photos that held-out ones
lie further out than.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.memory import ClassMemory

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Features = NDArray[np.float32]

LEVEL = 0.01  # share of unshifted batches that raise the alarm
DRAWS = 2000
LEAST_ITEMS = 10  # held-out items an alarm is set from
PRIOR_ITEMS = 2  # by so many of the average item a label set's own mean is held back
SEED = 0
_CELLS = 1_000_000  # drawn values at a time: bounded memory


def own_distances(features: Features, sets: Sequence[LabelSet], memory: ClassMemory) -> Floats:
    """(N,): squared Mahalanobis distance of each feature (N, F) to the nearest Gaussian of its own label set, over F.

    Near 1 for a photo like those the memory was made of. Raises ValueError for a label set (N,) that memory does
    not hold: photos of new categories are asked about by `foreign_distances`.
    """
    members = _members(features, sets, memory)
    found = np.full(len(features), np.inf)
    for position in np.unique(members):
        rows = np.flatnonzero(members == position)
        if position < 0:
            raise ValueError(f"label set {sets[rows[0]]} has no Gaussian in memory, expected a learned one")
        for gaussian in np.flatnonzero(memory.owner == position):
            covariance = memory.covariances[gaussian].astype(np.float64)
            own = _squared(features[rows], memory.means[gaussian], covariance)
            found[rows] = np.minimum(found[rows], own)
    return found


def foreign_distances(features: Features, sets: Sequence[LabelSet], memory: ClassMemory) -> Floats:
    """(N,): squared Mahalanobis distance of each feature (N, F) to everything learned but its own label set, over F.

    Everything learned is one Gaussian: the mean of all and the covariance of all, within and between label sets.
    Leaving out the own label set lets photos of learned categories say how far new ones usually lie.
    """
    members = _members(features, sets, memory)
    counts, means = memory.counts.astype(np.float64), memory.means.astype(np.float64)
    found = np.empty(len(features))
    everything = _second_moment(counts, means, memory.covariances)
    for position in np.unique(members):
        rows, own = np.flatnonzero(members == position), memory.owner == position
        kept = counts[~own].sum()
        if not kept:
            raise ValueError(
                f"memory holds nothing but label set {sets[rows[0]]}, expected at least one other"
            )
        left_out = _second_moment(counts[own], means[own], memory.covariances[own])
        mean = counts[~own] @ means[~own] / kept
        found[rows] = _squared(features[rows], mean, (everything - left_out) / kept - np.outer(mean, mean))
    return found


@dataclass(frozen=True, slots=True)
class Alarm:
    """What was seen of a batch. statistic: how many times as far as usual its photos lie (1: as usual).

    Fired when the statistic is above `high`, or below `low` where that is asked for (0 where it is not).
    """

    statistic: float
    low: float
    high: float
    photos: int
    items: int

    @property
    def has_fired(self) -> bool:
        return not self.low <= self.statistic <= self.high


@dataclass(frozen=True, slots=True)
class Usual:
    """How far held-out photos lie. ratios (I,): distance of each item over what its label set led to expect, items of
    one label set together; starts, sizes (U,): where each label set's items stand.

    expected: what a label set leads to expect; `otherwise`: what any other one does. drawn (DRAWS,): mean ratio of
    the items of a resample, for what is usual is itself only known from so many photos.
    """

    ratios: Floats
    starts: Ids
    sizes: Ids
    expected: Mapping[LabelSet, float]
    otherwise: float
    drawn: Floats

    def alarm(
        self, distances: Floats, sets: Sequence[LabelSet], items: Ids, *, both_sides: bool = False
    ) -> Alarm:
        """Judge a batch of photos by their distances, label sets and items, (N,) each, N >= 1.

        Every item counts once. The bounds are those that LEVEL of unshifted batches cross: batches of as many label
        sets, with as many items each, drawn from the held-out ones. both_sides: nearer than usual is unusual too.
        """
        own, names, owner = _item_means(distances, sets, items)
        own = own / np.array([self.expected.get(labels, self.otherwise) for labels in names])[owner]
        drawn = self._batches(np.bincount(owner)) / self.drawn
        tail = LEVEL / 2 if both_sides else LEVEL
        low = float(np.quantile(drawn, tail)) if both_sides else 0.0
        statistic = float(own.mean() / self.ratios.mean())
        return Alarm(statistic, low, float(np.quantile(drawn, 1 - tail)), len(distances), len(own))

    def _batches(self, sizes: Ids) -> Floats:
        """(DRAWS,): mean ratio of batches with sizes[i] items of one label set each.

        Label sets differ, so whole ones are drawn, in proportion to their items, and items within them.
        """
        rng = np.random.default_rng(SEED)
        owner = np.repeat(np.arange(len(self.sizes)), self.sizes)
        means = np.empty(DRAWS)
        chunk = max(1, _CELLS // int(sizes.sum()))
        for start in range(0, DRAWS, chunk):
            count = min(chunk, DRAWS - start)
            chosen = np.repeat(owner[rng.integers(0, len(owner), (count, len(sizes)))], sizes, axis=1)
            place = (rng.random(chosen.shape) * self.sizes[chosen]).astype(np.int64)
            means[start : start + count] = self.ratios[self.starts[chosen] + place].mean(axis=1)
        return means


def usual(distances: Floats, sets: Sequence[LabelSet], items: Ids, *, by_set: bool = True) -> Usual:
    """Learn from held-out, unshifted photos what is usual: distances, label sets and items, (N,) each.

    None of them may have made the memory. by_set: label sets whose photos always lie far out are expected to; False
    for an alarm on label sets that nobody has seen before. Raises ValueError for fewer than LEAST_ITEMS items.
    """
    own, names, owner = _item_means(distances, sets, items)
    if len(own) < LEAST_ITEMS:
        raise ValueError(f"held-out photos show {len(own)} items, an alarm needs at least {LEAST_ITEMS}")
    mean = own.mean()
    sums = np.bincount(owner, weights=own)
    sizes = np.bincount(owner)
    ratios: Floats = own / mean
    expected: dict[LabelSet, float] = {}
    if by_set:
        # A new item is not among those its label set is known by, so neither is a held-out one.
        ratios = own / ((sums[owner] - own + PRIOR_ITEMS * mean) / (sizes[owner] - 1 + PRIOR_ITEMS))
        expected = dict(zip(names, ((sums + PRIOR_ITEMS * mean) / (sizes + PRIOR_ITEMS)).tolist()))
    order = np.argsort(owner, kind="stable")
    return Usual(
        ratios=ratios[order],
        starts=np.cumsum(sizes) - sizes,
        sizes=sizes,
        expected=expected,
        otherwise=float(mean),
        drawn=_resampled_means(np.bincount(owner, weights=ratios), sizes),
    )


def _resampled_means(sums: NDArray[Any], sizes: Ids) -> Floats:
    """(DRAWS,): mean over items of as many label sets, drawn whole and with replacement; sums, sizes (U,)."""
    rng = np.random.default_rng(SEED + 1)
    means = np.empty(DRAWS)
    chunk = max(1, _CELLS // len(sizes))
    for start in range(0, DRAWS, chunk):
        chosen = rng.integers(0, len(sizes), (min(chunk, DRAWS - start), len(sizes)))
        means[start : start + len(chosen)] = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    return means


def _item_means(
    distances: Floats, sets: Sequence[LabelSet], items: Ids
) -> tuple[Floats, list[LabelSet], Ids]:
    """Mean distance of each item (I,), the label sets there are, and whose each item is (I,); an item under two label
    sets is two.
    """
    if not len(distances) == len(sets) == len(items):
        raise ValueError(
            f"{len(distances)} distances, {len(sets)} label sets and {len(items)} items, expected N each"
        )
    if not len(distances):
        raise ValueError("there are 0 photos, expected at least 1")
    names = sorted(set(sets))
    place = {labels: position for position, labels in enumerate(names)}
    # One number for each label set and item: both are positions, so no two pairs share it.
    singles, item = np.unique(items, return_inverse=True)
    pairs = np.array([place[labels] for labels in sets], np.int64) * len(singles) + item
    keys, of_pair = np.unique(pairs, return_inverse=True)
    return np.bincount(of_pair, weights=distances) / np.bincount(of_pair), names, keys // len(singles)


def _squared(features: Features, mean: NDArray[np.floating], covariance: Floats) -> Floats:
    """(N,) squared Mahalanobis distance over F."""
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (features - mean).T.astype(np.float64))
    found: Floats = np.square(whitened).mean(axis=0)
    return found


def _second_moment(counts: Floats, means: Floats, covariances: Features) -> Floats:
    """(F, F): sum over items of feature times feature, of Gaussians (G,), (G, F), (G, F, F)."""
    return np.asarray(np.tensordot(counts, covariances, axes=1) + (means.T * counts) @ means)


def _members(features: Features, sets: Sequence[LabelSet], memory: ClassMemory) -> Ids:
    """(N,): position of each label set in memory, -1 for one that it does not hold."""
    width = memory.means.shape[1]
    if features.ndim != 2 or features.shape[1] != width or len(sets) != len(features):
        raise ValueError(
            f"features are {features.shape} with {len(sets)} label sets, expected (N, {width}) and N"
        )
    if not np.isfinite(features).all():
        raise ValueError("features hold values that are not finite")
    place = {labels: position for position, labels in enumerate(memory.sets)}
    return np.array([place.get(labels, -1) for labels in sets], np.int64)
