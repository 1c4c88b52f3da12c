"""Searching by a code alone, for whatever has no embedding: words. One code space, so producers are compared as
they are.
"""

from collections.abc import Iterable
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.columns import EntryFilter, Ids, id_array
from ml.retrieval.index import check_query
from ml.retrieval.view import GalleryView

# Entries drawn per wanted item at first; items with many photos need more, and then get them.
_FIRST_SHARE = 4
_GROWTH = 4


class CodeHit(NamedTuple):
    """An item by its entry that is nearest to a code. hamming: bits that differ."""

    item_id: int
    image_id: int
    entry_id: int
    hamming: int
    producer: str


class _Drawn(NamedTuple):
    """Entries of all producers, ascending by (distance, entry id); row i of each column belongs together."""

    hamming: NDArray[np.int64]
    entry_ids: Ids
    item_ids: Ids
    image_ids: Ids
    producers: NDArray[np.int64]  # positions in the view's pools

    def taken(self, rows: NDArray[np.intp]) -> "_Drawn":
        return _Drawn(*(column[rows] for column in self))


def search(
    view: GalleryView,
    packed_code: NDArray[np.uint8],
    *,
    k: int,
    max_hamming: int | None = None,
    where: EntryFilter | None = None,
) -> tuple[CodeHit, ...]:
    """The k items nearest to `packed_code` (L // 8,) uint8 that pass `where`, each by its nearest entry, ascending by
    (distance, entry id); with `max_hamming` none that differs in more bits.

    Exact where the engine is: pools grow until k items are certain. Raises ValueError on k < 1 or a code of
    another length or dtype.
    """
    check_query(packed_code, view.code_bits, k)
    limit = view.code_bits if max_hamming is None else max_hamming
    size = _FIRST_SHARE * k
    while True:
        drawn, certain = _drawn(view, packed_code, size, where)
        # Beyond the last place of a full pool an entry of its producer may be missing.
        known = np.lexsort((drawn.entry_ids, drawn.hamming))
        drawn = drawn.taken(known)
        sure = (drawn.hamming < certain) & (drawn.hamming <= limit)
        firsts = np.sort(np.unique(drawn.item_ids[sure], return_index=True)[1])
        if len(firsts) >= k or certain > limit:
            return _hits(view, drawn, firsts[:k])
        size *= _GROWTH


def hits_of_items(
    view: GalleryView, packed_code: NDArray[np.uint8], item_ids: Iterable[int]
) -> dict[int, CodeHit]:
    """Item id -> its entry nearest to `packed_code` (ties to the smaller entry id); items without an entry are left
    out. Raises ValueError on a code of another length or dtype.
    """
    check_query(packed_code, view.code_bits, 1)
    wanted = id_array(item_ids)
    parts = []
    for position, pool in enumerate(view.pools.values()):
        rows = pool.rows.rows_of_items(wanted)
        distances = np.bitwise_count(pool.rows.codes_at(rows) ^ packed_code).sum(axis=1, dtype=np.int64)
        parts.append(_columns(view, position, pool.rows.entry_ids_at(rows), distances))
    drawn = _joined(parts)
    drawn = drawn.taken(np.lexsort((drawn.entry_ids, drawn.hamming)))
    firsts = np.unique(drawn.item_ids, return_index=True)[1]
    return {hit.item_id: hit for hit in _hits(view, drawn, firsts)}


def _drawn(
    view: GalleryView, packed_code: NDArray[np.uint8], size: int, where: EntryFilter | None
) -> tuple[_Drawn, float]:
    """`size` entries of each producer, and the distance below which none is missing (infinite: none at all)."""
    parts, certain = [], inf
    for position, pool in enumerate(view.pools.values()):
        matches = pool.index.search(packed_code, size, where)
        if len(matches) >= size:
            certain = min(certain, float(matches.hamming[-1]))
        parts.append(_columns(view, position, matches.entry_ids, matches.hamming.astype(np.int64)))
    return _joined(parts), certain


def _columns(view: GalleryView, position: int, entry_ids: Ids, hamming: NDArray[np.int64]) -> _Drawn:
    entries = [*view.pools.values()][position].rows
    rows = entries.rows_of(entry_ids)
    known = rows >= 0  # an engine shared by several processes may be ahead of this view
    rows = rows[known]
    return _Drawn(
        hamming[known],
        entry_ids[known],
        entries.item_ids_at(rows),
        entries.image_ids_at(rows),
        np.full(len(rows), position, np.int64),
    )


def _joined(parts: list[_Drawn]) -> _Drawn:
    nothing = np.empty(0, np.int64)
    empty = _Drawn(nothing, nothing, nothing, nothing, nothing)
    return _Drawn(*(np.concatenate(columns) for columns in zip(*parts, strict=True))) if parts else empty


def _hits(view: GalleryView, drawn: _Drawn, rows: NDArray[np.intp]) -> tuple[CodeHit, ...]:
    names = [*view.pools]
    return tuple(
        CodeHit(item_id, image_id, entry_id, hamming, names[producer])
        for hamming, entry_id, item_id, image_id, producer in zip(
            *(column[rows].tolist() for column in drawn), strict=True
        )
    )
