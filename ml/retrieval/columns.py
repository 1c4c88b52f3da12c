"""The plain columns a gallery view is made of: one row per entry, one row per item, and the filter over them.

Arrays are treated as immutable everywhere: nothing in this package writes into one it was given.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Rows = NDArray[np.intp]
NO_IDS: Ids = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class ItemColumns:
    """One row per item, ascending by item id.

    item_ids (I,) int64, unique. category_ids (I,) int32. verticals (I,) int8. prices (I,) float32, NaN =
    none. tag_ids (P,) int64 and tag_rows (P,) int32 are parallel and sorted by (tag id, item row): tag t sits
    on the items at tag_rows[tag_ids == t].
    """

    item_ids: Ids
    category_ids: NDArray[np.int32]
    verticals: NDArray[np.int8]
    prices: NDArray[np.float32]
    tag_ids: Ids
    tag_rows: NDArray[np.int32]

    def __post_init__(self) -> None:
        _check_parallel(self, ("item_ids", "category_ids", "verticals", "prices"))
        _check_parallel(self, ("tag_ids", "tag_rows"))
        if not is_ascending(self.item_ids):
            raise ValueError("item_ids must be ascending without repeats; ItemColumns.of sorts them")

    @classmethod
    def of(
        cls,
        item_ids: Iterable[int],
        category_ids: Iterable[int],
        verticals: Iterable[int],
        prices: Iterable[float | None],
        tags: Mapping[int, Iterable[int]] | None = None,
    ) -> Self:
        """Build from parallel iterables in any order; `tags` maps a tag id to the ids of the items that carry
        it.

        Raises ValueError on a repeated item id or a tag on an item that is not listed.
        """
        ids = np.fromiter(item_ids, np.int64)
        order = np.argsort(ids, kind="stable")
        priced = np.array([np.nan if price is None else price for price in prices], np.float32)
        ids = ids[order]
        return cls(
            ids,
            np.fromiter(category_ids, np.int32)[order],
            np.fromiter(verticals, np.int8)[order],
            priced[order],
            *_tag_pairs(ids, tags or {}),
        )

    @classmethod
    def empty(cls) -> Self:
        return cls.of((), (), (), ())

    def __len__(self) -> int:
        return len(self.item_ids)

    def rows_of_tag(self, tag_id: int) -> NDArray[np.int32]:
        """Ascending rows of the items carrying `tag_id`; none for an unknown tag."""
        first, last = np.searchsorted(self.tag_ids, [tag_id, tag_id + 1])
        return self.tag_rows[first:last]

    def taken(self, rows: Rows) -> "ItemColumns":
        """The items at `rows`, which must be ascending."""
        new_row = np.full(len(self), -1, np.int32)
        new_row[rows] = np.arange(len(rows), dtype=np.int32)
        moved = new_row[self.tag_rows]
        return ItemColumns(
            self.item_ids[rows],
            self.category_ids[rows],
            self.verticals[rows],
            self.prices[rows],
            self.tag_ids[moved >= 0],
            moved[moved >= 0],
        )

    def joined(self, other: "ItemColumns") -> "ItemColumns":
        """Both sets of items, which must not overlap, in one table."""
        ids = np.concatenate([self.item_ids, other.item_ids])
        order = np.argsort(ids, kind="stable")
        new_row = np.empty(len(ids), np.int32)
        new_row[order] = np.arange(len(ids), dtype=np.int32)
        tag_ids = np.concatenate([self.tag_ids, other.tag_ids])
        tag_rows = new_row[np.concatenate([self.tag_rows, other.tag_rows + np.int32(len(self))])]
        by_tag = np.lexsort((tag_rows, tag_ids))
        return ItemColumns(
            ids[order],
            np.concatenate([self.category_ids, other.category_ids])[order],
            np.concatenate([self.verticals, other.verticals])[order],
            np.concatenate([self.prices, other.prices])[order],
            tag_ids[by_tag],
            tag_rows[by_tag],
        )


@dataclass(frozen=True, slots=True)
class EntryColumns:
    """One row per gallery entry.

    entry_ids, image_ids, item_ids (N,) int64. producers (N,) int16, positions in `producer_names`. codes (N,
    L // 8) uint8, most significant bit first. embeddings (N, D) float16, unit L2 norm before rounding.
    """

    entry_ids: Ids
    image_ids: Ids
    item_ids: Ids
    producers: NDArray[np.int16]
    codes: NDArray[np.uint8]
    embeddings: NDArray[np.float16]
    producer_names: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_parallel(self, ("entry_ids", "image_ids", "item_ids", "producers", "codes", "embeddings"))
        if self.codes.dtype != np.uint8 or self.codes.ndim != 2:
            raise ValueError(f"codes are {self.codes.dtype} {self.codes.shape}, expected uint8 (N, L // 8)")
        if self.embeddings.dtype != np.float16 or self.embeddings.ndim != 2:
            raise ValueError(
                f"embeddings are {self.embeddings.dtype} {self.embeddings.shape}, expected float16 (N, D)"
            )
        count = len(self.producer_names)
        if len(self) and not (self.producers.min() >= 0 and self.producers.max() < count):
            raise ValueError(f"producers must lie in [0, {count}), the positions of {self.producer_names}")

    @classmethod
    def empty(cls, *, code_bits: int, dimension: int, producer_names: tuple[str, ...] = ()) -> Self:
        return cls(
            NO_IDS,
            NO_IDS,
            NO_IDS,
            np.empty(0, np.int16),
            np.empty((0, code_bits // 8), np.uint8),
            np.empty((0, dimension), np.float16),
            producer_names,
        )

    def __len__(self) -> int:
        return len(self.entry_ids)

    @property
    def code_bits(self) -> int:
        return int(self.codes.shape[1]) * 8

    @property
    def dimension(self) -> int:
        return int(self.embeddings.shape[1])

    def taken(self, rows: Rows | NDArray[np.bool_] | slice) -> "EntryColumns":
        """The entries at `rows`; a slice shares memory with this table."""
        arrays: dict[str, Any] = {name: getattr(self, name)[rows] for name in ENTRY_ARRAYS}
        return EntryColumns(**arrays, producer_names=self.producer_names)

    def rewritten(
        self, rows: Rows, *, codes: NDArray[np.uint8], embeddings: NDArray[Any], producer: str
    ) -> "EntryColumns":
        """The same table with these codes and embeddings, by `producer`, at `rows`; each (len(rows), …)."""
        names = self.producer_names if producer in self.producer_names else (*self.producer_names, producer)
        own_codes, own_embeddings, producers = (
            self.codes.copy(),
            self.embeddings.copy(),
            self.producers.copy(),
        )
        own_codes[rows], own_embeddings[rows] = codes, embeddings
        producers[rows] = names.index(producer)
        return replace(
            self, codes=own_codes, embeddings=own_embeddings, producers=producers, producer_names=names
        )

    @staticmethod
    def concatenated(parts: "Sequence[EntryColumns]") -> "EntryColumns":
        """The rows of all `parts` (at least one), which must name the same producers in the same order."""
        if len({part.producer_names for part in parts}) != 1:
            raise ValueError(f"cannot join producers {[part.producer_names for part in parts]}")
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in ENTRY_ARRAYS
        }
        return EntryColumns(**arrays, producer_names=parts[0].producer_names)

    def of_producer(self, name: str) -> "EntryColumns":
        """The entries made by `name`, ascending by entry id, as a table with that one producer.

        A table whose rows already stand together in that order (a snapshot's) is sliced, not copied.
        """
        if name not in self.producer_names:
            return self.empty(code_bits=self.code_bits, dimension=self.dimension, producer_names=(name,))
        rows = np.flatnonzero(self.producers == self.producer_names.index(name))
        together = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
        if together and is_ascending(self.entry_ids[rows[0] : rows[-1] + 1]):
            part = self.taken(slice(rows[0], rows[-1] + 1))
        else:
            part = self.taken(rows[np.argsort(self.entry_ids[rows], kind="stable")])
        same = np.broadcast_to(np.int16(0), len(part))  # one stored number, however many rows
        return replace(part, producers=same, producer_names=(name,))

    def embeddings_at(self, rows: Rows) -> NDArray[np.float32]:
        """(n, D) float32 embeddings of `rows`."""
        return widened(self.embeddings.take(rows, axis=0))


ENTRY_ARRAYS = tuple(field.name for field in fields(EntryColumns) if field.name != "producer_names")
ITEM_ARRAYS = tuple(field.name for field in fields(ItemColumns))


@dataclass(frozen=True)
class EntryFilter:
    """What an answer may hold. An unset field restricts nothing; set fields all apply.

    category_ids is the already expanded subtree (empty = nothing passes); every tag in tag_ids is required; a
    price bound is inclusive and refuses items without a price.
    """

    category_ids: frozenset[int] | None = None
    vertical: int | None = None
    tag_ids: frozenset[int] = frozenset()
    price_min: float | None = None
    price_max: float | None = None
    excluded_image_ids: frozenset[int] = frozenset()
    excluded_item_ids: frozenset[int] = frozenset()

    @property
    def is_open(self) -> bool:
        """True when every entry passes."""
        return not (self.has_scope or self.has_exclusions)

    @cached_property
    def has_scope(self) -> bool:
        """True when an attribute of the item (category, vertical, tag, price) is asked for."""
        return (
            self.category_ids is not None
            or self.vertical is not None
            or bool(self.tag_ids)
            or self.price_min is not None
            or self.price_max is not None
        )

    @property
    def has_exclusions(self) -> bool:
        return bool(self.excluded_image_ids or self.excluded_item_ids)

    @cached_property
    def scope(self) -> "EntryFilter":
        """This filter without its exclusions: the part many queries have in common."""
        return replace(self, excluded_image_ids=frozenset(), excluded_item_ids=frozenset())

    @cached_property
    def exclusions(self) -> tuple[Ids, Ids]:
        """(image ids, item ids) left out."""
        return id_array(self.excluded_image_ids), id_array(self.excluded_item_ids)


def id_array(ids: Iterable[int] | Sequence[int] | Ids) -> Ids:
    """Any iterable of ids as an int64 array."""
    return ids.astype(np.int64) if isinstance(ids, np.ndarray) else np.fromiter(ids, np.int64)


def is_ascending(ids: Ids) -> bool:
    """True when each id is larger than the one before."""
    return len(ids) < 2 or bool((ids[1:] > ids[:-1]).all())


def widened(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """float16 -> float32, exactly, for finite values.

    Shifts the bits into place and rescales the exponent: 5 times faster than astype, and re-ranking a pool is
    mostly this conversion.
    """
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _SIGN_AND_MAGNITUDE
    wide = bits.view(np.float32)
    wide *= _EXPONENT_GAP
    return wide


_SIGN_AND_MAGNITUDE = np.int32(
    -0x70000001
)  # clears the three copies of the sign that the shift leaves behind
_EXPONENT_GAP = np.float32(2.0**112)  # float32 counts exponents from 127, float16 from 15


def _tag_pairs(item_ids: Ids, tags: Mapping[int, Iterable[int]]) -> tuple[Ids, NDArray[np.int32]]:
    """Sorted (tag id, item row) pairs. item_ids is ascending."""
    pairs = sorted({(tag_id, item_id) for tag_id, members in tags.items() for item_id in members})
    carriers = np.array([item_id for _, item_id in pairs], np.int64)
    unknown = np.setdiff1d(carriers, item_ids)
    if len(unknown):
        raise ValueError(f"tags name items that are not listed: {unknown[:5].tolist()}")
    rows = np.searchsorted(item_ids, carriers).astype(np.int32)
    return np.array([tag_id for tag_id, _ in pairs], np.int64), rows


def _check_parallel(columns: ItemColumns | EntryColumns, names: tuple[str, ...]) -> None:
    lengths = {name: len(getattr(columns, name)) for name in names}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}")
