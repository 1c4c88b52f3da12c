"""What is kept of the features of learned items, so that nothing old is opened again: Gaussians.

Source: method file, section 6.4, and the probes: several Gaussians for large classes; label sets are drawn as often
as the catalogue holds their items. How many are drawn to a new item is `LifelongConfig.replay_share`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.owners import Counts, Ids, joined_owners, left, shares

Features = NDArray[np.float32]  # (N, F)

OWN_SHRINK = 0.4  # of a component towards its label set's covariance
POOLED_SHRINK = 0.7  # of a small label set towards the covariance within all sets
MAX_CLUSTERED = 3_000  # items of a label set that k-means looks at
_JITTER = 1e-4  # of the mean variance within label sets, so that every covariance has a Cholesky factor


@dataclass(frozen=True, slots=True)
class ClassMemory:
    """Gaussians of the features of learned label sets; no image is among them.

    sets: the label sets; owner (G,): whose each Gaussian is; counts (G,): of how many items, a share of them where
    some have left; means (G, F), covariances (G, F, F), already shrunk, both float32. pooled (F, F): covariance
    within label sets, which small sets are shrunk towards.
    """

    sets: tuple[LabelSet, ...]
    owner: Ids
    counts: Counts
    means: Features
    covariances: Features
    pooled: Features

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Features, Ids]:
        """`count` features (count, F), each Gaussian as often as it has items, and whose they are (count,)."""
        picked = rng.choice(len(self.counts), size=count, p=self.counts / self.counts.sum())
        features = np.empty((count, self.means.shape[1]), np.float32)
        for gaussian in np.unique(picked):
            rows = np.flatnonzero(picked == gaussian)
            factor = np.linalg.cholesky(self.covariances[gaussian])
            noise = rng.standard_normal((len(rows), self.means.shape[1]), dtype=np.float32)
            features[rows] = self.means[gaussian] + noise @ factor.T
        return features, self.owner[picked]

    def following(self, items: Mapping[LabelSet, int]) -> Self:
        """What is kept as of a catalogue with so many items of each label set: those without items are forgotten,
        the others count as they stand there. Raises ValueError when a set with items is unknown.
        """
        counts = self.counts * shares(self.sets, self._items(), items)[self.owner]
        return self._where(counts > 0, counts)

    def moved(self, count: int, *, source: LabelSet, target: LabelSet) -> Self:
        """After `count` items of label set `source` were relabelled as `target`: its Gaussians stand for both."""
        place = self.sets.index(source)
        own, share = self.owner == place, count / self._items()[place]
        rest = self.counts * np.where(own, 1 - share, 1.0)
        part = replace(self._where(own, self.counts * share), sets=(target,))
        return self._where(rest > 0, rest).joined(part)

    def joined(self, other: Self, *, per_set: int | None = None) -> Self:
        """Both memories, `pooled` being this one's; a label set known to both has the Gaussians of both, of which the
        smallest are merged until `per_set` are left.
        """
        sets, owner = joined_owners(self, other)
        both = type(self)(
            sets=sets, owner=owner, counts=np.concatenate([self.counts, other.counts]),
            means=np.concatenate([self.means, other.means]),
            covariances=np.concatenate([self.covariances, other.covariances]), pooled=self.pooled,
        )  # fmt: skip
        while per_set is not None and np.bincount(both.owner).max(initial=0) > per_set:
            both = both.merged(int(np.bincount(both.owner).argmax()))
        return both

    def merged(self, place: int) -> Self:
        """The two smallest Gaussians of the label set at `place` as one of the same mean and covariance together."""
        own = np.flatnonzero(self.owner == place)
        pair = own[np.argsort(self.counts[own], kind="stable")[:2]]
        weights = self.counts[pair] / self.counts[pair].sum()
        mean = weights @ self.means[pair].astype(np.float64)
        apart = self.means[pair] - mean
        spread = np.einsum("k,kij->ij", weights, self.covariances[pair].astype(np.float64))
        merged = self._where(np.arange(len(self.owner)) != pair[1], self.counts)
        kept = int(pair[0] - (pair[1] < pair[0]))
        merged.counts[kept] = self.counts[pair].sum()
        merged.means[kept] = mean
        merged.covariances[kept] = spread + (apart.T * weights) @ apart
        return merged

    def _items(self) -> Counts:
        """(U,) of each label set."""
        return np.asarray(np.bincount(self.owner, weights=self.counts, minlength=len(self.sets)), np.float64)

    def _where(self, chosen: NDArray[np.bool_], counts: Counts) -> Self:
        """The chosen Gaussians, copied, with these counts; label sets that are left without any are forgotten."""
        sets, owner = left(self.sets, self.owner[chosen])
        return type(self)(
            sets=sets, owner=owner, counts=counts[chosen], means=self.means[chosen],
            covariances=self.covariances[chosen], pooled=self.pooled,
        )  # fmt: skip

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For safetensors: all but the label sets."""
        return {
            "owner": self.owner, "counts": self.counts, "means": self.means, "covariances": self.covariances,
            "pooled": self.pooled,
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, sets: Sequence[LabelSet], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `arrays`."""
        owner, counts = arrays["owner"].astype(np.int64), arrays["counts"].astype(np.float64)
        return cls(tuple(sets), owner, counts, arrays["means"], arrays["covariances"], arrays["pooled"])


def fitted_gaussians(
    features: Features,
    sets: Sequence[LabelSet],
    *,
    per_set: int,
    from_items: int,
    seed: int,
    pooled: NDArray[np.floating] | None = None,
) -> ClassMemory:
    """Gaussians of features (N, F) by label set. pooled (F, F): covariance within label sets to shrink small ones
    towards; by default that of these features.
    """
    names = tuple(sorted(set(sets)))
    place = {labels: position for position, labels in enumerate(names)}
    members = np.array([place[labels] for labels in sets], np.int64)
    wide = features.astype(np.float64)
    if pooled is None:
        pooled = within_covariance(wide, members, len(names))
    floor = _JITTER * (float(np.trace(pooled)) / len(pooled) or 1.0)
    owner, counts, means, covariances = [], [], [], []
    for position in range(len(names)):
        own = wide[members == position]
        for rows, covariance in _components(own, pooled, per_set if len(own) >= from_items else 1, seed):
            owner.append(position)
            counts.append(len(rows))
            means.append(rows.mean(axis=0))
            covariances.append(covariance + floor * np.eye(wide.shape[1]))
    return ClassMemory(
        sets=names, owner=np.array(owner, np.int64), counts=np.array(counts, np.float64),
        means=np.array(means, np.float32), covariances=np.array(covariances, np.float32),
        pooled=pooled.astype(np.float32),
    )  # fmt: skip


def within_covariance(features: NDArray[np.float64], members: Ids, sets: int) -> NDArray[np.float64]:
    """(N, F), (N,) in [0, sets) -> (F, F): mean over items of the outer product of what differs from the set's mean."""
    counts = np.bincount(members, minlength=sets)
    sums = np.zeros((sets, features.shape[1]))
    np.add.at(sums, members, features)
    rest = features - (sums / np.maximum(counts, 1)[:, None])[members]
    return np.asarray(rest.T @ rest / len(features))


def _components(
    own: NDArray[np.float64], pooled: NDArray[np.floating], count: int, seed: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The items of each component and its shrunk covariance."""
    covariance = np.cov(own.T, bias=True) if len(own) > 1 else np.zeros((own.shape[1],) * 2)
    if count == 1:
        return [(own, (1 - POOLED_SHRINK) * covariance + POOLED_SHRINK * pooled)]
    shown = own[:: max(1, -(-len(own) // MAX_CLUSTERED))].astype(np.float32)
    means = faiss.Kmeans(own.shape[1], count, niter=10, seed=seed, min_points_per_centroid=1)
    means.train(shown)
    nearest = means.index.search(own.astype(np.float32), 1)[1][:, 0]
    found = []
    for component in range(count):
        rows = own[nearest == component]
        if len(rows):
            spread = np.cov(rows.T, bias=True) if len(rows) > 1 else np.zeros_like(covariance)
            found.append((rows, (1 - OWN_SHRINK) * spread + OWN_SHRINK * covariance))
    return found
