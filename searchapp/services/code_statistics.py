"""Which stored codes are counted, under which category: added, moved and taken out with the rows they stand for.

A photo of a lineage is counted once, by the entry that stands for it, under the category of its item, unless that
category still waits to be learned. Whoever changes that calls one function here in the same transaction. Locks are
taken in one order: items, their photos (which guard what is counted of them), categories that rows refer to, the Gram
row, the gallery's counter.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

import numpy as np

from searchapp.models import CountedEntry, GalleryEntry, ItemImage, ModelVersion
from searchapp.services.code_checking import ChangedCode, CodesCheck, codes_check, codes_noted, recounted
from searchapp.services.code_tallies import (
    CountedCodes,
    counted_items,
    statistics_of,
    tallies_change,
    tallies_rebuild,
)
from searchapp.services.gallery import references_hold
from searchapp.services.gallery_columns import in_chunks, number_of, producers_of
from searchapp.services.learning import version_in_use, waiting_ids
from searchapp.services.view_rule import rows_in_view

__all__ = [
    "ChangedCode",
    "CodesCheck",
    "codes_check",
    "codes_noted",
    "counted_items",
    "entries_count",
    "images_forget",
    "items_relabelled",
    "photos_locked",
    "recounted",
    "statistics_of",
    "uncounted",
]


class _Standing(NamedTuple):
    """What stands for a photo: its entry, and the category of its item."""

    entry: int
    category: int


class _Row(NamedTuple):
    """A CountedEntry."""

    entry: int
    image: int
    category: int


def entries_count(*, version: ModelVersion, image_ids: Sequence[int]) -> int:
    """Count each photo by the entry that stands for it in the view of `version`, under its item's category.

    What was counted otherwise is moved over; of a category that waits to be learned nothing is counted. Returns how
    many photos that changed anything for; a second call returns 0.
    """
    present = photos_locked(image_ids)
    standing = _standing(version, present)
    waiting = _waiting(version)
    wanted = {image: found for image, found in standing.items() if found.category not in waiting}
    counted = {row.image: row for row in _counted(version.lineage, present)}
    gone = [row for image, row in counted.items() if wanted.get(image) != (row.entry, row.category)]
    new = [
        _Row(found.entry, image, found.category)
        for image, found in wanted.items()
        if image not in counted or counted[image][::2] != found
    ]
    _change(version.lineage, gone=gone, new=new)
    return len({row.image for row in (*gone, *new)})


def images_forget(image_ids: Sequence[int]) -> None:
    """Take photos out of all statistics, in the transaction that deletes them and before it does."""
    present = photos_locked(image_ids)
    for lineage in _lineages(present):
        _change(lineage, gone=_counted(lineage, present), new=[])


def items_relabelled(item_ids: Sequence[int]) -> None:
    """Count what is counted of these items under the categories they now have, in the transaction that gave those.

    Under a category that waits to be learned nothing is counted, so there it is taken out.
    """
    photos = [
        image
        for ids in in_chunks(item_ids)
        for image in ItemImage.objects.filter(item__in=ids).order_by().values_list("pk", flat=True)
    ]
    present = photos_locked(photos)
    category_of = _categories(present)
    live = version_in_use()
    for lineage in _lineages(present):
        waiting = _waiting(live) if live and live.lineage == lineage else set()
        gone = [row for row in _counted(lineage, present) if row.category != category_of[row.image]]
        moved = [row._replace(category=category_of[row.image]) for row in gone]
        _change(lineage, gone=gone, new=[row for row in moved if row.category not in waiting])


def uncounted(version: ModelVersion) -> list[int]:
    """Photos that `entries_count` would change something for, ascending: new ones, those another entry stands for in
    this version's view, and counted ones of a category that waits for it."""
    standing, waiting = _standing(version, None), _waiting(version)
    rows = CountedEntry.objects.filter(lineage=version.lineage)
    counted = {image: _Standing(entry, under) for entry, image, under in rows.values_list(*_ROW).iterator()}
    otherwise = {
        image
        for image, found in standing.items()
        if found.category not in waiting and counted.get(image) != found
    }
    return sorted(otherwise | {image for image, found in counted.items() if found.category in waiting})


def photos_locked(image_ids: Iterable[int]) -> list[int]:
    """Those that exist, locked in order of their id: nobody else counts, moves or deletes them meanwhile."""
    return [
        image
        for ids in in_chunks(sorted(set(image_ids)))
        for image in ItemImage.objects.select_for_update(no_key=True)
        .filter(pk__in=ids)
        .order_by("pk")
        .values_list("pk", flat=True)
    ]


