"""Average precision of many queries whose rankings hold groups of equal scores, in closed form."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Values = NDArray[np.float64]
Flags = NDArray[np.bool_]


def harmonic_numbers(size: int) -> Values:
    """(size + 1,) H(0) .. H(size)."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, size + 1))])


@dataclass(frozen=True, slots=True)
class TieGroups:
    """Groups of equal scores of several queries, row by row of the columns, by query and then by place; those
    that hold nothing relevant may be missing.
    """

    query: Counts  # from 0
    start: Counts  # place of the group's first entry in the ranking, from 0
    size: Counts
    relevant: Counts
    before: Counts  # relevant entries ranked above the group
    harmonic: Values  # harmonic numbers H(0) .. H(N)
    queries: int

    @classmethod
    def of_ranked(cls, is_first: Flags, relevant: Flags) -> Self:
        """Rankings (Q, M), best first, M >= 1: is_first where a score differs from the one before it."""
        count, depth = relevant.shape
        is_first = is_first.copy()
        is_first[:, 0] = True
        places = np.flatnonzero(is_first)
        found = np.add.reduceat(relevant.ravel(), places, dtype=np.int64)
        query = places // depth
        before = np.cumsum(found) - found
        before -= before[np.searchsorted(query, np.arange(count))][query]
        sizes = np.diff(np.append(places, count * depth))
        return cls(query, places % depth, sizes, found, before, harmonic_numbers(depth), count)

    def precision_at(self, k: int, wanted: Counts) -> Values:
        """(Q,) average precision at k, divided by the smaller of k and `wanted`, the relevant entries."""
        return self.precision_sums(np.full(self.queries, k)) / np.maximum(1, np.minimum(k, wanted))

    def precision_sums(self, depths: Counts) -> Values:
        """Per query the expected sum, over relevant entries in the first depths[query] places, of precision.

        A relevant entry at place i (from 0) of a group of n with r relevant has on average i(r - 1)/(n - 1)
        relevant ones of its group above it (McSherry and Najork, ECIR 2008), so a group starting at s adds
        r/n * sum over i of (before + 1 + i(r - 1)/(n - 1)) / (s + 1 + i), summed here in closed form.
        """
        places = np.clip(depths[self.query] - self.start, 0, self.size)
        growth = (self.relevant - 1) / np.maximum(self.size - 1, 1)
        spread = self.harmonic[self.start + places] - self.harmonic[self.start]
        base = self.before + 1 - growth * (self.start + 1)
        added = self.relevant / self.size * (growth * places + base * spread)
        sums: Values = np.bincount(self.query, weights=added, minlength=self.queries).astype(np.float64)
        return sums
