"""The steps of an import and what a chunk of them is going to change."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ml.onnx_encoder import FeatureEncoder
from searchapp.models import Category, Item, ModelVersion
from searchapp.services.duplicate_photos import FoundPair
from searchapp.services.import_report import ImportReport
from searchapp.services.import_sources.records import (
    CatalogueSource,
    ItemRecord,
    Photo,
    QueryRecord,
    RowProblem,
)
from searchapp.services.intake import StoredImage
from searchapp.services.near_duplicates import DuplicateSearch
from searchapp.services.sketches import Sketch


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest step: one photo of an item, one held-out photo, or one unusable row."""

    record: ItemRecord | None = None
    photo: Photo | None = None
    query: QueryRecord | None = None
    problem: RowProblem | None = None
    is_last: bool = False


@dataclass(slots=True)
class PlannedPhoto:
    photo: Photo
    stored: StoredImage
    code: bytes = b""
    embedding: bytes = b""
    feature: bytes = b""
    pixels: NDArray[np.uint8] | None = None
    sketch: Sketch | None = None


@dataclass(slots=True)
class PlannedItem:
    """`item` is a row or about to become one; `uploads` are its photos, by the SHA-256 of what was
    uploaded."""

    record: ItemRecord
    item: Item
    changed: list[str]
    tags: list[str] | None
    uploads: set[str]
    next_position: int
    photos: list[PlannedPhoto] = field(default_factory=list)
    is_kept: bool = False

    @property
    def is_new(self) -> bool:
        return self.item.pk is None

    @property
    def is_touched(self) -> bool:
        return bool(self.changed) or self.tags is not None


@dataclass(slots=True)
class PlannedQuery:
    record: QueryRecord
    stored: StoredImage
    source: str


@dataclass(slots=True)
class ChunkPlan:
    """`stored` lists every file that was written for it: to be removed again if the plan comes to nothing."""

    report: ImportReport
    items: dict[str, PlannedItem] = field(default_factory=dict)
    queries: list[PlannedQuery] = field(default_factory=list)
    stored: list[StoredImage] = field(default_factory=list)
    duplicates: list[FoundPair] = field(default_factory=list)


@dataclass(slots=True)
class ImportContext:
    """What all chunks of one import share.

    `verticals` and `categories` remember by path. `photos_of` (category path -> new photos, of which one in
    eight) and `absent` (SKUs that did not come in) are what a dry run knows instead of rows.
    """

    source: CatalogueSource
    is_dry: bool
    waits: bool = False  # whether categories that it brings wait to be learned
    version: ModelVersion | None = None
    encoder: FeatureEncoder | None = None
    verticals: dict[str, str] = field(default_factory=dict)
    categories: dict[str, Category] = field(default_factory=dict)
    photos_of: dict[str, list[int]] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    job_id: UUID | None = None
    duplicates: DuplicateSearch = field(init=False)

    def __post_init__(self) -> None:
        self.duplicates = DuplicateSearch(is_dry=self.is_dry)


def units_of(source: CatalogueSource) -> Iterator[Unit]:
    """Everything there is to do, always in the same order: items and their photos first, then held-out
    photos."""
    for record in source.records():
        if isinstance(record, RowProblem):
            yield Unit(problem=record)
        elif not record.photos:
            yield Unit(record=record, is_last=True)
        else:
            last = record.photos[-1]
            yield from (Unit(record=record, photo=photo, is_last=photo is last) for photo in record.photos)
    yield from (Unit(query=query) for query in source.queries())
