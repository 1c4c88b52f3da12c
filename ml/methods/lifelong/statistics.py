"""What an update needs to know of all stored codes, in a size that does not grow with their number.

Integers alone: adding a shard and taking it away again gives back the very same statistics, in any order, on any
machine. Source: method file, section 6.3 (ours), and the design's decision to count by label set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.labels import Floats, LabelRegistry, LabelSet

Signs = NDArray[np.int8]  # (N, c) of -1 / +1
Counts = NDArray[np.int64]
_CHUNK = 65_536


class Tally(NamedTuple):
    """Items of one label set: how many, and the sum of their codes (c,)."""

    items: int
    code_sum: Counts


@dataclass(slots=True)
class CodeStatistics:
    """Per label set the number of stored codes and their sum, and the Gram matrix (c, c) of all of them."""

    code_bits: int
    tallies: dict[LabelSet, Tally] = field(default_factory=dict)
    gram: Counts = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def __post_init__(self) -> None:
        if not self.gram.size:
            self.gram = np.zeros((self.code_bits, self.code_bits), np.int64)

    @classmethod
    def of(cls, sets: Sequence[LabelSet], codes: Signs) -> Self:
        """The statistics of N codes (N, c), counted under `sets`."""
        found = cls(codes.shape[1])
        found.add(sets, codes)
        return found

    @property
    def items(self) -> int:
        """How many codes are counted."""
        return sum(tally.items for tally in self.tallies.values())

    @property
    def sets(self) -> list[LabelSet]:
        """The label sets in use, sorted: their order does not depend on the order of adding."""
        return sorted(self.tallies)

    def add(self, sets: Sequence[LabelSet], codes: Signs) -> None:
        """Count codes (N, c), code i under sets[i]."""
        self._change(sets, codes, sign=1)

    def remove(self, sets: Sequence[LabelSet], codes: Signs) -> None:
        """Take codes out again. Raises ValueError, and changes nothing, when these cannot be among those counted.

        Sums alone cannot tell every wrong code: counting all rows anew is the proof.
        """
        self._change(sets, codes, sign=-1)

    def move(self, codes: Signs, *, source: LabelSet, target: LabelSet) -> None:
        """Relabel: the codes (N, c) now count under `target`. The Gram matrix knows no labels and stays."""
        self.remove([source] * len(codes), codes)
        self.add([target] * len(codes), codes)

    def __add__(self, other: Self) -> Self:
        """The statistics of both shards together."""
        total = type(self)(self.code_bits, dict(self.tallies), self.gram + other.gram)
        for labels, tally in other.tallies.items():
            _count(total.tallies, labels, tally)
        return total

    def items_of_sets(self) -> dict[LabelSet, int]:
        """How many items each label set has."""
        return {labels: tally.items for labels, tally in self.tallies.items()}

    def codewords(self) -> dict[LabelSet, Signs]:
        """Each label set's majority code (c,); a bit on which its codes are evenly split is +1."""
        return {
            labels: np.where(tally.code_sum >= 0, 1, -1).astype(np.int8)
            for labels, tally in self.tallies.items()
        }

    def cleaned(self) -> Self:
        """As if every code were its label set's codeword: targets without the noise of single codes."""
        clean = type(self)(self.code_bits)
        for labels, word in self.codewords().items():
            items = self.tallies[labels].items
            wide = word.astype(np.int64)
            clean.tallies[labels] = Tally(items, items * wide)
            clean.gram += items * np.outer(wide, wide)
        return clean

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """For safetensors: label sets as rows of positions and lengths, counts, sums, Gram matrix."""
        sets = self.sets
        return {
            "lengths": np.array([len(labels) for labels in sets], np.int64),
            "positions": np.array([position for labels in sets for position in labels], np.int64),
            "items": np.array([self.tallies[labels].items for labels in sets], np.int64),
            "code_sums": np.array([self.tallies[labels].code_sum for labels in sets], np.int64).reshape(
                -1, self.code_bits
            ),
            "gram": self.gram,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.int64]]) -> Self:
        """The inverse of `arrays`."""
        ends = np.cumsum(arrays["lengths"])
        found = cls(arrays["gram"].shape[0], gram=arrays["gram"].copy())
        for start, end, items, code_sum in zip(
            ends - arrays["lengths"], ends, arrays["items"], arrays["code_sums"], strict=True
        ):
            labels = tuple(arrays["positions"][start:end].tolist())
            found.tallies[labels] = Tally(int(items), code_sum.astype(np.int64))
        return found

    def _change(self, sets: Sequence[LabelSet], codes: Signs, *, sign: int) -> None:
        if codes.ndim != 2 or codes.shape[1] != self.code_bits or len(sets) != len(codes):
            raise ValueError(
                f"codes are {codes.shape} with {len(sets)} label sets, expected (N, {self.code_bits}) and N"
            )
        if not (np.abs(codes) == 1).all():
            raise ValueError("a code holds a value that is neither -1 nor +1")
        positions = {labels: position for position, labels in enumerate(dict.fromkeys(sets))}
        members = np.array([positions[labels] for labels in sets], dtype=np.int64)
        sums, gram = np.zeros((len(positions), self.code_bits), np.int64), np.zeros_like(self.gram)
        for start in range(0, len(codes), _CHUNK):
            chunk = codes[start : start + _CHUNK]
            np.add.at(sums, members[start : start + _CHUNK], chunk)
            wide = chunk.astype(np.float64)  # exact: whole numbers far below 2**53
            gram += np.rint(wide.T @ wide).astype(np.int64)
        counts = np.bincount(members, minlength=len(positions))
        changes = {
            labels: Tally(sign * int(counts[place]), sign * sums[place])
            for labels, place in positions.items()
        }
        for labels, change in changes.items():
            self._check(labels, change)
        for labels, change in changes.items():
            _count(self.tallies, labels, change)
        self.gram += sign * gram

    def _check(self, labels: LabelSet, change: Tally) -> None:
        known = self.tallies.get(labels, Tally(0, np.zeros(self.code_bits, np.int64)))
        if known.items + change.items < 0:
            raise ValueError(
                f"{-change.items} codes to remove from label set {labels}, which holds {known.items}"
            )
        left = known.code_sum + change.code_sum
        if (np.abs(left) > known.items + change.items).any():
            raise ValueError(
                f"label set {labels} would hold {known.items + change.items} codes that sum to {left}: "
                "others than these were counted"
            )


