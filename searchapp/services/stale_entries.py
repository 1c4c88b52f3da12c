"""The entries that another trunk than a version's own made and that stand for their photo in its view."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from django.db.models import Exists, OuterRef, QuerySet
from numpy.typing import NDArray

from ml.retrieval.columns import EntryColumns
from searchapp.models import EvaluationQuery, GalleryEntry, Item, ItemImage, ModelVersion
from searchapp.services.gallery_columns import in_chunks, read_entries


@dataclass(frozen=True, slots=True)
class StaleEntries:
    """N of them. entries: (N,) ids, the older ones the smaller. photos, items: (N,) ids. majors: (N,) the M of the
    producer. embeddings: (N, D) float16, raw.
    """

    entries: NDArray[np.int64]
    photos: NDArray[np.int64]
    items: NDArray[np.int64]
    majors: NDArray[np.int64]
    embeddings: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.photos)

    def of_trunk(self, major: int) -> NDArray[np.intp]:
        """Rows."""
        return np.flatnonzero(self.majors == major)


def stale_photos(version: ModelVersion) -> QuerySet[ItemImage]:
    """Readable photos that an older or newer trunk of the lineage encoded, and the version's own did not."""
    entries = GalleryEntry.objects.filter(image=OuterRef("pk"))
    own = entries.filter(producer__lineage=version.lineage, producer__major=version.major)
    others = entries.filter(producer__lineage=version.lineage).exclude(producer__major=version.major)
    return ItemImage.objects.filter(~Exists(own), Exists(others), failure="")


def stale_entries(version: ModelVersion) -> StaleEntries:
    """Of every photo that can be read; those that failed are nobody's to encode again."""
    entries = read_entries(version)
    majors = _majors(entries)
    rows = np.flatnonzero(majors != version.major)
    readable = _readable(entries.image_ids[rows].tolist())
    rows = rows[np.isin(entries.image_ids[rows], readable)]
    return StaleEntries(
        entries.entry_ids[rows],
        entries.image_ids[rows],
        entries.item_ids[rows],
        majors[rows],
        entries.embeddings[rows],
    )


def may_be_learned_from(image_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) photos -> (N,) whether a fit may use them: a photo held out, in any set, only judges."""
    asked = EvaluationQuery.objects.values("image_sha256")
    held_out = [
        pk
        for ids in in_chunks(image_ids.tolist())
        for pk in ItemImage.objects.filter(pk__in=ids, image_sha256__in=asked).values_list("pk", flat=True)
    ]
    return ~np.isin(image_ids, held_out)


def trunks_of(majors: NDArray[np.int64]) -> Mapping[int, ModelVersion]:
    """The first version of each M that occurs, by M, oldest first."""
    rows = ModelVersion.objects.filter(major__in=np.unique(majors).tolist(), minor=0).order_by("major")
    return {row.major: row for row in rows}


def categories_of(item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) items -> (N,) their categories, -1 of an item that is gone."""
    found: dict[int, int] = {}
    for ids in in_chunks(np.unique(item_ids).tolist()):
        found |= dict(Item.objects.filter(pk__in=ids).values_list("pk", "category_id"))
    return np.array([found.get(item, -1) for item in item_ids.tolist()], np.int64)


def _majors(entries: EntryColumns) -> NDArray[np.int64]:
    numbers = np.array([int(name.split(".")[0]) for name in entries.producer_names], np.int64)
    return numbers[entries.producers] if len(numbers) else np.empty(0, np.int64)


def _readable(image_ids: list[int]) -> NDArray[np.int64]:
    found = [
        pk
        for ids in in_chunks(image_ids)
        for pk in ItemImage.objects.filter(pk__in=ids, failure="").order_by().values_list("pk", flat=True)
    ]
    return np.array(found, np.int64)
