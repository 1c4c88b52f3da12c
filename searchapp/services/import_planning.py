"""Looks at a chunk's photos and compares them with the rows; everything slow about an import happens here.

A chunk is planned from the rows as they are, so planning it again after a kill, or beside another import,
adds nothing twice.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import cast

from django.db.models import Max

from searchapp.exceptions import InvalidInput
from searchapp.models import PATH_SEPARATOR, Category, EvaluationQuery, Item, ItemImage, Vertical
from searchapp.services.categories import path_parse
from searchapp.services.holding_out import is_one_in_eight
from searchapp.services.import_chunks import (
    ChunkPlan,
    ImportContext,
    PlannedItem,
    PlannedPhoto,
    PlannedQuery,
    Unit,
)
from searchapp.services.import_reading import PhotoToRead, ReadPhoto, photos_read
from searchapp.services.import_sources.records import (
    CatalogueSource,
    ItemRecord,
    Photo,
    QueryRecord,
    RowProblem,
)
from searchapp.services.intake import StoredImage
from searchapp.services.item_fields import ItemFields, fields_error, item_apply, tags_clean
from searchapp.services.photo_features import feature_bytes

SOURCE_LENGTH = 200


class _Unusable(Exception):
    def __init__(self, fields: dict[str, str], *, is_whole_item: bool = False) -> None:
        super().__init__(fields)
        self.fields, self.is_whole_item = fields, is_whole_item


@dataclass(frozen=True, slots=True)
class _Known:
    """What the rows say of a chunk: items by SKU; uploads and next position by item id; queries by source."""

    items: dict[str, Item]
    uploads: dict[int, frozenset[str]]
    positions: dict[int, int]
    queries: dict[str, str]


def chunk_plan(
    context: ImportContext, plan: ChunkPlan, units: Sequence[Unit], heard: Callable[[int], None]
) -> None:
    """Fill `plan`: photos are read, cleaned, stored (unless it is a dry run) and encoded here."""
    known = _known(context, units)
    wanted = _to_read(context, units, known)
    with closing(photos_read(context.source, wanted, None if context.is_dry else plan.stored)) as photos:
        for unit in units:
            heard(plan.report.position)
            read = next(photos) if unit.photo or unit.query else None
            if unit.problem:
                plan.report.failed += 1
                plan.report.error(unit.problem)
            elif unit.query and read:
                _plan_query(context, plan, unit.query, read, known)
            elif unit.record:
                _plan_item(context, plan, unit, read, known)
            plan.report.position += 1


def _to_read(context: ImportContext, units: Sequence[Unit], known: _Known) -> list[PhotoToRead]:
    wanted = []
    for unit in units:
        if unit.query:
            held = known.queries.get(query_source(context.source, unit.query))
            wanted.append(PhotoToRead(unit.query.photo, frozenset([held] if held else []), None))
        elif unit.photo and unit.record:
            item = known.items.get(unit.record.sku)
            uploads = known.uploads.get(item.pk, frozenset()) if item else frozenset()
            wanted.append(
                PhotoToRead(unit.photo, uploads, context.encoder.input_size if context.encoder else None)
            )
    return wanted


def _known(context: ImportContext, units: Sequence[Unit]) -> _Known:
    """Five queries for a chunk of any size."""
    skus = {unit.record.sku for unit in units if unit.record}
    skus |= {unit.query.sku for unit in units if unit.query and unit.query.sku}
    askable = {sku for sku in skus if "\x00" not in sku}  # PostgreSQL refuses the very question
    rows = Item.objects.filter(sku__in=askable).select_related("category").prefetch_related("tags")
    items = {item.sku: item for item in rows}
    photos = ItemImage.objects.filter(item__in=[item.pk for item in items.values()]).order_by()
    uploads: dict[int, set[str]] = {}
    for item_id, sha256 in photos.values_list("item_id", "upload_sha256"):
        uploads.setdefault(item_id, set()).add(sha256)
    frozen = {item_id: frozenset(found) for item_id, found in uploads.items()}
    last = photos.values("item_id").annotate(last=Max("position")).values_list("item_id", "last")
    sources = [query_source(context.source, unit.query) for unit in units if unit.query]
    queries = EvaluationQuery.objects.filter(source__in=sources).values_list("source", "upload_sha256")
    return _Known(items, frozen, {item_id: position + 1 for item_id, position in last}, dict(queries))


def _plan_item(
    context: ImportContext, plan: ChunkPlan, unit: Unit, read: ReadPhoto | None, known: _Known
) -> None:
    record = cast("ItemRecord", unit.record)
    current = plan.report.begin(record.sku, existed=record.sku in known.items)
    if not current.problem:
        try:
            if record.sku not in plan.items:
                plan.items[record.sku] = _planned(context, record, known)
            planned = plan.items[record.sku]
            is_new_photo = _plan_photo(context, plan, planned, unit.photo, read)
            planned.is_kept = current.good = True
            current.changed = current.changed or is_new_photo or planned.is_touched
        except _Unusable as problem:
            current.problem = problem.is_whole_item
            for name, message in problem.fields.items():
                plan.report.error(RowProblem(unit.photo.row if unit.photo else record.row, name, message))
    if unit.is_last:
        if not current.good and not current.existed:
            context.absent.add(record.sku)
        plan.report.end()


def _planned(context: ImportContext, record: ItemRecord, known: _Known) -> PlannedItem:
    """Check the record against its row, or a new one. Raises _Unusable with every problem."""
    row = known.items.get(record.sku)
    try:
        path = _checked_category(context, record)
        changed = item_apply(row or (item := Item(sku=record.sku)), cast("ItemFields", dict(record.fields)))
        tags = None if record.tags is None else tags_clean(record.tags)
    except InvalidInput as error:
        raise _Unusable(error.fields or {"*": error.message}, is_whole_item=True) from error
    if row is None:
        return PlannedItem(record, item, changed, tags, set(), 0)
    if row.category.path != path:
        changed.append("category")
    if tags is not None and sorted(tags) == sorted(tag.name for tag in row.tags.all()):
        tags = None
    uploads, position = set(known.uploads.get(row.pk, ())), known.positions.get(row.pk, 0)
    return PlannedItem(record, row, changed, tags, uploads, position)


def _checked_category(context: ImportContext, record: ItemRecord) -> str:
    path = PATH_SEPARATOR.join(path_parse(record.category))
    if record.vertical is not None and record.vertical not in Vertical.values:
        allowed = ", ".join(Vertical.values)
        raise fields_error({"vertical": f"it is {record.vertical[:40]!r}, allowed: {allowed}"})
    if path not in context.verticals:
        found = Category.objects.filter(path=path).values_list("vertical", flat=True).first()
        context.verticals[path] = found or record.vertical or Vertical.PRODUCT
    if record.vertical not in {None, context.verticals[path]}:
        holds = f"the category {path!r} holds {context.verticals[path]}s"
        raise fields_error({"vertical": f"it is {record.vertical!r}, but {holds}"})
    return path


def _plan_photo(
    context: ImportContext, plan: ChunkPlan, planned: PlannedItem, photo: Photo | None, read: ReadPhoto | None
) -> bool:
    """True when the photo is new to the item. Raises _Unusable when it cannot be used."""
    if photo is None or read is None:
        if planned.uploads:
            return False
        raise _Unusable({"images": "it is required: the item has no photo yet"})
    _check_usable(read)
    if read.stored is None or read.sha256 in planned.uploads:
        return False
    planned.photos.append(_encoded(context, photo, read.stored, read))
    planned.uploads.add(read.sha256)
    plan.report.images_added += 1
    counts = context.photos_of.setdefault(planned.record.category, [0, 0])
    counts[0] += 1
    counts[1] += is_one_in_eight(read.stored.image_sha256)
    return True


def _check_usable(read: ReadPhoto) -> None:
    if read.problem:
        raise _Unusable({"images": read.problem})


def _encoded(context: ImportContext, photo: Photo, stored: StoredImage, read: ReadPhoto) -> PlannedPhoto:
    if context.encoder is None or read.pixels is None:
        return PlannedPhoto(photo, stored)
    # One photo a call: a batch rounds differently, and a catalogue photo used as a query must find itself.
    encoded, features = context.encoder.encode_with_features(read.pixels[None])
    return PlannedPhoto(
        photo,
        stored,
        code=encoded.packed_codes[0].tobytes(),
        embedding=encoded.embeddings[0].astype("<f2").tobytes(),
        feature=feature_bytes(features[0]),
        pixels=read.pixels,
        sketch=read.sketch,
    )


def _plan_query(
    context: ImportContext, plan: ChunkPlan, query: QueryRecord, read: ReadPhoto, known: _Known
) -> None:
    try:
        if query.sku is not None and not _is_item_there(context, plan, query.sku, known):
            raise _Unusable({"images": f"its item {query.sku!r} is not in the catalogue"})  # noqa: TRY301
        _check_usable(read)
    except _Unusable as problem:
        plan.report.error(RowProblem(query.photo.row, "images", problem.fields["images"]))
        return
    if read.stored is not None:
        plan.queries.append(PlannedQuery(query, read.stored, query_source(context.source, query)))
    plan.report.evaluation_queries += 1


def _is_item_there(context: ImportContext, plan: ChunkPlan, sku: str, known: _Known) -> bool:
    if sku in known.items or (context.is_dry and sku not in context.absent):
        return True
    return sku in plan.items and plan.items[sku].is_kept


def query_source(source: CatalogueSource, query: QueryRecord) -> str:
    """The key that makes an import repeatable; a path too long for it is replaced by its hash."""
    if len(query.source) <= SOURCE_LENGTH:
        return query.source
    return f"{source.name[:100]}:{hashlib.sha256(query.source.encode()).hexdigest()}"