def _count(tallies: dict[LabelSet, Tally], labels: LabelSet, change: Tally) -> None:
    """Add to one label set; one without items is forgotten."""
    known = tallies.get(labels)
    items = change.items + (known.items if known else 0)
    if items:
        tallies[labels] = Tally(items, known.code_sum + change.code_sum if known else change.code_sum)
    else:
        tallies.pop(labels, None)


@dataclass(frozen=True, slots=True)
class LabelTotals:
    """What the pair loss derives from statistics under a registry of L labels, in float64.

    items: n. gram (c, c), code_sum (c,), label_codes (L, c): sums over items of label row times code. label_gram
    (L, L), label_total (L,): of the label rows alone.
    """

    items: int
    gram: Floats
    code_sum: Floats
    label_codes: Floats
    label_gram: Floats
    label_total: Floats


def label_totals(statistics: CodeStatistics, registry: LabelRegistry) -> LabelTotals:
    """Labels that nobody carries yet have zeros: appending them changes nothing among old items."""
    sets = statistics.sets
    rows = registry.rows(sets)  # (U, L)
    items = np.array([statistics.tallies[labels].items for labels in sets], np.float64)
    sums = np.array([statistics.tallies[labels].code_sum for labels in sets], np.float64)
    sums = sums.reshape(len(sets), statistics.code_bits)
    return LabelTotals(
        items=statistics.items,
        gram=statistics.gram.astype(np.float64),
        code_sum=sums.sum(axis=0),
        label_codes=rows.T @ sums,
        label_gram=rows.T @ (rows * items[:, None]),
        label_total=rows.T @ items,
    )
