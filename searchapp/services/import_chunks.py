"""One chunk of an import: look at the photos, compare with the rows, then write everything in one transaction.

A chunk is planned from the rows as they are, so planning it again after a kill, or beside another import, adds
nothing twice. Reading, decoding and encoding happen while planning; the transaction holds inserts alone.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from django.db.models import Max

from ml.protocol import Encoder
from searchapp.exceptions import BadImage, InvalidInput
from searchapp.models import Category, EvaluationQuery, Item, ItemImage, ModelVersion
from searchapp.services import intake
from searchapp.services.categories import path_parse
from searchapp.services.import_report import ImportReport
from searchapp.services.import_sources.records import (
    CatalogueSource,
    ItemRecord,
    Photo,
    QueryRecord,
    RowProblem,
)
from searchapp.services.item_fields import ItemFields, fields_error, item_apply, tags_clean

SOURCE_LENGTH = 200
_ONE_IN = 8


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
    stored: intake.StoredImage
    code: bytes = b""
    embedding: bytes = b""


@dataclass(slots=True)
class PlannedItem:
    """`item` is a row or about to become one; `uploads` are the photos it has, by the SHA of what was uploaded."""

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


@dataclass(slots=True)
class PlannedQuery:
    record: QueryRecord
    stored: intake.StoredImage
    source: str


@dataclass(slots=True)
class ChunkPlan:
    report: ImportReport
    items: dict[str, PlannedItem] = field(default_factory=dict)
    queries: list[PlannedQuery] = field(default_factory=list)
    stored: list[intake.StoredImage] = field(default_factory=list)


@dataclass(slots=True)
class ImportContext:
    """What all chunks of one import share. `verticals` remembers categories by path once they are known."""

    source: CatalogueSource
    is_dry: bool
    version: ModelVersion | None = None
    encoder: Encoder | None = None
    verticals: dict[str, str] = field(default_factory=dict)
    photos_of: dict[str, list[int]] = field(
        default_factory=dict
    )  # dry run: category path -> [new, of which one in 8]


def units_of(source: CatalogueSource) -> Iterator[Unit]:
    """Everything there is to do, always in the same order: items with their photos first, then held-out photos."""
    for record in source.records():
        if isinstance(record, RowProblem):
            yield Unit(problem=record)
        elif not record.photos:
            yield Unit(record=record, is_last=True)
        else:
            last = record.photos[-1]
            yield from (Unit(record=record, photo=photo, is_last=photo is last) for photo in record.photos)
    yield from (Unit(query=query) for query in source.queries())


def chunk_plan(
    context: ImportContext, plan: ChunkPlan, units: Sequence[Unit], heard: Callable[[int], None]
) -> None:
    """Fill `plan`. Photos are read, cleaned, stored (unless it is a dry run) and encoded here, one after the other."""
    skus = {unit.record.sku for unit in units if unit.record}
    skus |= {unit.query.sku for unit in units if unit.query and unit.query.sku}
    known = {
        item.sku: item
        for item in Item.objects.filter(sku__in=skus).select_related("category").prefetch_related("tags")
    }
    uploads, positions = _uploads_of([item.pk for item in known.values()])
    asked = {query_source(context.source, unit.query): unit.query for unit in units if unit.query}
    held = dict(EvaluationQuery.objects.filter(source__in=asked).values_list("source", "upload_sha256"))
    for unit in units:
        heard(plan.report.position)
        if unit.problem:
            plan.report.failed += 1
            plan.report.error(unit.problem)
        elif unit.query:
            _plan_query(context, plan, unit.query, known, held)
        elif unit.record:
            item = known.get(unit.record.sku)
            pk = item.pk if item else 0
            _plan_item(context, plan, unit, item, uploads.get(pk, set()), positions.get(pk, 0))
        plan.report.position += 1


def _uploads_of(item_ids: list[int]) -> tuple[dict[int, set[str]], dict[int, int]]:
    uploads: dict[int, set[str]] = {}
    photos = ItemImage.objects.filter(item__in=item_ids)
    for item_id, sha256 in photos.values_list("item_id", "upload_sha256"):
        uploads.setdefault(item_id, set()).add(sha256)
    last = photos.order_by().values("item_id").annotate(last=Max("position")).values_list("item_id", "last")
    return uploads, {item_id: position + 1 for item_id, position in last}


def _plan_item(
    context: ImportContext,
    plan: ChunkPlan,
    unit: Unit,
    known: Item | None,
    uploads: set[str],
    next_position: int,
) -> None:
    record = cast("ItemRecord", unit.record)
    current = plan.report.begin(record.sku, existed=known is not None)
    if not current.problem:
        try:
            if record.sku not in plan.items:
                plan.items[record.sku] = _planned(context, record, known, uploads, next_position)
            planned = plan.items[record.sku]
            is_new_photo = _plan_photo(context, plan, planned, unit.photo)
            planned.is_kept = current.good = True
            is_written = is_new_photo or bool(planned.changed) or planned.tags is not None
            current.changed = current.changed or is_written
        except _Unusable as problem:
            current.problem = problem.is_whole_item
            for name, message in problem.fields.items():
                plan.report.error(RowProblem(unit.photo.row if unit.photo else record.row, name, message))
    if unit.is_last:
        plan.report.end()


class _Unusable(Exception):  # noqa: N818  it is caught a few lines above and never leaves this module
    def __init__(self, fields: dict[str, str], *, is_whole_item: bool) -> None:
        super().__init__(fields)
        self.fields, self.is_whole_item = fields, is_whole_item


def _planned(
    context: ImportContext, record: ItemRecord, known: Item | None, uploads: set[str], next_position: int
) -> PlannedItem:
    """Check the record's fields against the row that is there, or a new one. Raises _Unusable with every problem."""
    try:
        _check_category(context, record)
        item = known or Item(sku=record.sku)
        present = sorted(tag.name for tag in known.tags.all()) if known else []
        changed = item_apply(item, cast("ItemFields", dict(record.fields)))
        if known and known.category.path != _path(record.category):
            changed.append("category")
        tags = None if record.tags is None else tags_clean(record.tags)
    except InvalidInput as error:
        raise _Unusable(error.fields or {"*": error.message}, is_whole_item=True) from error
    are_tags_same = tags is None or sorted(tags) == present
    return PlannedItem(record, item, changed, None if are_tags_same else tags, set(uploads), next_position)


