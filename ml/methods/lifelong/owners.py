"""Whose an entry of a memory is, as label sets come, go and take over from each other."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.labels import LabelSet

Ids = NDArray[np.int64]
Counts = NDArray[np.float64]


class Owning(Protocol):
    """A memory: entry i is of label set sets[owner[i]]."""

    @property
    def sets(self) -> tuple[LabelSet, ...]: ...
    @property
    def owner(self) -> Ids: ...


def shares(sets: Sequence[LabelSet], known: Counts, items: Mapping[LabelSet, int]) -> Counts:
    """(U,) by how much the counts of each label set are to be multiplied."""
    missing = sorted(items.keys() - set(sets))
    if missing:
        raise ValueError(
            f"nothing is remembered of {len(missing)} label sets that have items, such as {missing[0]}: "
            "where items were relabelled, memory moves with them (Generation.relabelled)"
        )
    return np.array([items.get(labels, 0) for labels in sets], np.float64) / known


def left(sets: tuple[LabelSet, ...], owner: Ids) -> tuple[tuple[LabelSet, ...], Ids]:
    """Label sets that still own something, and who owns what among them."""
    places, owner = np.unique(owner, return_inverse=True)
    return tuple(sets[place] for place in places), owner.astype(np.int64)


def joined_owners(left: Owning, right: Owning) -> tuple[tuple[LabelSet, ...], Ids]:
    """Label sets of both, sorted, and the owners of the left one's entries, then the right one's, among them."""
    sets = tuple(sorted({*left.sets, *right.sets}))
    place = {labels: position for position, labels in enumerate(sets)}
    owners = [
        np.array([place[memory.sets[own]] for own in memory.owner], np.int64) for memory in (left, right)
    ]
    return sets, np.concatenate(owners)