_ROW = ("entry_id", "image_id", "category_id")


def _categories(image_ids: Iterable[int]) -> dict[int, int]:
    """Category of each photo's item. Asked after the locks, so it is what the last committed change left."""
    return {
        image: category
        for ids in in_chunks(image_ids)
        for image, category in ItemImage.objects.filter(pk__in=ids)
        .order_by()
        .values_list("pk", "item__category_id")
    }


def _standing(version: ModelVersion, image_ids: Collection[int] | None) -> dict[int, _Standing]:
    """By the view rule, of all photos or of `image_ids`."""
    producers = producers_of(version)
    entries = GalleryEntry.objects.filter(producer_id__in=producers.ids).order_by()
    chosen = (
        [entries] if image_ids is None else [entries.filter(image_id__in=i) for i in in_chunks(image_ids)]
    )
    fields = ("pk", "image_id", "producer_id", "image__item__category_id")
    rows = np.array(
        [row for part in chosen for row in part.values_list(*fields).iterator(chunk_size=10_000)], np.int64
    ).reshape(-1, len(fields))
    position = {pk: index for index, pk in enumerate(producers.ids)}
    places = np.array([position[pk] for pk in rows[:, 2].tolist()], np.int64)
    kept = rows[rows_in_view(rows[:, 1], places, producers.numbers, number_of(version))]
    return {image: _Standing(entry, category) for entry, image, _, category in kept.tolist()}


def _waiting(version: ModelVersion) -> set[int]:
    return set(waiting_ids(version))


def _lineages(image_ids: Iterable[int]) -> list[UUID]:
    """Those the photos are counted in, in one order for everybody."""
    found: set[UUID] = set()
    for ids in in_chunks(image_ids):
        found.update(CountedEntry.objects.filter(image__in=ids).values_list("lineage", flat=True).distinct())
    return sorted(found)


def _counted(lineage: UUID, image_ids: Iterable[int]) -> list[_Row]:
    return [
        _Row(*row)
        for ids in in_chunks(image_ids)
        for row in CountedEntry.objects.filter(lineage=lineage, image__in=ids).values_list(*_ROW)
    ]


def _change(lineage: UUID, *, gone: Sequence[_Row], new: Sequence[_Row]) -> None:
    """Change the rows of what is counted, and the statistics with them."""
    if not gone and not new:
        return
    codes = _codes(row.entry for row in (*gone, *new))
    digests: dict[int, bytes] = {}
    for ids in in_chunks(row.entry for row in gone):
        rows = CountedEntry.objects.filter(pk__in=ids)
        digests |= {pk: bytes(digest) for pk, digest in rows.values_list("pk", "code_digest")}
    moved = {row.entry: row.category for row in new if row.entry in digests}
    _rows_delete([row.entry for row in gone if row.entry not in moved])
    _rows_move(moved)
    CountedEntry.objects.bulk_create(
        [
            CountedEntry(
                entry_id=row.entry,
                image_id=row.image,
                lineage=lineage,
                category_id=row.category,
                made_as_id=row.category,
                code_digest=_digest(codes[row.entry]),
            )
            for row in new
            if row.entry not in moved
        ],
        batch_size=1000,
    )
    references_hold()
    # What was changed behind our back cannot be taken out of a sum again: the sums are made anew from what is there.
    if any(_digest(codes[entry]) != digest for entry, digest in digests.items()):
        tallies_rebuild(lineage)
    else:
        tallies_change(lineage, added=_with_codes(new, codes), removed=_with_codes(gone, codes))


def _with_codes(rows: Sequence[_Row], codes: Mapping[int, bytes]) -> CountedCodes:
    return CountedCodes([row.category for row in rows], [codes[row.entry] for row in rows])


def _rows_delete(entry_ids: Iterable[int]) -> None:
    for ids in in_chunks(entry_ids):
        CountedEntry.objects.filter(pk__in=ids).delete()


def _rows_move(category_of: Mapping[int, int]) -> None:
    entries_of: dict[int, list[int]] = defaultdict(list)
    for entry, category in category_of.items():
        entries_of[category].append(entry)
    for category, entries in entries_of.items():
        for ids in in_chunks(entries):
            CountedEntry.objects.filter(pk__in=ids).update(category=category)


def _codes(entry_ids: Iterable[int]) -> dict[int, bytes]:
    return {
        entry: bytes(code)
        for ids in in_chunks(entry_ids)
        for entry, code in GalleryEntry.objects.filter(pk__in=ids).values_list("pk", "code")
    }


def _digest(code: bytes) -> bytes:
    return blake2b(code, digest_size=8).digest()
