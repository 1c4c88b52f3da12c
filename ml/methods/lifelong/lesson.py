"""What a generation is taught with, and what it is after that."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.analytic import Floats
from ml.methods.lifelong.heads import CrossModalHeads
from ml.methods.lifelong.labels import LabelRegistry, LabelSet
from ml.methods.lifelong.memory import ClassMemory, FeatureBank
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
        if any(not labels for labels in self.sets):
            raise ValueError("an item has no label: it cannot be learned; leave it out, or give it one")
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


@dataclass(frozen=True, slots=True)
class Texts:
    """M hashed texts (M, V) and what each one says: an item's whole label set, or part of it (a tag alone)."""

    hashed: NDArray[np.float32]
    sets: Sequence[LabelSet]

    def __len__(self) -> int:
        return len(self.sets)

    def joined(self, other: Self) -> Self:
        """Both, one after the other."""
        return type(self)(np.concatenate([self.hashed, other.hashed]), [*self.sets, *other.sets])


@dataclass(frozen=True, slots=True)
class Generation:
    """All that the next increment needs: a few megabytes, whatever the catalogue's size, and no image.

    heads: frozen. statistics: of every stored code. memory: of features. texts: the catalogue's own words, which
    stay at hand anyway. image_gram, text_gram (H + 1, H + 1): of the hidden layers over learned items, for `analytic`.
    """

    registry: LabelRegistry
    heads: CrossModalHeads
    statistics: CodeStatistics
    memory: Memory | None
    texts: Texts | None
    image_gram: Floats | None = None
    text_gram: Floats | None = None


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
