"""The items of a view as a large immutable base plus a small set of changes, and which of them pass a filter.

Every item has a slot: its row in the base, or, for an item the base never had, the number of base rows plus
its position among the new ones. Entries refer to slots, so a changed item needs no change to its entries.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.columns import NO_IDS, EntryFilter, Ids, ItemColumns


@dataclass(frozen=True)
class ItemTable:
    """Base items, the newest state of those changed since, the slots added since, and the ids removed since.

    new_item_ids stand in the order their slots were given out and are never reused, so a slot stays valid for
    the life of the base.
    """

    base: ItemColumns
    changes: ItemColumns
    new_item_ids: Ids
    removed_item_ids: Ids

    @classmethod
    def of(cls, items: ItemColumns) -> Self:
        return cls(items, ItemColumns.empty(), NO_IDS, NO_IDS)

    def __len__(self) -> int:
        return len(self.base) + len(self.new_item_ids) - len(self.removed_item_ids)

    def with_changes(self, changed: ItemColumns, removed_item_ids: Ids) -> "ItemTable":
        """The table after the changes; an id both changed and removed is removed, an unknown removed id
        ignored.
        """
        removed_now = np.unique(removed_item_ids)
        known = self.slots_of(changed.item_ids) >= 0
        new_item_ids = np.concatenate([self.new_item_ids, changed.item_ids[~known]])
        kept = np.flatnonzero(~np.isin(self.changes.item_ids, changed.item_ids))
        changes = self.changes.taken(kept).joined(changed)
        changes = changes.taken(np.flatnonzero(~np.isin(changes.item_ids, removed_now)))
        table = ItemTable(self.base, changes, new_item_ids, NO_IDS)
        revived = np.setdiff1d(self.removed_item_ids, changed.item_ids)
        gone = np.union1d(revived, removed_now[table.slots_of(removed_now) >= 0])
        return ItemTable(self.base, changes, new_item_ids, gone)

    def slots_of(self, item_ids: Ids) -> NDArray[np.int32]:
        """Slot of each item id, -1 for one this table never had. A removed item keeps its slot."""
        slots = _positions(self.base.item_ids, item_ids)
        missing = np.flatnonzero(slots < 0)
        if len(missing) and len(self.new_item_ids):
            order = self._new_order
            found = _positions(self.new_item_ids[order], item_ids[missing])
            hit = found >= 0
            slots[missing[hit]] = order[found[hit]] + len(self.base)
        return slots

    def has(self, item_ids: Ids) -> NDArray[np.bool_]:
        """Which of `item_ids` are in the table now."""
        return (self.slots_of(item_ids) >= 0) & ~np.isin(item_ids, self.removed_item_ids)

    def passing(self, where: EntryFilter) -> NDArray[np.bool_]:
        """(slots,) which items pass category, vertical, tags and price of `where`; its exclusions are not
        looked at.
        """
        passes = np.zeros(len(self.base) + len(self.new_item_ids), np.bool_)
        passes[: len(self.base)] = _passing(self.base, where)
        if len(self.changes):
            passes[self.slots_of(self.changes.item_ids)] = _passing(self.changes, where)
        if len(self.removed_item_ids):
            passes[self.slots_of(self.removed_item_ids)] = False
        return passes

    def attributes_of(self, item_ids: Ids) -> list[tuple[int, int, float | None, tuple[int, ...]]]:
        """(category id, vertical, price, tag ids) of each item. Raises KeyError on an unknown item."""
        known = {**_attributes(self.base, item_ids), **_attributes(self.changes, item_ids)}
        return [known[item_id] for item_id in item_ids.tolist()]

    def compacted(self) -> ItemColumns:
        """All items of the table as one."""
        if not len(self.changes) and not len(self.removed_item_ids):
            return self.base
        replaced = np.isin(self.base.item_ids, self.changes.item_ids) | np.isin(
            self.base.item_ids, self.removed_item_ids
        )
        return self.base.taken(np.flatnonzero(~replaced)).joined(self.changes)

    @cached_property
    def _new_order(self) -> NDArray[np.intp]:
        return np.argsort(self.new_item_ids, kind="stable")


def _attributes(
    items: ItemColumns, item_ids: Ids
) -> dict[int, tuple[int, int, float | None, tuple[int, ...]]]:
    rows = _positions(items.item_ids, np.unique(item_ids))
    rows = rows[rows >= 0]
    tags: dict[int, list[int]] = {}
    tagged = np.isin(items.tag_rows, rows)
    for tag_id, row in zip(items.tag_ids[tagged].tolist(), items.tag_rows[tagged].tolist()):
        tags.setdefault(row, []).append(tag_id)
    return {
        int(items.item_ids[row]): (
            int(items.category_ids[row]),
            int(items.verticals[row]),
            None if np.isnan(items.prices[row]) else float(items.prices[row]),
            tuple(tags.get(row, ())),
        )
        for row in rows.tolist()
    }


def _positions(ascending: Ids, wanted: Ids) -> NDArray[np.int32]:
    """Position of each wanted id in `ascending`, -1 where it is not there."""
    if not len(ascending):
        return np.full(len(wanted), -1, np.int32)
    at = np.searchsorted(ascending, wanted).clip(max=len(ascending) - 1)
    return np.where(ascending[at] == wanted, at, -1).astype(np.int32)


def _passing(items: ItemColumns, where: EntryFilter) -> NDArray[np.bool_]:
    passes = np.ones(len(items), np.bool_)
    if where.category_ids is not None:
        passes &= np.isin(items.category_ids, np.fromiter(where.category_ids, np.int32))
    if where.vertical is not None:
        passes &= items.verticals == where.vertical
    for tag_id in where.tag_ids:
        tagged = np.zeros(len(items), np.bool_)
        tagged[items.rows_of_tag(tag_id)] = True
        passes &= tagged
    # The bound is rounded as the stored prices were, so an item exactly at it passes; NaN never does.
    if where.price_min is not None:
        passes &= items.prices >= np.float32(where.price_min)
    if where.price_max is not None:
        passes &= items.prices <= np.float32(where.price_max)
    return passes
