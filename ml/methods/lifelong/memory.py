"""What is kept of the features of learned items, so that nothing old is opened again: exemplars or Gaussians.

Source: method file, section 6.4, and the probes: several Gaussians for large classes, drawn as often as the
catalogue holds their items; drawing old and new alike lets the new classes win.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.labels import LabelSet

Features = NDArray[np.float32]  # (N, F)
Ids = NDArray[np.int64]

OWN_SHRINK = 0.4  # of a component towards its label set's covariance
POOLED_SHRINK = 0.7  # of a small label set towards the covariance within all sets
MAX_CLUSTERED = 3_000  # items of a label set that k-means looks at
_JITTER = 1e-4  # of the mean variance within label sets, so that every covariance has a Cholesky factor


@dataclass(frozen=True, slots=True)
class ClassMemory:
    """Gaussians of the features of learned label sets; no image is among them.

    sets: the label sets; owner (G,): whose each Gaussian is; counts (G,): of how many items; means (G, F),
    covariances (G, F, F), already shrunk, both float32. pooled (F, F): covariance within label sets, which small sets
    are shrunk towards.
    """

    sets: tuple[LabelSet, ...]
    owner: Ids
    counts: Ids
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

    def within(self, sets: Collection[LabelSet]) -> Self:
        """What is kept of these label sets alone: those whose items are all gone are forgotten."""
        known = np.array([labels in sets for labels in self.sets], np.bool_)
        chosen = known[self.owner]
        return type(self)(
            sets=tuple(labels for labels in self.sets if labels in sets),
            owner=(np.cumsum(known) - 1)[self.owner[chosen]],
            counts=self.counts[chosen],
            means=self.means[chosen],
            covariances=self.covariances[chosen],
            pooled=self.pooled,
        )

    def joined(self, other: Self) -> Self:
        """Both memories, `pooled` being this one's; a label set known to both has the Gaussians of both."""
        sets = tuple(sorted({*self.sets, *other.sets}))
        place = {labels: position for position, labels in enumerate(sets)}
        owners = [
            np.array([place[memory.sets[own]] for own in memory.owner], np.int64) for memory in (self, other)
        ]
        return type(self)(
            sets=sets,
            owner=np.concatenate(owners),
            counts=np.concatenate([self.counts, other.counts]),
            means=np.concatenate([self.means, other.means]),
            covariances=np.concatenate([self.covariances, other.covariances]),
            pooled=self.pooled,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For safetensors: all but the label sets."""
        return {
            "owner": self.owner, "counts": self.counts, "means": self.means, "covariances": self.covariances,
            "pooled": self.pooled,
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, sets: Sequence[LabelSet], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `arrays`."""
        owner, counts = (arrays[name].astype(np.int64) for name in ("owner", "counts"))
        return cls(tuple(sets), owner, counts, arrays["means"], arrays["covariances"], arrays["pooled"])


@dataclass(frozen=True, slots=True)
class FeatureBank:
    """Features that were kept as they are. kept (K, F) of label sets owner (K,); counts (U,): items of each set."""

    sets: tuple[LabelSet, ...]
    owner: Ids
    counts: Ids
    kept: Features

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Features, Ids]:
        """As ClassMemory.draw: label sets as often as they have items, then any feature kept of them."""
        weights = (self.counts / np.bincount(self.owner, minlength=len(self.counts)))[self.owner]
        picked = rng.choice(len(self.owner), size=count, p=weights / weights.sum())
        return self.kept[picked], self.owner[picked]

    def within(self, sets: Collection[LabelSet]) -> Self:
        """As ClassMemory.within."""
        known = np.array([labels in sets for labels in self.sets], np.bool_)
        chosen = known[self.owner]
        kept = tuple(labels for labels in self.sets if labels in sets)
        owner = (np.cumsum(known) - 1)[self.owner[chosen]]
        return type(self)(kept, owner, self.counts[known], self.kept[chosen])

    def joined(self, other: Self) -> Self:
        """Both banks."""
        sets = tuple(sorted({*self.sets, *other.sets}))
        place = {labels: position for position, labels in enumerate(sets)}
        counts = np.zeros(len(sets), np.int64)
        owners = []
        for bank in (self, other):
            positions = np.array([place[labels] for labels in bank.sets], np.int64)
            counts[positions] += bank.counts
            owners.append(positions[bank.owner])
        return type(self)(sets, np.concatenate(owners), counts, np.concatenate([self.kept, other.kept]))


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
        sets=names, owner=np.array(owner, np.int64), counts=np.array(counts, np.int64),
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


def kept_exemplars(
    features: Features, sets: Sequence[LabelSet], *, per_set: int | None, seed: int
) -> FeatureBank:
    """`per_set` features of each label set drawn at random; None keeps all."""
    rng = np.random.default_rng(seed)
    names = tuple(sorted(set(sets)))
    place = {labels: position for position, labels in enumerate(names)}
    members = np.array([place[labels] for labels in sets], np.int64)
    counts = np.bincount(members, minlength=len(names))
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(members == position))[:per_set] for position in range(len(names))]
    )
    return FeatureBank(names, members[rows], counts, features[rows])
