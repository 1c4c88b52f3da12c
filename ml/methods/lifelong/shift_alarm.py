"""Whether new photos look to the trunk as those it learned from did: an alarm on features, no image opened.

Method file, section 8 (Mahalanobis alarm on cached features). The threshold is ours: not assumed from a distribution
but drawn from held-out photos, because features are not Gaussian and memory was fitted to photos that held-out ones
lie further out than.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.memory import ClassMemory

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Features = NDArray[np.float32]

LEVEL = 0.01  # share of unshifted batches that raise the alarm
DRAWS = 5000
LEAST_ITEMS = 10  # held-out items an alarm is set from
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
    """How far held-out photos lie: mean distance of each item (I,), items of one label set together.

    starts, sizes (U,): where each label set's items stand. drawn (DRAWS,): mean over the items of a resample, for
    what is usual is itself only known from so many photos.
    """

    distances: Floats
    starts: Ids
    sizes: Ids
    drawn: Floats

    @property
    def mean(self) -> float:
        """The distance that a statistic of 1 stands for."""
        return float(self.distances.mean())

    def alarm(
        self, distances: Floats, sets: Sequence[LabelSet], items: Ids, *, both_sides: bool = False
    ) -> Alarm:
        """Judge a batch of photos by their distances, label sets and items, (N,) each, N >= 1.

        Every item counts once. The bounds are those that LEVEL of unshifted batches cross: batches of as many label
        sets, with as many items each, drawn from the held-out ones. both_sides: nearer than usual is unusual too.
        """
        own, own_sets = _item_means(distances, sets, items)
        drawn = self._batches(np.unique(own_sets, return_counts=True)[1]) / self.drawn
        tail = LEVEL / 2 if both_sides else LEVEL
        low = float(np.quantile(drawn, tail)) if both_sides else 0.0
        statistic = float(own.mean() / self.mean)
        return Alarm(statistic, low, float(np.quantile(drawn, 1 - tail)), len(distances), len(own))

    def _batches(self, sizes: Ids) -> Floats:
        """(DRAWS,): mean distance of batches with sizes[i] items of one label set each.

        Label sets differ in how far their photos lie, so whole label sets are drawn, and items within them.
        """
        rng = np.random.default_rng(SEED)
        total = int(sizes.sum())
        owner = np.repeat(np.arange(len(self.sizes)), self.sizes)
        means = np.empty(DRAWS)
        chunk = max(1, _CELLS // total)
        for start in range(0, DRAWS, chunk):
            count = min(chunk, DRAWS - start)
            # The label set of an item drawn at random: each in proportion to its items, as in the mean of all.
            chosen = owner[rng.integers(0, len(owner), (count, len(sizes)))]
            chosen = np.repeat(chosen, sizes, axis=1)  # (count, total)
            place = (rng.random((count, total)) * self.sizes[chosen]).astype(np.int64)
            means[start : start + count] = self.distances[self.starts[chosen] + place].mean(axis=1)
        return means


def usual(distances: Floats, sets: Sequence[LabelSet], items: Ids) -> Usual:
    """Learn from held-out, unshifted photos what is usual: distances, label sets and items, (N,) each.

    None of them may have made the memory. Raises ValueError for photos of fewer than LEAST_ITEMS items.
    """
    own, own_sets = _item_means(distances, sets, items)
    if len(own) < LEAST_ITEMS:
        raise ValueError(f"held-out photos show {len(own)} items, an alarm needs at least {LEAST_ITEMS}")
    order = np.argsort(own_sets, kind="stable")
    own = own[order]
    sizes = np.unique(own_sets, return_counts=True)[1]
    starts = np.cumsum(sizes) - sizes
    sums = np.add.reduceat(own, starts)
    rng = np.random.default_rng(SEED + 1)
    drawn = np.empty(DRAWS)
    chunk = max(1, _CELLS // len(sizes))
    for start in range(0, DRAWS, chunk):
        chosen = rng.integers(0, len(sizes), (min(chunk, DRAWS - start), len(sizes)))
        drawn[start : start + len(chosen)] = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    return Usual(own, starts, sizes, drawn)


def _item_means(distances: Floats, sets: Sequence[LabelSet], items: Ids) -> tuple[Floats, Ids]:
    """Mean distance of each item and its label set; an item under two label sets is two."""
    if not len(distances) == len(sets) == len(items):
        raise ValueError(
            f"{len(distances)} distances, {len(sets)} label sets and {len(items)} items, expected N each"
        )
    if not len(distances):
        raise ValueError("there are 0 photos, expected at least 1")
    known = {labels: position for position, labels in enumerate(sorted(set(sets)))}
    pairs = np.stack([np.array([known[labels] for labels in sets], np.int64), items])
    keys, place = np.unique(pairs, axis=1, return_inverse=True)
    place = place.reshape(-1)
    return np.bincount(place, weights=distances) / np.bincount(place), keys[0]


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
