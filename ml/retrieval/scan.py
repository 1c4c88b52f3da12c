"""Exact nearest codes in one contiguous block of rows, by FAISS's counting Hamming scan over the array
itself.

No FAISS index object is made: the scan reads the given memory, so a mapped snapshot is searched where it lies
and adding, removing and opening cost nothing here.
"""

from collections.abc import Callable
from math import ceil

import faiss
import numpy as np
from numpy.typing import NDArray

from ml.retrieval.columns import Rows

Accept = Callable[[Rows], NDArray[np.bool_]]
"""Rows of a block -> which of them may be in the answer."""

Nearest = tuple[NDArray[np.int32], Rows]
"""Hamming distances and rows, ascending by (distance, row)."""

NOTHING: Nearest = (np.empty(0, np.int32), np.empty(0, np.intp))

# A scan that found too little takes at least this many times more rows the next time.
_GROWTH = 4


def nearest(codes: NDArray[np.uint8], packed_code: NDArray[np.uint8], k: int) -> Nearest:
    """The min(k, N) rows of `codes` (N, L // 8) nearest to `packed_code` (L // 8,).

    FAISS's counting variant keeps rows of equal distance in row order and drops the later ones first, so the
    answer is exact by (distance, row); the conformance suite holds it to that.
    """
    k = min(k, len(codes))
    if k == 0:
        return NOTHING
    distances, rows = faiss.knn_hamming(packed_code[None], codes, k, variant="mc")
    return distances[0], rows[0]


def nearest_accepted(
    codes: NDArray[np.uint8], packed_code: NDArray[np.uint8], k: int, *, accept: Accept, share: float
) -> Nearest:
    """The min(k, accepted) nearest rows that `accept` lets through, exactly.

    Scans everything for more rows than asked (as many as `share`, the expected share of accepted rows in (0,
    1], suggests), drops what is refused, and takes more until k are left or every row was seen: what is
    accepted of the m nearest rows is always a prefix of what is accepted of all.
    """
    taken = min(len(codes), ceil(1.25 * k / max(share, 1e-9)) + 8)
    while True:
        distances, rows = nearest(codes, packed_code, taken)
        accepted = accept(rows)
        found = int(np.count_nonzero(accepted))
        if found >= k or taken >= len(codes):
            kept = np.flatnonzero(accepted)[:k]
            return distances[kept], rows[kept]
        hoped = ceil(taken * 1.25 * k / max(found, 1))
        taken = min(len(codes), max(_GROWTH * taken, hoped))
