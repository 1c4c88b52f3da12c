"""The engine for more than one machine: a Milvus collection per view and producer, through pymilvus.

Unlike the other engines the collection is shared and changes in place, so an older index object sees newer
entries; the search drops those its view does not know. Tried against milvus-lite; a cluster's replication,
failover and BIN_IVF_FLAT were not.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient

from ml.retrieval.columns import NO_IDS, EntryColumns, EntryFilter, Ids, ItemColumns, id_array
from ml.retrieval.index import CodeMatches, EngineFactory, check_query
from ml.retrieval.items import ItemTable

# Milvus's own limits: entries per answer, and values per array field.
MAX_ANSWER = 16_384
MAX_TAGS = 1024
_BATCH = 2000
_ITEM_FIELDS = ("item_id", "category_id", "vertical", "has_price", "price", "tag_ids")


def milvus_engine(
    uri: str, *, view: str = "gallery", index_type: str = "BIN_FLAT", lists: int = 1024, probes: int = 64
) -> EngineFactory:
    """Engines in the Milvus server (or milvus-lite file) at `uri`.

    view: part of the collection name; views that pick different rows need different names. index_type:
    BIN_FLAT (exact) or BIN_IVF_FLAT with `lists` lists of which a query reads `probes`. Building an engine
    makes the collection hold exactly the given entries: what is missing is inserted, what is not wanted
    deleted.
    """
    if index_type not in {"BIN_FLAT", "BIN_IVF_FLAT"}:
        raise ValueError(f"index_type is {index_type!r}, it must be BIN_FLAT or BIN_IVF_FLAT")
    client = MilvusClient(uri)
    build_params = {"nlist": lists} if index_type == "BIN_IVF_FLAT" else {}
    search_params = {"nprobe": probes} if index_type == "BIN_IVF_FLAT" else {}

    def build(producer: str, entries: EntryColumns, items: ItemColumns) -> MilvusIndex:
        name = re.sub(r"\W", "_", f"perennial_{view}_{producer}_{entries.code_bits}")
        if not client.has_collection(name):
            _create(client, name, entries.code_bits, index_type, build_params)
        index = MilvusIndex(client, name, ItemTable.of(items), entries.code_bits, search_params)
        index.reconcile(entries)
        return index

    return build


class MilvusIndex:
    """One collection. `updated` writes to it and answers for the new state."""

    def __init__(
        self, client: MilvusClient, name: str, items: ItemTable, code_bits: int, search_params: dict[str, int]
    ) -> None:
        self._client = client
        self._name = name
        self._items = items
        self._code_bits = code_bits
        self._search_params = search_params

    def __len__(self) -> int:
        counted = self._client.query(
            self._name, filter="", output_fields=["count(*)"], consistency_level="Strong"
        )
        return int(counted[0]["count(*)"])

    def search(self, packed_code: NDArray[np.uint8], k: int, where: EntryFilter | None = None) -> CodeMatches:
        check_query(packed_code, self._code_bits, k)
        k = min(k, len(self), MAX_ANSWER)
        expression = "" if where is None else filter_expression(where)
        if k == 0 or expression is None:
            return CodeMatches(NO_IDS, np.empty(0, np.int32))
        # Milvus leaves open which of several equally far entries come last, so more are taken until the last
        # distance is beyond the k-th: then all that tie with it are there and the smaller ids can be chosen.
        limit = min(MAX_ANSWER, k + 16)
        while True:
            ids, distances = self._nearest(packed_code, limit, expression)
            whole = len(ids) < limit or distances[-1] > distances[k - 1] or limit == MAX_ANSWER
            if whole:
                order = np.lexsort((ids, distances))[:k]
                return CodeMatches(ids[order], distances[order])
            limit = min(MAX_ANSWER, 2 * limit)

    def updated(
        self,
        *,
        added: EntryColumns,
        removed_entry_ids: Ids,
        changed_items: ItemColumns,
        removed_item_ids: Ids,
    ) -> "MilvusIndex":
        items = self._items.with_changes(changed_items, removed_item_ids)
        index = MilvusIndex(self._client, self._name, items, self._code_bits, self._search_params)
        wanted = ~np.isin(added.entry_ids, removed_entry_ids) & ~np.isin(added.item_ids, removed_item_ids)
        index.delete("entry_id", removed_entry_ids)
        index.delete("item_id", removed_item_ids)
        index.refresh(changed_items.item_ids)
        index.insert(added.taken(wanted))
        return index

    def reconcile(self, entries: EntryColumns) -> None:
        """Make the collection hold exactly `entries`."""
        stored = id_array(sorted(self._stored_ids()))
        self.delete("entry_id", np.setdiff1d(stored, entries.entry_ids))
        self.refresh(np.unique(entries.item_ids))
        self.insert(entries)

    def insert(self, entries: EntryColumns) -> None:
        """Add the entries that are not there yet."""
        entries = entries.taken(np.unique(entries.entry_ids, return_index=True)[1])
        for start in range(0, len(entries), _BATCH):
            batch = entries.taken(slice(start, start + _BATCH))
            known = self._client.query(
                self._name,
                filter=_any_of("entry_id", batch.entry_ids),
                output_fields=["entry_id"],
                consistency_level="Strong",
            )
            new = batch.taken(~np.isin(batch.entry_ids, [row["entry_id"] for row in known]))
            rows = [
                {**fields, "entry_id": entry_id, "image_id": image_id, "code": code.tobytes()}
                for entry_id, image_id, code, fields in zip(
                    new.entry_ids.tolist(),
                    new.image_ids.tolist(),
                    new.codes,
                    _item_fields(self._items, new.item_ids),
                )
            ]
            if rows:
                self._client.upsert(self._name, rows)

    def delete(self, field: str, ids: Ids) -> None:
        """Delete the entries whose `field` is one of `ids`; unknown ids are ignored."""
        for batch in _batches(ids):
            self._client.delete(self._name, filter=_any_of(field, batch))

    def refresh(self, item_ids: Ids) -> None:
        """Write the present state of these items to those of their entries that hold another."""
        for batch in _batches(item_ids):
            stored = self._client.query(
                self._name,
                filter=_any_of("item_id", batch),
                output_fields=["entry_id", "image_id", "code", *_ITEM_FIELDS],
                consistency_level="Strong",
            )
            state = _item_fields(self._items, id_array([row["item_id"] for row in stored]))
            outdated = [
                {
                    **fields,
                    "entry_id": row["entry_id"],
                    "image_id": row["image_id"],
                    "code": _code_bytes(row["code"]),
                }
                for row, fields in zip(stored, state)
                if any(_plain(row[name]) != fields[name] for name in _ITEM_FIELDS)
            ]
            if outdated:
                self._client.upsert(self._name, outdated)

    def _nearest(
        self, packed_code: NDArray[np.uint8], limit: int, expression: str
    ) -> tuple[Ids, NDArray[np.int32]]:
        found = self._client.search(
            self._name,
            data=[packed_code.tobytes()],
            anns_field="code",
            limit=limit,
            filter=expression,
            output_fields=["entry_id"],
            search_params={"metric_type": "HAMMING", "params": self._search_params},
            consistency_level="Strong",
        )[0]
        ids = np.array([hit["entry_id"] for hit in found], np.int64)
        return ids, np.array([round(hit["distance"]) for hit in found], np.int32)

    def _stored_ids(self) -> Iterator[int]:
        pages = self._client.query_iterator(
            self._name, batch_size=_BATCH, filter="", output_fields=["entry_id"], consistency_level="Strong"
        )
        while page := pages.next():
            yield from (row["entry_id"] for row in page)
        pages.close()


def filter_expression(where: EntryFilter) -> str | None:
    """`where` as a Milvus boolean expression; None when nothing can pass."""
    if where.category_ids is not None and not where.category_ids:
        return None
    image_ids, item_ids = where.exclusions
    terms = [
        "" if where.category_ids is None else _any_of("category_id", id_array(where.category_ids)),
        "" if where.vertical is None else f"vertical == {where.vertical}",
        f"array_contains_all(tag_ids, {sorted(where.tag_ids)})" if where.tag_ids else "",
        ""
        if where.price_min is None
        else f"(has_price == true and price >= {_stored_price(where.price_min)})",
        ""
        if where.price_max is None
        else f"(has_price == true and price <= {_stored_price(where.price_max)})",
        f"image_id not in {sorted(image_ids.tolist())}" if len(image_ids) else "",
        f"item_id not in {sorted(item_ids.tolist())}" if len(item_ids) else "",
    ]
    return " and ".join(term for term in terms if term)


def _stored_price(price: float) -> str:
    """The bound rounded as item prices are, so that an item exactly at it passes."""
    return repr(float(np.float32(price)))


def _create(
    client: MilvusClient, name: str, code_bits: int, index_type: str, build_params: dict[str, int]
) -> None:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("entry_id", DataType.INT64, is_primary=True)
    schema.add_field("code", DataType.BINARY_VECTOR, dim=code_bits)
    for field in ("image_id", "item_id", "category_id", "vertical"):
        schema.add_field(field, DataType.INT64)
    schema.add_field("has_price", DataType.BOOL)
    schema.add_field("price", DataType.DOUBLE)
    schema.add_field("tag_ids", DataType.ARRAY, element_type=DataType.INT64, max_capacity=MAX_TAGS)
    index_params = client.prepare_index_params()
    index_params.add_index("code", index_type=index_type, metric_type="HAMMING", params=build_params)
    client.create_collection(name, schema=schema, index_params=index_params)


def _item_fields(items: ItemTable, item_ids: Ids) -> list[dict[str, Any]]:
    """The scalar fields that the item of each entry gives it."""
    return [
        {
            "item_id": item_id,
            "category_id": category_id,
            "vertical": vertical,
            "has_price": price is not None,
            "price": 0.0 if price is None else price,
            "tag_ids": list(tag_ids),
        }
        for item_id, (category_id, vertical, price, tag_ids) in zip(
            item_ids.tolist(), items.attributes_of(item_ids)
        )
    ]


def _any_of(field: str, ids: Ids) -> str:
    return f"{field} in {sorted(ids.tolist())}"


def _batches(ids: Ids) -> Iterator[Ids]:
    for start in range(0, len(ids), _BATCH):
        yield ids[start : start + _BATCH]


def _plain(value: Any) -> Any:
    """A field as the client returns it: an array field comes as its own sequence type."""
    return value if isinstance(value, (bool, int, float)) else list(value)


def _code_bytes(stored: Any) -> bytes:
    """A binary vector as the client returns it: bytes, or a list holding them."""
    return stored if isinstance(stored, bytes) else bytes(stored[0])
