"""Features kept as they are: the other thing that can stand for old items in training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.owners import Counts, Ids, joined_owners, left, shares

Features = NDArray[np.float32]  # (N, F)


@dataclass(frozen=True, slots=True)
class FeatureBank:
    """Features that were kept as they are. kept (K, F) of label sets owner (K,); counts (U,): items of each set."""

    sets: tuple[LabelSet, ...]
    owner: Ids
    counts: Counts
    kept: Features

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Features, Ids]:
        """As ClassMemory.draw: label sets as often as they have items, then any feature kept of them."""
        weights = (self.counts / np.bincount(self.owner, minlength=len(self.counts)))[self.owner]
        picked = rng.choice(len(self.owner), size=count, p=weights / weights.sum())
        return self.kept[picked], self.owner[picked]

    def following(self, items: Mapping[LabelSet, int]) -> Self:
        """As ClassMemory.following."""
        return self._where(self.counts * shares(self.sets, self.counts, items))

    def moved(self, count: int, *, source: LabelSet, target: LabelSet) -> Self:
        """As ClassMemory.moved."""
        place = self.sets.index(source)
        rest = self.counts.copy()
        rest[place] -= count
        own = self.kept[self.owner == place]
        part = type(self)((target,), np.zeros(len(own), np.int64), np.array([count], np.float64), own)
        return self._where(rest).joined(part)

    def joined(self, other: Self, *, per_set: int | None = None) -> Self:
        """Both banks. Of a label set known to both, `per_set` features are kept, drawn as often as they stand for
        items; by default all.
        """
        sets, owner = joined_owners(self, other)
        place = {labels: position for position, labels in enumerate(sets)}
        counts, each = np.zeros(len(sets)), []
        for bank in (self, other):
            counts[[place[labels] for labels in bank.sets]] += bank.counts
            each.append((bank.counts / np.bincount(bank.owner, minlength=len(bank.sets)))[bank.owner])
        stands_for, rng = np.concatenate(each), np.random.default_rng(len(owner))
        rows = []
        for position in range(len(sets)):
            own = np.flatnonzero(owner == position)
            if per_set is not None and len(own) > per_set:
                chances = stands_for[own] / stands_for[own].sum()
                own = np.sort(rng.choice(own, per_set, replace=False, p=chances))
            rows.append(own)
        chosen = np.sort(np.concatenate([np.empty(0, np.int64), *rows]))
        return type(self)(sets, owner[chosen], counts, np.concatenate([self.kept, other.kept])[chosen])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As ClassMemory.arrays."""
        return {"owner": self.owner, "counts": self.counts, "kept": self.kept}

    def _where(self, counts: Counts) -> Self:
        chosen = counts[self.owner] > 0
        sets, owner = left(self.sets, self.owner[chosen])
        return type(self)(sets, owner, counts[counts > 0], self.kept[chosen])


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
    return FeatureBank(names, members[rows], counts.astype(np.float64), features[rows])
