"""Which row stands for a photo in the gallery of a query version: the view rule, on plain columns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class VersionNumber:
    """`M.m`: M rises with an upgrade of the encoder, m with a lifelong increment.

    is_abandoned: of a producer, an increment that the query version was not learned on, for somebody went back before.
    """

    major: int
    minor: int
    is_abandoned: bool = False

    @property
    def name(self) -> str:
        return f"{self.major}.{self.minor}"


def preference(query: VersionNumber, producer: VersionNumber) -> Key:
    """How far `producer` is from the first choice of `query`; the smallest key is taken.

    The row of M with the highest increment <= m that the query version was learned on; else of M with the lowest > m;
    else of M with the highest that was abandoned; else of the nearest older M (there the highest increment, which is
    nearest); else of the nearest newer M (there the lowest).
    """
    if producer.major == query.major:
        ahead = producer.minor - query.minor
        if producer.is_abandoned:
            return (2, -ahead, 0)
        return (0, -ahead, 0) if ahead <= 0 else (1, ahead, 0)
    if producer.major < query.major:
        return (3, query.major - producer.major, -producer.minor)
    return (4, producer.major - query.major, producer.minor)


def rows_in_view(
    image_ids: NDArray[np.int64],
    producers: NDArray[np.integer],
    producer_numbers: Sequence[VersionNumber],
    query: VersionNumber,
) -> NDArray[np.intp]:
    """Ascending rows that stand for their photo in the view of `query`, exactly one per photo.

    image_ids (N,) and producers (N,), positions in `producer_numbers`, belong together row by row; a photo and a
    producer meet in at most one row. Producers outside the query's lineage must have been left out before.
    """
    if not len(image_ids):
        return np.empty(0, np.intp)
    keys = [preference(query, number) for number in producer_numbers]
    rank = np.argsort(sorted(range(len(keys)), key=keys.__getitem__))
    order = np.lexsort((rank[producers], image_ids))
    first = np.r_[True, image_ids[order][1:] != image_ids[order][:-1]]
    chosen: NDArray[np.intp] = np.sort(order[first])
    return chosen
