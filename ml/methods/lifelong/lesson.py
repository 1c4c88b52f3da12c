"""What a generation is taught with, and what it is after that."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.analytic import Floats
from ml.methods.lifelong.exemplars import FeatureBank
from ml.methods.lifelong.heads import CrossModalHeads
from ml.methods.lifelong.labels import LabelRegistry, LabelSet
from ml.methods.lifelong.memory import ClassMemory
from ml.methods.lifelong.statistics import CodeStatistics, Signs

Memory = ClassMemory | FeatureBank


@dataclass(frozen=True, slots=True)
class Items:
    """N items: pooled features of the frozen trunk (N, F), label sets in the registry to be learned, and keys that
    name them; everything random goes by the order of keys, so the order of rows decides nothing.
    """

    features: NDArray[np.float32]
    sets: Sequence[LabelSet]
    keys: Sequence[str]

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.sets) == len(self.keys) == len(set(self.keys)):
            raise ValueError(
                f"{len(self.features)} features, {len(self.sets)} label sets and {len(set(self.keys))} different keys"
            )
        _check_sets(self.sets, "an item has no label: it cannot be learned; leave it out, or give it one")
        if not np.isfinite(self.features).all():
            raise ValueError("features hold values that are not finite")

    def __len__(self) -> int:
        return len(self.keys)

    def picked(self, rows: NDArray[np.int64]) -> Self:
        """The items at `rows`, in that order."""
        return type(self)(
            self.features[rows], [self.sets[row] for row in rows], [self.keys[row] for row in rows]
        )

    def order(self) -> NDArray[np.int64]:
        """Rows by ascending key."""
        return np.array(sorted(range(len(self)), key=self.keys.__getitem__), np.int64)


def _check_sets(sets: Sequence[LabelSet], when_empty: str) -> None:
    for labels in set(sets):
        if not labels:
            raise ValueError(when_empty)
        if labels[0] < 0 or any(left >= right for left, right in pairwise(labels)):
            raise ValueError(f"label set {labels}: positions must be ascending, each once, from 0 on")


@dataclass(frozen=True, slots=True)
class Texts:
    """M hashed texts (M, V) and what each one says: an item's whole label set, or part of it (a tag alone)."""

    hashed: NDArray[np.float32]
    sets: Sequence[LabelSet]

    def __post_init__(self) -> None:
        if self.hashed.ndim != 2 or len(self.hashed) != len(self.sets):
            raise ValueError(f"hashed texts are {self.hashed.shape} with {len(self.sets)} label sets")
        if not np.isfinite(self.hashed).all():
            raise ValueError("hashed texts hold values that are not finite")
        _check_sets(self.sets, "a text says nothing of labels: leave it out")

    def __len__(self) -> int:
        return len(self.sets)

    def joined(self, other: Self) -> Self:
        """Both, one after the other."""
        return type(self)(np.concatenate([self.hashed, other.hashed]), [*self.sets, *other.sets])


@dataclass(frozen=True, slots=True)
class Generation:
    """All that the next increment needs, and no image. It grows with the label sets in use, a covariance each, and
    with what is said of them, not with the number of items.

    heads: frozen. statistics: of every stored code. memory: of features. texts: the catalogue's own words. image_gram,
    text_gram (H + 1, H + 1): of the hidden layers over learned items, for `analytic`.
    """

    registry: LabelRegistry
    heads: CrossModalHeads
    statistics: CodeStatistics
    memory: Memory | None
    texts: Texts | None
    image_gram: Floats | None = None
    text_gram: Floats | None = None

    def relabelled(self, codes: Signs, *, source: LabelSet, target: LabelSet) -> Self:
        """After stored codes (N, c) of label set `source` were given the labels `target`, of this registry: the codes
        stay, what is counted and remembered of them moves. Raises ValueError when they were not counted so.
        """
        if max(target, default=-1) >= len(self.registry):
            raise ValueError(
                f"label set {target}: the registry has {len(self.registry)} labels; extend it first"
            )
        statistics = self.statistics + CodeStatistics(self.statistics.code_bits)
        statistics.move(codes, source=source, target=target)
        memory = self.memory
        if memory is not None:
            memory = memory.moved(len(codes), source=source, target=target)
        return replace(self, statistics=statistics, memory=memory)

    def without(self, sets: Sequence[LabelSet], codes: Signs) -> Self:
        """After items with these label sets and stored codes (N, c) were deleted. Raises ValueError when they were
        not counted so.
        """
        statistics = self.statistics + CodeStatistics(self.statistics.code_bits)
        statistics.remove(sets, codes)
        memory = None if self.memory is None else self.memory.following(statistics.items_of_sets())
        return replace(self, statistics=statistics, memory=memory)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a training gave. solved (N, c): the new items' codes, solved with their labels; encoded (N, c): the codes
    that the new heads give them. Which of the two is stored is the caller's choice, and never mixed.

    seconds: of training, code steps and validation included. history: per epoch its losses and validation.
    """

    heads: CrossModalHeads
    solved: Signs
    encoded: Signs
    seconds: float
    epochs: int
    history: tuple[dict[str, float], ...] = field(default=())
