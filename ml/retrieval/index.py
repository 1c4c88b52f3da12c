"""The engine under a gallery view: nearest codes of one producer, inside a filter, kept up to date.

Adapters: `naive` (the oracle), `faiss_index` (default), `milvus_index` (a cluster). One conformance suite
runs against all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.columns import EntryColumns, EntryFilter, Ids, ItemColumns


@dataclass(frozen=True, slots=True)
class CodeMatches:
    """Entries nearest to a code: entry_ids and hamming, (n,) each, ascending by (hamming, entry id)."""

    entry_ids: Ids
    hamming: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.entry_ids)


class CodeIndex(Protocol):
    """Nearest codes among the entries of one producer."""

    def search(self, packed_code: NDArray[np.uint8], k: int, where: EntryFilter | None = None) -> CodeMatches:
        """The k entries nearest to `packed_code` (L // 8,) uint8 among those that pass `where`.

        Fewer than k only when fewer pass. Ties at the last place go to the smaller entry id. Raises
        ValueError on k < 1 or a code of another length or dtype.
        """
        ...

    def updated(
        self,
        *,
        added: EntryColumns,
        removed_entry_ids: Ids,
        changed_items: ItemColumns,
        removed_item_ids: Ids,
    ) -> "CodeIndex":
        """The index after these changes; this one goes on answering for the old state.

        Adding an entry already there, or removing one that is not, changes nothing; an entry both added and
        removed is removed. Removing an item removes its entries.
        """
        ...

    def __len__(self) -> int:
        """How many entries can be found."""
        ...


EngineFactory = Callable[[str, EntryColumns, ItemColumns], CodeIndex]
"""(producer name, its entries ascending by entry id, all items) -> an index over them."""


def check_query(packed_code: NDArray[np.uint8], code_bits: int, k: int) -> None:
    """Raise ValueError unless `packed_code` is (code_bits // 8,) uint8 and k >= 1."""
    if packed_code.dtype != np.uint8 or packed_code.shape != (code_bits // 8,):
        raise ValueError(
            f"the code is {packed_code.dtype} {packed_code.shape}, expected uint8 ({code_bits // 8},)"
        )
    if k < 1:
        raise ValueError(f"k is {k}, it must be at least 1")
