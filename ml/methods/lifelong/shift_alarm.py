"""Whether new photos look to the trunk as those it learned from did: an alarm on features, no image opened.

Method file, section 8 (MMD or Mahalanobis alarm on cached features). What is watched is how far photos lie, on the
mean, from where their label sets are, in standard deviations within label sets. Mean squared Mahalanobis distance was
tried and given up: on 214 validation photos of shelves it stayed within 5 % of usual for shifts that cost 12 and 14
points of mean average precision (grey by 0.3, darker by 0.6), for what is lost is a small part of all distance.

The threshold is ours: not assumed from a distribution but drawn from held-out photos, because neither features nor
photos of one item are independent, and memory was fitted to photos that held-out ones lie apart from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
SEED = 0
_JITTER = 0.01  # of the mean variance: directions in which nothing varies must not count for everything
_CELLS = 1_000_000  # drawn photos at a time: bounded memory


def own_residuals(features: Features, sets: Sequence[LabelSet], memory: ClassMemory) -> Floats:
    """(N, F): what each feature (N, F) differs from the mean of its own label set, whitened by the covariance within
    label sets.

    Raises ValueError for a label set (N,) that memory does not hold: photos of new categories are asked about by
    `foreign_distances`.
    """
    positions = _positions(features, sets, memory)
    for labels, position in zip(sets, positions.tolist()):
        if position < 0:
            raise ValueError(f"label set {labels} has no Gaussian in memory, expected a learned one")
    shares = np.zeros((len(memory.sets), len(memory.owner)))
    shares[memory.owner, np.arange(len(memory.owner))] = memory.counts
    means = shares @ memory.means / shares.sum(axis=1, keepdims=True)
    return _whitened(features - means[positions], memory.pooled.astype(np.float64))


def foreign_distances(features: Features, sets: Sequence[LabelSet], memory: ClassMemory) -> Floats:
    """(N, 1): squared Mahalanobis distance of each feature (N, F) to everything learned but its own label set, over F.

    Everything learned is one Gaussian: the mean of all and the covariance of all, within and between label sets.
    Leaving out the own label set lets photos of learned categories say how far new ones usually lie.
    """
    positions = _positions(features, sets, memory)
    counts, means = memory.counts.astype(np.float64), memory.means.astype(np.float64)
    found = np.empty((len(features), 1))
    everything = _second_moment(counts, means, memory.covariances)
    for position in np.unique(positions):
        rows, own = np.flatnonzero(positions == position), memory.owner == position
        kept = counts[~own].sum()
        if not kept:
            raise ValueError(
                f"memory holds nothing but label set {sets[rows[0]]}, expected at least one other"
            )
        left_out = _second_moment(counts[own], means[own], memory.covariances[own])
        mean = counts[~own] @ means[~own] / kept
        covariance = (everything - left_out) / kept - np.outer(mean, mean)
        found[rows, 0] = np.square(_whitened(features[rows] - mean, covariance)).mean(axis=1)
    return found


@dataclass(frozen=True, slots=True)
class Alarm:
    """What was seen of a batch.

    statistic: by how much its mean is displaced from that of held-out photos, root mean square over K, 0 when no more
    than chance would have it on the mean. high: what LEVEL of unshifted batches exceed.
    """

    statistic: float
    high: float
    photos: int
    items: int

    @property
    def has_fired(self) -> bool:
        return self.statistic > self.high


class Usual(NamedTuple):
    """Photos in the order of their label sets, and of their items within those.

    values (N, K); item_sizes (I,): photos of each item; set_sizes (U,): items of each label set. An item under two
    label sets is two.
    """

    values: Floats
    item_sizes: Ids
    set_sizes: Ids

    def item_means(self) -> Floats:
        """(I, K)."""
        return _means(self.values, self.item_sizes)

    def mean(self) -> Floats:
        """(K,): every item counts once."""
        return np.asarray(self.item_means().mean(axis=0))

    def alarm(self, values: Floats, sets: Sequence[LabelSet], items: Ids) -> Alarm:
        """Judge a batch of photos by their values (N, K), as those held out, label sets and items (N,); N >= 1.

        Chance is what batches of as many label sets, items of each and photos of each show when they are drawn from
        the held-out photos, beside as many of these as there are: what is usual is itself only known so well.
        """
        seen = _sorted(values, sets, items)
        drawn = self._resampled(seen) - self._resampled(self, seed=SEED + 1)
        by_chance = np.square(drawn).mean(axis=1)
        square = float(np.square(seen.mean() - self.mean()).mean() - by_chance.mean())
        high = float(np.quantile(by_chance, 1 - LEVEL) - by_chance.mean())
        # A quantile below the mean: a few held-out photos are so far off that chance is theirs alone.
        return Alarm(max(0.0, square) ** 0.5, max(0.0, high) ** 0.5, len(values), len(seen.item_sizes))

    def _resampled(self, like: "Usual", *, seed: int = SEED) -> Floats:
        """(DRAWS, K): means of batches of the shape of `like`.

        Label sets differ, and so do items, so whole ones are drawn: sets in proportion to their items, items within
        them, photos within those.
        """
        rng = np.random.default_rng(seed)
        owner = np.repeat(np.arange(len(self.set_sizes)), self.set_sizes)
        share = 1 / np.repeat(like.item_sizes, like.item_sizes) / len(like.item_sizes)
        count = len(self.values)
        means = np.empty((DRAWS, self.values.shape[1]))
        chunk = max(1, _CELLS // max(count, len(share)))
        for start in range(0, DRAWS, chunk):
            draws = min(chunk, DRAWS - start)
            sets = owner[rng.integers(0, len(owner), (draws, len(like.set_sizes)))]
            items = _members(np.repeat(sets, like.set_sizes, axis=1), self.set_sizes, rng)
            photos = _members(np.repeat(items, like.item_sizes, axis=1), self.item_sizes, rng)
            places = (np.arange(draws)[:, None] * count + photos).ravel()
            weights = np.bincount(places, np.tile(share, draws), draws * count).reshape(draws, count)
            means[start : start + draws] = weights @ self.values
        return means


def usual(values: Floats, sets: Sequence[LabelSet], items: Ids) -> Usual:
    """Learn from held-out, unshifted photos what is usual: values (N, K), label sets and items (N,).

    None of them may have made the memory. Raises ValueError for photos of fewer than LEAST_ITEMS items.
    """
    held = _sorted(values, sets, items)
    if len(held.item_sizes) < LEAST_ITEMS:
        raise ValueError(
            f"held-out photos show {len(held.item_sizes)} items, an alarm needs at least {LEAST_ITEMS}"
        )
    return _fit_to_draw_from(held)


def _fit_to_draw_from(held: Usual) -> Usual:
    """The same means, but deviations of label sets, items and photos scaled to their variances (method of moments).

    The mean of a few photos deviates by their own noise too: drawing means first and photos then would count it twice.
    """
    item_means, grand = held.item_means(), held.mean()
    set_means = _means(item_means, held.set_sizes)
    of_photos = held.values - np.repeat(item_means, held.item_sizes, axis=0)
    of_items = item_means - np.repeat(set_means, held.set_sizes, axis=0)
    photos, items, sets = len(of_photos), len(of_items), len(set_means)
    photo_variance = np.square(of_photos).sum() / max(1, photos - items)
    item_noise = photo_variance * (1 / held.item_sizes).mean()
    seen_items = np.square(of_items).sum() / (items - sets) if items > sets else item_noise
    set_noise = seen_items * (1 / held.set_sizes).mean()
    seen_sets = np.square(set_means - grand).sum() / max(1, sets - 1)
    of_items = np.repeat(_scaled(of_items, seen_items - item_noise), held.item_sizes, axis=0)
    per_set = np.add.reduceat(held.item_sizes, _starts(held.set_sizes))
    of_sets = np.repeat(_scaled(set_means - grand, seen_sets - set_noise), per_set, axis=0)
    return held._replace(values=grand + of_sets + of_items + _scaled(of_photos, photo_variance))


def _scaled(deviations: Floats, variance: float) -> Floats:
    """(N, K) with this sum of squares a row, on the mean; nothing for a variance below 0."""
    seen = np.square(deviations).sum() / len(deviations)
    return deviations * (max(0.0, variance) / seen) ** 0.5 if seen > 0 else deviations


def _means(values: Floats, sizes: Ids) -> Floats:
    """(N, K) -> mean of each of consecutive groups."""
    return np.asarray(np.add.reduceat(values, _starts(sizes), axis=0) / sizes[:, None])


def _sorted(values: Floats, sets: Sequence[LabelSet], items: Ids) -> Usual:
    if not len(values) == len(sets) == len(items):
        raise ValueError(
            f"{len(values)} values, {len(sets)} label sets and {len(items)} items, expected N each"
        )
    if not len(values):
        raise ValueError("there are 0 photos, expected at least 1")
    place = {labels: position for position, labels in enumerate(sorted(set(sets)))}
    owner = np.array([place[labels] for labels in sets], np.int64)
    order = np.lexsort((items, owner))
    is_first = np.diff(owner[order], prepend=-1) != 0
    is_first[1:] |= np.diff(items[order]) != 0
    item_sizes = np.diff(np.flatnonzero(is_first), append=len(order))
    return Usual(values[order], item_sizes, np.bincount(owner[order][is_first]))


def _starts(sizes: Ids) -> Ids:
    """Where each of consecutive groups begins."""
    return np.asarray(np.cumsum(sizes) - sizes)


def _members(groups: Ids, sizes: Ids, rng: np.random.Generator) -> Ids:
    """Of each group in `groups` (any shape) one member at random: its position in all groups one after another."""
    drawn = (rng.random(groups.shape) * sizes[groups]).astype(np.int64)
    return np.asarray(_starts(sizes)[groups] + drawn)


def _whitened(differences: NDArray[np.floating], covariance: Floats) -> Floats:
    """(N, F), (F, F) -> (N, F)."""
    width = len(covariance)
    spread = covariance + _JITTER * np.trace(covariance) / width * np.eye(width)
    return np.asarray(np.linalg.solve(np.linalg.cholesky(spread), differences.T.astype(np.float64)).T)


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
