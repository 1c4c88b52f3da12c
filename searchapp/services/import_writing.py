"""The transaction at the end of an import's chunk: rows, entries, held-out queries and checkpoint, or none
of them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.utils import timezone

from searchapp.models import (
    PATH_SEPARATOR,
    Category,
    ChangeKind,
    EvaluationQuery,
    Item,
    ItemImage,
    ModelVersion,
)
from searchapp.services import intake
from searchapp.services.catalogue import tags_ensure
from searchapp.services.categories import category_ensure
from searchapp.services.duplicate_pairs import pairs_write
from searchapp.services.gallery import Changes, NewEntry, entries_add, gallery_transaction
from searchapp.services.import_chunks import ChunkPlan, ImportContext, PlannedItem, PlannedPhoto
from searchapp.services.item_fields import search_text_of
from searchapp.services.media import media_exists, media_remove_unused
from searchapp.services.relabelling import relabelling

Save = Callable[[dict[str, Any]], None]


class RowVanished(Exception):
    """A row the plan was made from was changed or deleted by somebody else meanwhile."""


def chunk_write(context: ImportContext, plan: ChunkPlan, save: Save) -> None:
    """Write a plan. Raises IntegrityError or RowVanished when the rows have moved on: plan again."""
    kept = [planned for planned in plan.items.values() if planned.is_kept]
    with gallery_transaction() as changes:
        categories = _categories(context, kept, plan)
        with _moving(context, kept):
            _write_items(changes, kept, categories)
        _write_tags([planned for planned in kept if planned.tags is not None])
        _write_photos(changes, kept, context.version)
        pairs_write(plan.duplicates, job_id=context.job_id)
        _write_queries(plan, kept, categories)
        save(plan.report.as_checkpoint())
    used = {ready.stored.image_sha256 for planned in kept for ready in planned.photos}
    used |= {query.stored.image_sha256 for query in plan.queries}
    media_remove_unused(
        (stored.image_sha256, stored.files) for stored in plan.stored if stored.image_sha256 not in used
    )
    _store_again_what_vanished(context, plan)


def _categories(context: ImportContext, kept: list[PlannedItem], plan: ChunkPlan) -> dict[str, Category]:
    wanted = {planned.record.category: planned.record.vertical for planned in kept}
    for query in plan.queries:
        wanted.setdefault(query.record.category, query.record.vertical)
    # In the tree's order, so that two imports never lock each other's categories crosswise.
    for path, vertical in sorted(wanted.items(), key=lambda pair: pair[0].split(PATH_SEPARATOR)):
        if path not in context.categories:
            context.categories[path] = category_ensure(path, vertical=vertical, waits=context.waits)
    return context.categories


def _moving(context: ImportContext, kept: list[PlannedItem]) -> AbstractContextManager[object]:
    """Around the writing of items: what follows those that get another category."""
    moved = [planned.item.pk for planned in kept if not planned.is_new and "category" in planned.changed]
    name = context.source.name
    return relabelling(moved, action="items.relabel", subject=f"import of {name}") if moved else nullcontext()


def _write_items(changes: Changes, kept: list[PlannedItem], categories: dict[str, Category]) -> None:
    new, changed = [], []
    for planned in kept:
        item = planned.item
        tags = planned.tags
        if tags is None:
            tags = [] if planned.is_new else sorted(tag.name for tag in item.tags.all())
        item.category = categories[planned.record.category]
        item.search_text = search_text_of(item, tags)
        if planned.is_new:
            new.append(item)
        elif planned.is_touched:
            values = {name: getattr(item, name) for name in {*planned.changed, "search_text"}}
            if not Item.objects.filter(pk=item.pk).update(updated_at=timezone.now(), **values):
                raise RowVanished(item.sku)
            changed.append(item.pk)
    Item.objects.bulk_create(new)
    changes.record(ChangeKind.ITEM_CHANGED, changed)  # of a new item the followers hear by its entries


def _write_tags(tagged: list[PlannedItem]) -> None:
    tags = tags_ensure(sorted({name for planned in tagged for name in planned.tags or ()}))
    links = Item.tags.through
    links.objects.filter(item__in=[planned.item.pk for planned in tagged]).delete()
    links.objects.bulk_create(
        [
            links(item_id=planned.item.pk, tag_id=tags[name].pk)
            for planned in tagged
            for name in planned.tags or ()
        ]
    )


def _write_photos(changes: Changes, kept: list[PlannedItem], version: ModelVersion | None) -> None:
    ready = [(planned, number, photo) for planned in kept for number, photo in enumerate(planned.photos)]
    rows = ItemImage.objects.bulk_create(
        [
            ItemImage(item=planned.item, position=planned.next_position + number, **photo.stored.as_row())
            for planned, number, photo in ready
        ]
    )
    if version is None:
        return
    entries = [_entry(row, photo) for row, (_, _, photo) in zip(rows, ready, strict=True)]
    if entries:
        entries_add(changes, version=version, entries=entries)


def _entry(row: ItemImage, photo: PlannedPhoto) -> NewEntry:
    return NewEntry(row.pk, row.image_sha256, photo.code, photo.embedding, photo.feature)


def _write_queries(plan: ChunkPlan, kept: list[PlannedItem], categories: dict[str, Category]) -> None:
    ids = {planned.record.sku: planned.item.pk for planned in kept}
    missing = {query.record.sku for query in plan.queries if query.record.sku} - set(ids)
    ids.update(Item.objects.filter(sku__in=missing).values_list("sku", "pk"))
    EvaluationQuery.objects.filter(source__in=[query.source for query in plan.queries]).delete()
    EvaluationQuery.objects.bulk_create(
        [
            EvaluationQuery(
                source=query.source,
                split=query.record.split,
                image_sha256=query.stored.image_sha256,
                upload_sha256=query.stored.upload_sha256,
                extension=query.stored.extension,
                relevance=query.record.relevance,
                item_id=ids[query.record.sku] if query.record.sku else None,
                category=categories[query.record.category],
            )
            for query in plan.queries
            if query.record.sku is None or query.record.sku in ids
        ]
    )


def _store_again_what_vanished(context: ImportContext, plan: ChunkPlan) -> None:
    """A deletion elsewhere may have taken a shared file between our writing it and our commit."""
    photos = [ready for planned in plan.items.values() for ready in planned.photos]
    for photo, stored in [(ready.photo, ready.stored) for ready in photos] + [
        (query.record.photo, query.stored) for query in plan.queries
    ]:
        if not all(map(media_exists, stored.files)):
            intake.image_store(context.source.read(photo))
