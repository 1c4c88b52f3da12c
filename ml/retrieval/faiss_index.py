"""The default engine: an exact FAISS Hamming scan, filter plans, and an inverted file for large galleries.

FAISS's own selectors make its binary scan slower than no filter and its binary inverted file refuses them, so
filters act here. Which plan answers depends on the share of rows that pass:

* up to `gather_share` the codes that pass are copied into one block, kept for the next query with the same
  filter, and that block alone is scanned;
* above it everything is scanned for more than asked and what does not pass is dropped, growing until k are
  left.

Both are exact. Measured by `benchmarks/filters.py` (docs/results/bench_filters.json) at 100,000 rows: for a
filter seen before gathering wins at every share tried; for a new one only up to a quarter to a half, so the
limit of three quarters favours filters that come back and spares the copy where it saves least.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Self

import faiss
import numpy as np
from numpy.typing import NDArray

from ml.retrieval.columns import EntryColumns, EntryFilter, Ids, ItemColumns, Rows
from ml.retrieval.index import CodeMatches, check_query
from ml.retrieval.items import ItemTable
from ml.retrieval.rows import EntryRows
from ml.retrieval.scan import NOTHING, Nearest, nearest, nearest_accepted

# Bytes of masks and gathered codes one engine keeps for filters it has seen.
SCOPE_CACHE_BYTES = 64 * 2**20
_NO_LIMIT = 2**40


@dataclass(frozen=True, slots=True)
class FaissSettings:
    """How the engine chooses its plan.

    ivf_from_rows: base rows from which unfiltered queries use an inverted file; None = never (always exact).
    lists: its inverted lists. probes: how many of them a query reads. train_rows: rows its centroids are
    fitted on. max_ivf_k: larger answers are scanned exactly, so a growing pool always reaches the last entry.
    gather_share: a filter that keeps at most this share of the rows is answered by the gather plan.
    """

    ivf_from_rows: int | None = 300_000
    lists: int = 1024
    probes: int = 32
    train_rows: int = 65_536
    max_ivf_k: int = 4096
    gather_share: float = 0.75


@dataclass(frozen=True, slots=True)
class _Scope:
    """A filter applied to one block: which rows pass, and a copy of their codes when the gather plan is to be
    used.
    """

    mask: NDArray[np.bool_]
    count: int
    rows: Rows | None
    codes: NDArray[np.uint8] | None

    @property
    def share(self) -> float:
        return self.count / max(len(self.mask), 1)

    @property
    def size_bytes(self) -> int:
        gathered = 0 if self.rows is None or self.codes is None else self.rows.nbytes + self.codes.nbytes
        return self.mask.nbytes + gathered


class FaissIndex:
    """Immutable: every change gives a new index that shares the base arrays and the inverted file."""

    def __init__(
        self,
        rows: EntryRows,
        items: ItemTable,
        base_slots: NDArray[np.int32],
        ivf: "faiss.IndexBinaryIVF | None",
        settings: FaissSettings,
    ) -> None:
        self._rows = rows
        self._items = items
        self._base_slots = base_slots
        self._delta_slots = items.slots_of(rows.delta.item_ids)
        self._ivf = ivf
        self._settings = settings
        self._scopes: OrderedDict[EntryFilter, tuple[_Scope, _Scope]] = OrderedDict()
        self._scopes_lock = Lock()

    @classmethod
    def build(
        cls,
        producer: str,
        entries: EntryColumns,
        items: ItemColumns,
        *,
        settings: FaissSettings | None = None,
    ) -> Self:
        """An index over `entries` (one producer, ascending by entry id). Raises ValueError on an unlisted
        item.
        """
        settings = settings or FaissSettings()
        table = ItemTable.of(items)
        slots = table.slots_of(entries.item_ids)
        if len(slots) and slots.min() < 0:
            missing = np.unique(entries.item_ids[slots < 0])[:5].tolist()
            raise ValueError(f"entries of producer {producer} belong to items that are not listed: {missing}")
        wanted = settings.ivf_from_rows is not None and len(entries) >= settings.ivf_from_rows
        ivf = _inverted_file(entries.codes, settings) if wanted else None
        return cls(EntryRows.of(entries), table, slots, ivf, settings)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def is_exact(self) -> bool:
        """False when unfiltered answers may miss entries (an inverted file is in use)."""
        return self._ivf is None

    @property
    def remembered_bytes(self) -> int:
        """Memory held for filters seen before."""
        with self._scopes_lock:
            return _bytes_of(self._scopes)

    def updated(
        self,
        *,
        added: EntryColumns,
        removed_entry_ids: Ids,
        changed_items: ItemColumns,
        removed_item_ids: Ids,
    ) -> "FaissIndex":
        return FaissIndex(
            self._rows.with_changes(added, removed_entry_ids, removed_item_ids),
            self._items.with_changes(changed_items, removed_item_ids),
            self._base_slots,
            self._ivf,
            self._settings,
        )

    def search(self, packed_code: NDArray[np.uint8], k: int, where: EntryFilter | None = None) -> CodeMatches:
        base, delta = self._rows.base, self._rows.delta
        check_query(packed_code, base.code_bits, k)
        k = min(k, len(self))
        if k == 0:
            return CodeMatches(NOTHING[1], NOTHING[0])
        if where is None or where.is_open:
            near = self._unfiltered_base(packed_code, k)
            near_delta = nearest(delta.codes, packed_code, k) if len(delta) else NOTHING
        else:
            base_scope, delta_scope = self._scoped(where.scope)
            near = _in_scope(base, base_scope, packed_code, k, where)
            near_delta = _in_scope(delta, delta_scope, packed_code, k, where) if len(delta) else NOTHING
        return _merged(base.entry_ids, near, delta.entry_ids, near_delta, k)

    def _unfiltered_base(self, packed_code: NDArray[np.uint8], k: int) -> Nearest:
        codes, dead, gone = self._rows.base.codes, self._rows.dead, self._rows.dead_count
        if self._ivf is not None and k <= self._settings.max_ivf_k:
            near = self._probed(self._ivf, packed_code, k)
            if len(near[0]) >= k:
                return near
        if dead is None:
            return nearest(codes, packed_code, k)
        share = (len(codes) - gone) / len(codes)
        return nearest_accepted(codes, packed_code, k, accept=lambda rows: ~dead[rows], share=share)

    def _probed(self, ivf: "faiss.IndexBinaryIVF", packed_code: NDArray[np.uint8], k: int) -> Nearest:
        """Up to k rows found by the inverted file; fewer when its probed lists hold fewer."""
        taken = k if self._rows.dead is None else k + min(self._rows.dead_count, k)
        distances, rows = ivf.search(packed_code[None], taken)
        keep = rows[0] >= 0  # FAISS fills up with -1
        if self._rows.dead is not None:
            keep &= ~self._rows.dead[rows[0]]
        near, found = distances[0][keep], rows[0][keep]
        order = np.lexsort((found, near))[:k]
        return near[order], found[order]

    def _scoped(self, scope: EntryFilter) -> tuple[_Scope, _Scope]:
        """The filter applied to base and delta, remembered while the memory allowance lasts."""
        with self._scopes_lock:
            known = self._scopes.get(scope)
            if known is not None:
                self._scopes.move_to_end(scope)
                return known
        passing, share = self._items.passing(scope), self._settings.gather_share
        scoped = (
            _scope(self._rows.base, self._base_slots, passing, self._rows.dead, gather_share=share),
            _scope(self._rows.delta, self._delta_slots, passing, None, gather_share=share),
        )
        with self._scopes_lock:
            self._scopes[scope] = scoped
            while len(self._scopes) > 1 and _bytes_of(self._scopes) > SCOPE_CACHE_BYTES:
                self._scopes.popitem(last=False)
        return scoped


def _bytes_of(scopes: OrderedDict[EntryFilter, tuple[_Scope, _Scope]]) -> int:
    return sum(scope.size_bytes for pair in scopes.values() for scope in pair)


def _inverted_file(codes: NDArray[np.uint8], settings: FaissSettings) -> "faiss.IndexBinaryIVF":
    bits = codes.shape[1] * 8
    # The Python layer of FAISS keeps the quantizer alive with the index.
    ivf = faiss.IndexBinaryIVF(
        faiss.IndexBinaryFlat(bits), bits, min(settings.lists, max(1, len(codes) // 39))
    )
    step = max(1, len(codes) // settings.train_rows)
    ivf.train(np.ascontiguousarray(codes[::step]))
    ivf.add(codes)
    ivf.nprobe = min(settings.probes, ivf.nlist)
    # The counting scanner takes half the time, but reads FAISS's "no limit" of 0 as "no codes" and then
    # finds nothing (facebookresearch/faiss issue 5555), so the limit is spelled out.
    ivf.use_heap = False
    ivf.max_codes = _NO_LIMIT
    return ivf


def _scope(
    entries: EntryColumns,
    slots: NDArray[np.int32],
    passing: NDArray[np.bool_],
    dead: NDArray[np.bool_] | None,
    *,
    gather_share: float,
) -> _Scope:
    mask = passing[slots]
    if dead is not None:
        mask &= ~dead
    count = int(np.count_nonzero(mask))
    if count > gather_share * len(mask):
        return _Scope(mask, count, None, None)
    rows = np.flatnonzero(mask)
    return _Scope(mask, count, rows, entries.codes.take(rows, axis=0))


def _in_scope(
    entries: EntryColumns, scope: _Scope, packed_code: NDArray[np.uint8], k: int, where: EntryFilter
) -> Nearest:
    if not scope.count:
        return NOTHING
    allowed = partial(_not_excluded, entries, where) if where.has_exclusions else None
    if scope.rows is None or scope.codes is None:
        mask = scope.mask
        return nearest_accepted(
            entries.codes,
            packed_code,
            min(k, scope.count),
            accept=mask.take if allowed is None else lambda rows: mask[rows] & allowed(rows),
            share=scope.share,
        )
    inside = scope.rows
    if allowed is None:
        distances, found = nearest(scope.codes, packed_code, k)
    else:
        distances, found = nearest_accepted(
            scope.codes, packed_code, k, accept=lambda rows: allowed(inside[rows]), share=1.0
        )
    return distances, inside.take(found)


def _not_excluded(entries: EntryColumns, where: EntryFilter, rows: Rows) -> NDArray[np.bool_]:
    image_ids, item_ids = where.exclusions
    allowed = np.ones(len(rows), np.bool_)
    if len(image_ids):
        allowed &= ~np.isin(entries.image_ids[rows], image_ids)
    if len(item_ids):
        allowed &= ~np.isin(entries.item_ids[rows], item_ids)
    return allowed


def _merged(base_ids: Ids, near: Nearest, delta_ids: Ids, near_delta: Nearest, k: int) -> CodeMatches:
    if not len(near_delta[0]):
        return CodeMatches(base_ids.take(near[1]), near[0])
    distances = np.concatenate([near[0], near_delta[0]])
    ids = np.concatenate([base_ids.take(near[1]), delta_ids.take(near_delta[1])])
    order = np.lexsort((ids, distances))[:k]
    return CodeMatches(ids[order], distances[order])
