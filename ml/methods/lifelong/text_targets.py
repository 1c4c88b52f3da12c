"""The code that a text is to have, from the integer statistics of stored codes."""

from collections.abc import Sequence

import numpy as np

from ml.methods.lifelong.labels import Floats, LabelSet
from ml.methods.lifelong.statistics import CodeStatistics, Signs


def spoken_codes(statistics: CodeStatistics, sets: Sequence[LabelSet]) -> Signs:
    """(U, c) in -1 / 0 / +1: what a text that says these label sets is taught. A set that items have as their whole
    has its codeword; part of one, a tag's name alone, the majority code of the items that carry all of it; zeros
    where nobody does.

    Ours. Label similarity asks next to nothing of a label that counts little beside its item's others, so pairs
    alone teach a head nothing of tags; the codes of those who carry one say where it lies.
    """
    words = statistics.codewords()
    parts = sorted({labels for labels in sets if labels not in words})
    known = statistics.sets
    width = 1 + max((label for labels in (*known, *parts) for label in labels), default=-1)
    asked = _flags(parts, width)
    carry_all = asked @ _flags(known, width).T == asked.sum(axis=1, keepdims=True)  # (parts, known)
    sums = np.array([statistics.tallies[labels].code_sum for labels in known], np.float64)
    totals = carry_all @ sums.reshape(len(known), statistics.code_bits)
    majority = np.where(totals >= 0, 1, -1) * carry_all.any(axis=1, keepdims=True)
    words |= dict(zip(parts, majority.astype(np.int8), strict=True))
    return np.stack([words[labels] for labels in sets])


def _flags(sets: Sequence[LabelSet], width: int) -> Floats:
    """(U, width): 1 where a set has the label."""
    flags = np.zeros((len(sets), width))
    for row, labels in zip(flags, sets, strict=True):
        row[list(labels)] = 1
    return flags
