"""The entries of one producer as a large immutable base, a small delta and tombstones over the base.

A row is a position in the base, or the number of base rows plus a position in the delta. Both parts ascend by
entry id, so row order within a part is entry id order.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.columns import EntryColumns, Ids, Rows

# Span of ids per entry up to which a direct table (4 bytes per id) replaces binary search.
_TABLE_SPAN = 4


@dataclass(frozen=True)
class EntryRows:
    """One producer's entries. `dead` (base rows,) bool marks removed base rows, None when there are none.

    The delta never holds an entry id that is in the base: removing drops a delta row, adding a dead base row
    again clears its mark (an entry is immutable, so the same id is the same content).
    """

    base: EntryColumns
    delta: EntryColumns
    dead: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, entries: EntryColumns) -> "EntryRows":
        """Rows over `entries`, which ascend by entry id and have one producer."""
        return cls(entries, entries.taken(slice(0, 0)))

    def __len__(self) -> int:
        return len(self.base) + len(self.delta) - self.dead_count

    @cached_property
    def dead_count(self) -> int:
        return 0 if self.dead is None else int(np.count_nonzero(self.dead))

    def with_changes(self, added: EntryColumns, removed_entry_ids: Ids, removed_item_ids: Ids) -> "EntryRows":
        """The rows after the changes. An entry both added and removed is removed."""
        dead = self._dead_after(added.entry_ids, removed_entry_ids, removed_item_ids)
        new = ~np.isin(added.entry_ids, self.delta.entry_ids) & (self._base_lookup.rows(added.entry_ids) < 0)
        delta = self.delta
        if new.any():
            delta = EntryColumns.concatenated([delta, added.taken(new)])
            _, first = np.unique(delta.entry_ids, return_index=True)  # ascending, and a repeat kept once
            delta = delta.taken(first)
        gone = np.isin(delta.entry_ids, removed_entry_ids) | np.isin(delta.item_ids, removed_item_ids)
        if gone.any():
            delta = delta.taken(~gone)
        return _sharing_lookup(EntryRows(self.base, delta, dead), self)

    def rows_of(self, entry_ids: Ids) -> Rows:
        """Row of each entry id, -1 for one that is not there or was removed."""
        rows = self._base_lookup.rows(entry_ids)
        if self.dead is not None and len(self.base):
            rows = np.where((rows >= 0) & self.dead[rows], -1, rows)
        if len(self.delta):
            at = np.searchsorted(self.delta.entry_ids, entry_ids).clip(max=len(self.delta) - 1)
            in_delta = self.delta.entry_ids[at] == entry_ids
            rows = np.where(in_delta, at + len(self.base), rows)
        return rows

    def rows_of_items(self, item_ids: Ids) -> Rows:
        """Rows of every entry of these items, ascending. Looks at all of them: some milliseconds for a million."""
        in_base = np.isin(self.base.item_ids, item_ids)
        if self.dead is not None:
            in_base &= ~self.dead
        in_delta = np.isin(self.delta.item_ids, item_ids)
        return np.concatenate([np.flatnonzero(in_base), np.flatnonzero(in_delta) + len(self.base)])

    def entry_ids_at(self, rows: Rows) -> Ids:
        return self._taken("entry_ids", rows)

    def item_ids_at(self, rows: Rows) -> Ids:
        return self._taken("item_ids", rows)

    def image_ids_at(self, rows: Rows) -> Ids:
        return self._taken("image_ids", rows)

    def codes_at(self, rows: Rows) -> NDArray[np.uint8]:
        """(n, L // 8) packed codes."""
        if not len(self.delta):
            return self.base.codes.take(rows, axis=0)
        in_base = rows < len(self.base)
        codes = np.empty((len(rows), self.base.codes.shape[1]), np.uint8)
        codes[in_base] = self.base.codes[rows[in_base]]
        codes[~in_base] = self.delta.codes[rows[~in_base] - len(self.base)]
        return codes

    def embeddings_at(self, rows: Rows) -> NDArray[np.float32]:
        """(n, D) float32 embeddings."""
        if not len(self.delta):
            return self.base.embeddings_at(rows)
        in_base = rows < len(self.base)
        embeddings = np.empty((len(rows), self.base.dimension), np.float32)
        embeddings[in_base] = self.base.embeddings_at(rows[in_base])
        embeddings[~in_base] = self.delta.embeddings_at(rows[~in_base] - len(self.base))
        return embeddings

    def compacted(self) -> EntryColumns:
        """All living entries as one table, ascending by entry id."""
        if self.dead is None and not len(self.delta):
            return self.base
        alive = self.base if self.dead is None else self.base.taken(~self.dead)
        joined = EntryColumns.concatenated([alive, self.delta])
        return joined.taken(np.argsort(joined.entry_ids, kind="stable"))

    def _dead_after(self, added: Ids, removed: Ids, removed_items: Ids) -> NDArray[np.bool_] | None:
        marked = self._base_lookup.rows(removed)
        marked = marked[marked >= 0]
        if len(removed_items):
            marked = np.concatenate([marked, np.flatnonzero(np.isin(self.base.item_ids, removed_items))])
        revived = self._base_lookup.rows(added)
        revived = revived[revived >= 0]
        if not len(marked) and (self.dead is None or not len(revived)):
            return self.dead
        dead = np.zeros(len(self.base), np.bool_) if self.dead is None else self.dead.copy()
        dead[revived] = False
        dead[marked] = True
        return dead if dead.any() else None

    def _taken(self, column: str, rows: Rows) -> Ids:
        base: Ids = getattr(self.base, column)
        if not len(self.delta):
            return base.take(rows)
        delta: Ids = getattr(self.delta, column)
        in_base = rows < len(base)
        taken = np.empty(len(rows), np.int64)
        taken[in_base] = base[rows[in_base]]
        taken[~in_base] = delta[rows[~in_base] - len(base)]
        return taken

    @cached_property
    def _base_lookup(self) -> "IdLookup":
        return IdLookup(self.base.entry_ids)


class IdLookup:
    """Position of an id in an ascending array: by subtraction where ids are gapless, by table, or by
    bisection.
    """

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._first = int(ids[0]) if len(ids) else 0
        self._span = int(ids[-1]) - self._first + 1 if len(ids) else 0
        self._table: NDArray[np.int32] | None = None
        if len(ids) < self._span <= _TABLE_SPAN * len(ids):
            self._table = np.full(self._span, -1, np.int32)
            self._table[ids - self._first] = np.arange(len(ids), dtype=np.int32)

    def rows(self, wanted: Ids) -> Rows:
        """Position of each wanted id, -1 where it is not there."""
        if not self._span:
            return np.full(len(wanted), -1, np.intp)
        offsets = wanted - self._first
        outside = (offsets < 0) | (offsets >= self._span)
        if self._table is None and self._span > len(self._ids):
            at = np.searchsorted(self._ids, wanted).clip(max=len(self._ids) - 1)
            return np.where(self._ids[at] == wanted, at, -1)
        rows = offsets if self._table is None else self._table.take(offsets, mode="clip").astype(np.intp)
        if outside.any():
            rows = np.where(outside, -1, rows)
        return rows


def _sharing_lookup(rows: EntryRows, older: EntryRows) -> EntryRows:
    """Carry the base's id lookup over, so that a change costs nothing in the size of the base."""
    rows.__dict__["_base_lookup"] = older._base_lookup  # noqa: SLF001 - same class, one file
    return rows
