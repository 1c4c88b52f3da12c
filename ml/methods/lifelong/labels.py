"""Which labels there are, which of them an item carries, and how alike two items are by them.

An item carries a set of labels: its category, the category's ancestors, its tags. Two items are as similar as the
cosine of their label rows; the method regresses code similarities onto that cosine, centred.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LabelSet = tuple[int, ...]  # positions in a registry, ascending, each once


@dataclass(frozen=True, slots=True)
class LabelRegistry:
    """Every label ever learned, in the order it came. Append-only: a position, once given, never moves.

    weights: how much a label counts beside the others of its item, > 0; equal weights give the plain cosine.
    """

    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names) or len(self.names) != len(self.weights):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(
                f"labels that stand twice: {twice or 'none'}; {len(self.names)} names, {len(self.weights)} weights"
            )
        if any(not weight > 0 for weight in self.weights):
            raise ValueError(f"label weights must be above 0, the smallest is {min(self.weights)}")

    def __len__(self) -> int:
        return len(self.names)

    def extended(self, labels: Mapping[str, float]) -> "LabelRegistry":
        """With `labels` (name -> weight) that are new behind the old ones; a known label keeps its weight."""
        fresh = {name: weight for name, weight in labels.items() if name not in set(self.names)}
        return LabelRegistry((*self.names, *fresh), (*self.weights, *fresh.values()))

    def begins_with(self, other: "LabelRegistry") -> bool:
        """Whether this one is `other` with labels behind it: names and weights alike."""
        count = len(other)
        return self.names[:count] == other.names and self.weights[:count] == other.weights

    def label_set(self, names: Iterable[str]) -> LabelSet:
        """The positions of `names`. Raises ValueError on a name that is not registered."""
        index = {name: position for position, name in enumerate(self.names)}
        wanted = set(names)
        unknown = sorted(wanted - index.keys())
        if unknown:
            raise ValueError(f"labels that are not in the registry: {', '.join(unknown[:5])}")
        return tuple(sorted(index[name] for name in wanted))

    def rows(self, sets: Sequence[LabelSet]) -> Floats:
        """(U, L) label rows of L2 norm 1. An empty set gives zeros: similar to nothing, itself included."""
        rows = np.zeros((len(sets), len(self)))
        for row, positions in zip(rows, sets, strict=True):
            for position in positions:
                row[position] = self.weights[position]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(norms > 0, norms, 1))


def similarity(left: Floats, right: Floats) -> Floats:
    """(M, L), (N, L) label rows -> (M, N) cosines in [0, 1]: 1 for equal sets, 0 for sets without a common label.

    Source: the released code of DLCH (method file, section 3).
    """
    return np.clip(left @ right.T, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Centring:
    """The affine map from cosine s to target code similarity T = scale * s + shift, T(1) = 1.

    Source: method file, section 3 (ours): of zero mean over the pairs of a run, it is DIHN's softened +1 / -1 where
    items carry one label each, keeps graded similarity where they carry several, and balances bits by itself.
    """

    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def of(cls, label_total: Floats, items: int) -> "Centring":
        """label_total (L,): sum of the items' label rows. The mean cosine over all pairs is |total|^2 / n^2."""
        mean = float(label_total @ label_total) / items**2
        if not mean < 1 - 1e-9:  # rows have norm 1 but for rounding
            raise ValueError("every item carries the same labels: nothing tells any two of them apart")
        return cls(1 / (1 - mean), -mean / (1 - mean))

    def __call__(self, cosine: Floats) -> Floats:
        return np.asarray(self.scale * cosine + self.shift)
