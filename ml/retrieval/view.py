"""A gallery view: the entries one query version searches, as a value that changes by making a new one."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from ml.retrieval.columns import NO_IDS, EntryColumns, Ids, ItemColumns
from ml.retrieval.faiss_index import FaissIndex
from ml.retrieval.index import CodeIndex, EngineFactory
from ml.retrieval.items import ItemTable
from ml.retrieval.rows import EntryRows


@dataclass(frozen=True, slots=True)
class Pool:
    """The entries of one producer and the engine that searches their codes."""

    rows: EntryRows
    index: CodeIndex


@dataclass(frozen=True)
class GalleryView:
    """Base (large, possibly mapped) + delta + tombstones, split by producer.

    Readers hold one view for a whole request; `with_changes` and `compacted` return another and leave it as
    it was.
    """

    pools: Mapping[str, Pool]
    items: ItemTable
    code_bits: int
    dimension: int
    engine: EngineFactory = field(default=FaissIndex.build, repr=False, compare=False)

    @classmethod
    def build(
        cls, entries: EntryColumns, items: ItemColumns, *, engine: EngineFactory = FaissIndex.build
    ) -> Self:
        """A view whose base is `entries`, in any order.

        Rows already ordered by (producer, entry id), as `compacted_entries` and snapshots give them, are
        shared, not copied. Raises ValueError on a repeated entry id or an entry of an item that is not in
        `items`.
        """
        _check_unique(entries.entry_ids)
        pools = {}
        for name in entries.producer_names:
            own = entries.of_producer(name)
            if len(own):
                pools[name] = Pool(EntryRows.of(own), engine(name, own, items))
        return cls(pools, ItemTable.of(items), entries.code_bits, entries.dimension, engine)

    def __len__(self) -> int:
        return sum(len(pool.rows) for pool in self.pools.values())

    @property
    def counts_by_producer(self) -> dict[str, int]:
        """Entries that can be found, per producer; producers without any are left out."""
        return {name: len(pool.rows) for name, pool in self.pools.items() if len(pool.rows)}

    @property
    def changed_rows(self) -> int:
        """Delta rows + tombstones: what `compacted` would fold into the base."""
        return sum(len(pool.rows.delta) + pool.rows.dead_count for pool in self.pools.values())

    def with_changes(
        self,
        added: EntryColumns | None = None,
        removed_entry_ids: Ids = NO_IDS,
        changed_items: ItemColumns | None = None,
        removed_item_ids: Ids = NO_IDS,
    ) -> "GalleryView":
        """A new view after the changes, sharing the base; cost grows with the delta, not with the base.

        Adding an entry id already there and removing one that is not change nothing, so a change may be
        replayed. An entry both added and removed is removed. changed_items holds new items and the whole new
        state of known ones; removing an item removes its entries. Raises ValueError on an added entry whose
        item is unknown or whose code or embedding has another size.
        """
        added = added if added is not None else self._no_entries()
        changed_items = changed_items if changed_items is not None else ItemColumns.empty()
        items = self.items.with_changes(changed_items, removed_item_ids)
        added = added.taken(~np.isin(added.item_ids, removed_item_ids))
        self._check_added(added, items)
        pools = {}
        for name in dict.fromkeys((*self.pools, *added.producer_names)):
            own = added.of_producer(name)
            if name in self.pools:
                pool = self.pools[name]
                pools[name] = Pool(
                    pool.rows.with_changes(own, removed_entry_ids, removed_item_ids),
                    pool.index.updated(
                        added=own,
                        removed_entry_ids=removed_entry_ids,
                        changed_items=changed_items,
                        removed_item_ids=removed_item_ids,
                    ),
                )
            elif len(own := own.taken(~np.isin(own.entry_ids, removed_entry_ids))):
                own = own.taken(np.unique(own.entry_ids, return_index=True)[1])
                pools[name] = Pool(EntryRows.of(own), self.engine(name, own, items.compacted()))
        return replace(self, pools=pools, items=items)

    def compacted(self) -> "GalleryView":
        """The same entries with the delta folded into a new base and no tombstones. Costs O(gallery)."""
        return GalleryView.build(self.compacted_entries(), self.items.compacted(), engine=self.engine)

    def compacted_entries(self) -> EntryColumns:
        """All entries as one table ordered by (producer name, entry id)."""
        names = tuple(sorted(name for name, pool in self.pools.items() if len(pool.rows)))
        joined = EntryColumns.empty(code_bits=self.code_bits, dimension=self.dimension, producer_names=names)
        parts = [joined]
        for position, name in enumerate(names):
            part = self.pools[name].rows.compacted()
            parts.append(
                replace(part, producers=np.full(len(part), position, np.int16), producer_names=names)
            )
        return EntryColumns.concatenated(parts)

    def _no_entries(self) -> EntryColumns:
        return EntryColumns.empty(code_bits=self.code_bits, dimension=self.dimension)

    def _check_added(self, added: EntryColumns, items: ItemTable) -> None:
        if (added.code_bits, added.dimension) != (self.code_bits, self.dimension):
            raise ValueError(
                f"added entries have {added.code_bits} bits and {added.dimension} dimensions, "
                f"this view {self.code_bits} and {self.dimension}"
            )
        unknown = np.unique(added.item_ids[~items.has(added.item_ids)])
        if len(unknown):
            raise ValueError(f"added entries belong to items the view does not know: {unknown[:5].tolist()}")


def _check_unique(entry_ids: Ids) -> None:
    if len(np.unique(entry_ids)) != len(entry_ids):
        raise ValueError("an entry id is repeated")