def _path(category: str) -> str:
    return " > ".join(path_parse(category))


def _check_category(context: ImportContext, record: ItemRecord) -> None:
    path = _path(record.category)
    if path not in context.verticals:
        found = Category.objects.filter(path=path).values_list("vertical", flat=True).first()
        context.verticals[path] = found or record.vertical or "product"
    is_allowed = record.vertical in {None, "product", "landmark"}
    if not is_allowed or record.vertical not in {None, context.verticals[path]}:
        holds = (
            f"the category {path!r} holds {context.verticals[path]}s"
            if is_allowed
            else "allowed: product, landmark"
        )
        raise fields_error({"vertical": f"it is {str(record.vertical)[:40]!r}; {holds}"})


def _plan_photo(context: ImportContext, plan: ChunkPlan, planned: PlannedItem, photo: Photo | None) -> bool:
    """True when the photo is new to the item. Raises _Unusable when it cannot be used."""
    if photo is None:
        if planned.uploads:
            return False
        raise _Unusable({"images": "it is required: the item has no photo yet"}, is_whole_item=False)
    data = _read(context, photo)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 in planned.uploads:
        return False
    clean = _cleaned(context, plan, photo, data)
    ready = PlannedPhoto(photo, clean.stored)
    if context.encoder is not None:
        # One photo a call: a batch rounds differently, and a catalogue photo used as a query must find itself.
        pixels = intake.pixels_of_stored(clean.data, input_size=context.encoder.input_size)
        encoded = context.encoder.encode(pixels[None])
        ready.code = encoded.packed_codes[0].tobytes()
        ready.embedding = encoded.embeddings[0].astype("<f2").tobytes()
    planned.photos.append(ready)
    planned.uploads.add(sha256)
    plan.report.images_added += 1
    counts = context.photos_of.setdefault(_path(planned.record.category), [0, 0])
    counts[0] += 1
    counts[1] += is_one_in_eight(clean.stored.image_sha256)
    return True


def is_one_in_eight(image_sha256: str) -> bool:
    """The rule of catalogues without splits, by content: adding photos never moves another one across."""
    return int(image_sha256[-1], 16) % _ONE_IN == 0


def _read(context: ImportContext, photo: Photo) -> bytes:
    try:
        return context.source.read(photo)
    except (InvalidInput, BadImage) as error:
        raise _Unusable({"images": error.message}, is_whole_item=False) from error


def _cleaned(context: ImportContext, plan: ChunkPlan, photo: Photo, data: bytes) -> intake.CleanImage:
    try:
        clean = intake.image_clean(data)
    except BadImage as error:
        raise _Unusable({"images": f"{photo.name[:120]}: {error.message}"}, is_whole_item=False) from error
    if not context.is_dry:
        plan.stored.append(clean.stored)
        intake.image_write(clean)
    return clean


def _plan_query(
    context: ImportContext,
    plan: ChunkPlan,
    query: QueryRecord,
    known: dict[str, Item],
    held: dict[str, str],
) -> None:
    source = query_source(context.source, query)
    try:
        is_item_there = query.sku is None or query.sku in known or query.sku in plan.items or context.is_dry
        if not is_item_there:
            raise _Unusable(
                {"images": f"its item {query.sku!r} is not in the catalogue"}, is_whole_item=False
            )
        data = _read(context, query.photo)
        if held.get(source) != hashlib.sha256(data).hexdigest():
            clean = _cleaned(context, plan, query.photo, data)
            plan.queries.append(PlannedQuery(query, clean.stored, source))
        plan.report.evaluation_queries += 1
    except _Unusable as problem:
        plan.report.error(RowProblem(query.photo.row, "images", problem.fields["images"]))


def query_source(source: CatalogueSource, query: QueryRecord) -> str:
    """The key that makes an import repeatable; a path too long for it is replaced by its hash."""
    if len(query.source) <= SOURCE_LENGTH:
        return query.source
    return f"{source.name[:100]}:{hashlib.sha256(query.source.encode()).hexdigest()}"
