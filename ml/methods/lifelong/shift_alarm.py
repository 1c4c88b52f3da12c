"""Whether new photos look to the trunk as those it learned from did: an alarm on features, no image opened.

Method file, section 8 (Mahalanobis alarm on cached features). The threshold is ours: not assumed from a distribution
but drawn from held-out photos, because features are not Gaussian and memory was fitted to photos that held-out ones
lie further out than.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    members = _positions(features, sets, memory)
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
    members = _positions(features, sets, memory)
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


class _Sorted(NamedTuple):
    """Photos in the order of their label sets, and of their items within those.

    values (N,); item_sizes (I,): photos of each item; set_sizes (U,): items of each label set; sets: which those are.
    An item under two label sets is two.
    """

    values: Floats
    item_sizes: Ids
    set_sizes: Ids
    sets: list[LabelSet]

    def item_means(self) -> Floats:
        """(I,)."""
        return np.add.reduceat(self.values, _starts(self.item_sizes)) / self.item_sizes

    def of_items(self, of_sets: NDArray[Any]) -> Floats:
        """(U,) -> (I,)."""
        return np.repeat(of_sets, self.set_sizes)

    def of_photos(self, of_items: Floats) -> Floats:
        """(I,) -> (N,)."""
        return np.repeat(of_items, self.item_sizes)


@dataclass(frozen=True, slots=True)
class Usual:
    """How far held-out photos lie. ratios: distance of each photo over what its label set led to expect.

    expected: what a label set leads to expect; `otherwise`: what any other one does. drawn (DRAWS,): mean ratio of
    the items of a resample, for what is usual is itself only known from so many photos.
    """

    ratios: _Sorted
    expected: Mapping[LabelSet, float]
    otherwise: float
    drawn: Floats

    def alarm(
        self, distances: Floats, sets: Sequence[LabelSet], items: Ids, *, both_sides: bool = False
    ) -> Alarm:
        """Judge a batch of photos by their distances, label sets and items, (N,) each, N >= 1.

        Every item counts once. The bounds are those that LEVEL of unshifted batches cross: batches of as many label
        sets, items of each and photos of each, drawn from the held-out ones. both_sides: nearer is unusual too.
        """
        seen = _sorted(distances, sets, items)
        expected = np.array([self.expected.get(labels, self.otherwise) for labels in seen.sets])
        own = seen.item_means() / seen.of_items(expected)
        drawn = self._batches(seen) / self.drawn
        tail = LEVEL / 2 if both_sides else LEVEL
        low = float(np.quantile(drawn, tail)) if both_sides else 0.0
        statistic = float(own.mean() / self.ratios.item_means().mean())
        return Alarm(statistic, low, float(np.quantile(drawn, 1 - tail)), len(distances), len(own))

    def _batches(self, like: _Sorted) -> Floats:
        """(DRAWS,): mean ratio of batches of the same shape.

        Label sets differ, and so do items, so whole ones are drawn: sets in proportion to their items, items within
        them, photos within those.
        """
        rng, held = np.random.default_rng(SEED), self.ratios
        owner = np.repeat(np.arange(len(held.set_sizes)), held.set_sizes)
        means = np.empty(DRAWS)
        chunk = max(1, _CELLS // len(like.values))
        for start in range(0, DRAWS, chunk):
            shape = min(chunk, DRAWS - start), len(like.set_sizes)
            sets = np.repeat(owner[rng.integers(0, len(owner), shape)], like.set_sizes, axis=1)
            items = np.repeat(_members(sets, held.set_sizes, rng), like.item_sizes, axis=1)
            values = held.values[_members(items, held.item_sizes, rng)]
            sums = np.add.reduceat(values, _starts(like.item_sizes), axis=1)
            means[start : start + len(values)] = (sums / like.item_sizes).mean(axis=1)
        return means


def usual(distances: Floats, sets: Sequence[LabelSet], items: Ids, *, by_set: bool = True) -> Usual:
    """Learn from held-out, unshifted photos what is usual: distances, label sets and items, (N,) each.

    None of them may have made the memory. by_set: label sets whose photos always lie far out are expected to; False
    for an alarm on label sets that nobody has seen before. Raises ValueError for fewer than LEAST_ITEMS items.
    """
    held = _sorted(distances, sets, items)
    own, sizes = held.item_means(), held.set_sizes
    if len(own) < LEAST_ITEMS:
        raise ValueError(f"held-out photos show {len(own)} items, an alarm needs at least {LEAST_ITEMS}")
    mean = float(own.mean())
    expectations, expected = np.full(len(own), mean), {}
    if by_set:
        sums = np.add.reduceat(own, _starts(sizes)) + PRIOR_ITEMS * mean
        # A new item is not among those its label set is known by, so neither is a held-out one.
        expectations = (held.of_items(sums) - own) / (held.of_items(sizes - 1.0) + PRIOR_ITEMS)
        expected = dict(zip(held.sets, (sums / (sizes + PRIOR_ITEMS)).tolist()))
    ratios = held._replace(values=held.values / held.of_photos(expectations))
    drawn = _resampled_means(np.add.reduceat(ratios.item_means(), _starts(sizes)), sizes)
    return Usual(ratios, expected, mean, drawn)


def _resampled_means(sums: NDArray[Any], sizes: Ids) -> Floats:
    """(DRAWS,): mean over items of as many label sets, drawn whole and with replacement; sums, sizes (U,)."""
    rng = np.random.default_rng(SEED + 1)
    means = np.empty(DRAWS)
    chunk = max(1, _CELLS // len(sizes))
    for start in range(0, DRAWS, chunk):
        chosen = rng.integers(0, len(sizes), (min(chunk, DRAWS - start), len(sizes)))
        means[start : start + len(chosen)] = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    return means


def _sorted(distances: Floats, sets: Sequence[LabelSet], items: Ids) -> _Sorted:
    if not len(distances) == len(sets) == len(items):
        raise ValueError(
            f"{len(distances)} distances, {len(sets)} label sets and {len(items)} items, expected N each"
        )
    if not len(distances):
        raise ValueError("there are 0 photos, expected at least 1")
    names = sorted(set(sets))
    place = {labels: position for position, labels in enumerate(names)}
    owner = np.array([place[labels] for labels in sets], np.int64)
    order = np.lexsort((items, owner))
    is_first = np.diff(owner[order], prepend=-1) != 0
    is_first[1:] |= np.diff(items[order]) != 0
    item_sizes = np.diff(np.flatnonzero(is_first), append=len(order))
    return _Sorted(distances[order], item_sizes, np.bincount(owner[order][is_first]), names)


def _starts(sizes: Ids) -> Ids:
    """Where each of consecutive groups begins."""
    return np.asarray(np.cumsum(sizes) - sizes)


def _members(groups: Ids, sizes: Ids, rng: np.random.Generator) -> Ids:
    """Of each group in `groups` (any shape) one member at random: its position in all groups one after another."""
    drawn = (rng.random(groups.shape) * sizes[groups]).astype(np.int64)
    return np.asarray(_starts(sizes)[groups] + drawn)


def _squared(features: Features, mean: NDArray[np.floating], covariance: Floats) -> Floats:
    """(N,) squared Mahalanobis distance over F."""
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (features - mean).T.astype(np.float64))
    found: Floats = np.square(whitened).mean(axis=0)
    return found


def _second_moment(counts: Floats, means: Floats, covariances: Features) -> Floats:
    """(F, F): sum over items of feature times feature, of Gaussians (G,), (G, F), (G, F, F)."""
    return np.asarray(np.tensordot(counts, covariances, axes=1) + (means.T * counts) @ means)


def _positions(features: Features, sets: Sequence[LabelSet], memory: ClassMemory) -> Ids:
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
