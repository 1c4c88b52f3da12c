"""Reading rows into the columns a gallery view is built from: entries by the view rule, items with tags and price."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from django.db.models import Q

from ml.retrieval.columns import EntryColumns, ItemColumns
from searchapp.models import GalleryEntry, Item, ModelVersion, Vertical
from searchapp.services.view_rule import VersionNumber, rows_in_view

VERTICAL_CODES = {Vertical.PRODUCT.value: 0, Vertical.LANDMARK.value: 1}
ENTRY_FIELDS = ("id", "image_id", "image__item_id", "producer_id", "code", "embedding")
# Ids per `IN (…)`: well under every database's limit on parameters.
IDS_PER_QUERY = 1000
ROWS_PER_FETCH = 10_000


class Producers(NamedTuple):
    """The versions whose rows a query version may see: its lineage, in a fixed order."""

    ids: tuple[int, ...]
    numbers: tuple[VersionNumber, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(number.name for number in self.numbers)


def number_of(version: ModelVersion) -> VersionNumber:
    return VersionNumber(version.major, version.minor)


def producers_of(version: ModelVersion) -> Producers:
    """Versions of the lineage whose codes and embeddings have this version's sizes, oldest first."""
    learned_on = _learned_on(version)
    rows = ModelVersion.objects.filter(
        lineage=version.lineage, code_bits=version.code_bits, dimension=version.dimension
    ).order_by("major", "minor")
    found = list(rows.only("pk", "major", "minor"))

    def number(row: ModelVersion) -> VersionNumber:
        is_earlier = row.major == version.major and row.minor < version.minor
        return VersionNumber(row.major, row.minor, is_earlier and row.pk not in learned_on)

    return Producers(tuple(row.pk for row in found), tuple(map(number, found)))


def _learned_on(version: ModelVersion) -> set[int]:
    """The versions that this one comes from, by their ids."""
    parents = dict(ModelVersion.objects.filter(lineage=version.lineage).values_list("pk", "parent_id"))
    found: set[int] = set()
    above = version.parent_id
    while above is not None and above not in found:
        found.add(above)
        above = parents.get(above)
    return found


def read_entries(version: ModelVersion, *, image_ids: Iterable[int] | None = None) -> EntryColumns:
    """The entries that stand for their photo in the view of `version`; of all photos, or of `image_ids`.

    Ordered by (producer, entry id). An entry whose photo vanished meanwhile is left out.
    """
    producers = producers_of(version)
    rows = GalleryEntry.objects.filter(producer_id__in=producers.ids).order_by("producer", "id")
    if image_ids is None:
        chunks = [_columns(part, version, producers) for part in _fetched(rows.values_list(*ENTRY_FIELDS))]
    else:
        chunks = [
            _columns(list(rows.filter(image_id__in=ids).values_list(*ENTRY_FIELDS)), version, producers)
            for ids in in_chunks(image_ids)
        ]
    empty = EntryColumns.empty(
        code_bits=version.code_bits, dimension=version.dimension, producer_names=producers.names
    )
    entries = EntryColumns.concatenated([empty, *chunks])
    chosen = rows_in_view(entries.image_ids, entries.producers, producers.numbers, number_of(version))
    return entries if len(chosen) == len(entries) else entries.taken(chosen)


def _columns(rows: Sequence[tuple[object, ...]], version: ModelVersion, producers: Producers) -> EntryColumns:
    position = {pk: index for index, pk in enumerate(producers.ids)}
    entry_ids, image_ids, item_ids, producer_ids, codes, embeddings = zip(*rows) if rows else ((),) * 6
    return EntryColumns(
        np.array(entry_ids, np.int64),
        np.array(image_ids, np.int64),
        np.array(item_ids, np.int64),
        np.array([position[pk] for pk in producer_ids], np.int16),
        np.frombuffer(b"".join(codes), np.uint8).reshape(-1, version.code_bits // 8),
        np.frombuffer(b"".join(embeddings), "<f2").reshape(-1, version.dimension),
        producers.names,
    )


def image_ids_of_entries(entry_ids: Iterable[int]) -> set[int]:
    """The photos of those entries that still exist."""
    found: set[int] = set()
    for ids in in_chunks(entry_ids):
        found.update(GalleryEntry.objects.filter(pk__in=ids).values_list("image_id", flat=True))
    return found


def entry_ids_of_images(image_ids: Iterable[int]) -> set[int]:
    """Every entry of those photos, by any version."""
    found: set[int] = set()
    for ids in in_chunks(image_ids):
        found.update(GalleryEntry.objects.filter(image_id__in=ids).values_list("pk", flat=True))
    return found


def read_items(item_ids: Iterable[int] | None = None) -> ItemColumns:
    """Category, vertical, price and tags of all items, or of those of `item_ids` that still exist."""
    wanted = [Q()] if item_ids is None else [Q(pk__in=ids) for ids in in_chunks(item_ids)]
    fields = ("pk", "category_id", "category__vertical", "price")
    rows = [row for where in wanted for row in Item.objects.filter(where).order_by("pk").values_list(*fields)]
    known = {row[0] for row in rows}
    tags: dict[int, list[int]] = defaultdict(list)
    through = Item.tags.through.objects
    tagged = [Q()] if item_ids is None else [Q(item_id__in=ids) for ids in in_chunks(known)]
    for where in tagged:
        for tag_id, item_id in through.filter(where).values_list("tag_id", "item_id"):
            if item_id in known:
                tags[tag_id].append(item_id)
    return ItemColumns.of(
        [row[0] for row in rows],
        [row[1] for row in rows],
        [VERTICAL_CODES[row[2]] for row in rows],
        [None if row[3] is None else float(row[3]) for row in rows],
        tags,
    )


def known_only(entries: EntryColumns, items: ItemColumns) -> EntryColumns:
    """Entries of the listed items: the others' items were deleted between the two reads."""
    known = np.isin(entries.item_ids, items.item_ids)
    return entries if known.all() else entries.taken(known)


def in_chunks(ids: Iterable[int]) -> Iterator[list[int]]:
    rest = iter(ids)
    while part := list(islice(rest, IDS_PER_QUERY)):
        yield part


def _fetched(rows: object) -> Iterator[list[tuple[object, ...]]]:
    """Chunks of a large result that is never in memory as Python objects all at once."""
    rest = rows.iterator(chunk_size=ROWS_PER_FETCH)  # type: ignore[attr-defined]
    while part := list(islice(rest, ROWS_PER_FETCH)):
        yield part
