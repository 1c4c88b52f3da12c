"""The oracle: every code compared with every entry in plain numpy, sharing no code with the other adapters.

It keeps one Python record per entry and item and sorts them all on each search, so it is slow on purpose.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.columns import EntryColumns, EntryFilter, Ids, ItemColumns
from ml.retrieval.index import CodeMatches


@dataclass(frozen=True, slots=True)
class _Entry:
    image_id: int
    item_id: int
    code: bytes


@dataclass(frozen=True, slots=True)
class _Item:
    category_id: int
    vertical: int
    price: float | None
    tag_ids: frozenset[int]


class NaiveIndex:
    """A dictionary of entries, scanned in full."""

    def __init__(self, entries: Mapping[int, _Entry], items: Mapping[int, _Item], code_bytes: int) -> None:
        self._entries = entries
        self._items = items
        self._code_bytes = code_bytes

    @classmethod
    def build(cls, producer: str, entries: EntryColumns, items: ItemColumns) -> "NaiveIndex":  # noqa: ARG003 - EngineFactory
        return cls(_entry_records(entries), _item_records(items), entries.codes.shape[1])

    def __len__(self) -> int:
        return len(self._entries)

    def search(self, packed_code: NDArray[np.uint8], k: int, where: EntryFilter | None = None) -> CodeMatches:
        if packed_code.dtype != np.uint8 or packed_code.shape != (self._code_bytes,):
            raise ValueError(f"the code is {packed_code.dtype} {packed_code.shape}")
        if k < 1:
            raise ValueError(f"k is {k}, it must be at least 1")
        asked = np.unpackbits(packed_code)
        ranked = sorted(
            (int((np.unpackbits(np.frombuffer(entry.code, np.uint8)) != asked).sum()), entry_id)
            for entry_id, entry in self._entries.items()
            if where is None or _passes(entry, self._items[entry.item_id], where)
        )[:k]
        return CodeMatches(
            np.array([entry_id for _, entry_id in ranked], np.int64),
            np.array([distance for distance, _ in ranked], np.int32),
        )

    def updated(
        self,
        *,
        added: EntryColumns,
        removed_entry_ids: Ids,
        changed_items: ItemColumns,
        removed_item_ids: Ids,
    ) -> "NaiveIndex":
        gone_items = set(removed_item_ids.tolist())
        gone_entries = set(removed_entry_ids.tolist())
        items = {**self._items, **_item_records(changed_items)}
        entries = {**_entry_records(added), **self._entries}
        return NaiveIndex(
            {
                entry_id: entry
                for entry_id, entry in entries.items()
                if entry_id not in gone_entries and entry.item_id not in gone_items
            },
            {item_id: item for item_id, item in items.items() if item_id not in gone_items},
            self._code_bytes,
        )


def _entry_records(entries: EntryColumns) -> dict[int, _Entry]:
    return {
        int(entry_id): _Entry(int(image_id), int(item_id), code.tobytes())
        for entry_id, image_id, item_id, code in zip(
            entries.entry_ids, entries.image_ids, entries.item_ids, entries.codes
        )
    }


def _item_records(items: ItemColumns) -> dict[int, _Item]:
    tags: dict[int, set[int]] = {row: set() for row in range(len(items))}
    for tag_id, row in zip(items.tag_ids.tolist(), items.tag_rows.tolist()):
        tags[row].add(tag_id)
    return {
        int(item_id): _Item(
            int(items.category_ids[row]),
            int(items.verticals[row]),
            None if np.isnan(items.prices[row]) else float(items.prices[row]),
            frozenset(tags[row]),
        )
        for row, item_id in enumerate(items.item_ids)
    }


def _passes(entry: _Entry, item: _Item, where: EntryFilter) -> bool:
    if entry.image_id in where.excluded_image_ids or entry.item_id in where.excluded_item_ids:
        return False
    if where.category_ids is not None and item.category_id not in where.category_ids:
        return False
    if where.vertical is not None and item.vertical != where.vertical:
        return False
    if not where.tag_ids <= item.tag_ids:
        return False
    if where.price_min is None and where.price_max is None:
        return True
    low = float(
        np.float32(-np.inf if where.price_min is None else where.price_min)
    )  # prices are stored as float32
    high = float(np.float32(np.inf if where.price_max is None else where.price_max))
    return item.price is not None and low <= item.price <= high
