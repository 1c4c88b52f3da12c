"""Items, their tags and photos: every write tells the followers, and keeps rows and files in step."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Unpack

from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.db.models import Max

from searchapp.exceptions import Conflict, NotFound
from searchapp.models import (
    ChangeKind,
    EvaluationQuery,
    GalleryEntry,
    Item,
    ItemImage,
    Tag,
    stored_path,
    thumbnail_path,
)
from searchapp.services import audit, intake
from searchapp.services.categories import (
    category_create,
    category_delete,
    category_ensure,
    category_update,
)
from searchapp.services.code_statistics import images_forget
from searchapp.services.encoding import encode_job_ensure
from searchapp.services.gallery import Changes, gallery_transaction
from searchapp.services.item_fields import ItemFields, fields_error, item_apply, search_text_of, tags_clean
from searchapp.services.media import media_remove_unused
from searchapp.services.relabelling import items_locked, relabelling

__all__ = [
    "ItemFields",
    "category_create",
    "category_delete",
    "category_ensure",
    "category_update",
    "image_add",
    "image_delete",
    "image_retry",
    "image_row_add",
    "item_create",
    "item_delete",
    "item_row_add",
    "item_update",
    "items_delete",
    "tags_ensure",
    "tags_set",
]

ALT_LENGTH = 300
DELETE_BATCH = 500
ONE_IN_EIGHT = "one-in-eight"


def item_create(*, sku: str, tags: Iterable[str] = (), **fields: Unpack[ItemFields]) -> Item:
    """A new item without photos; `category` is required.

    Raises InvalidInput naming the fields that are wrong, Conflict when the SKU is taken.
    """
    with gallery_transaction() as changes:
        return item_row_add(changes, sku=sku, tags=tags, **fields)


def item_row_add(
    changes: Changes, *, sku: str, tags: Iterable[str] = (), **fields: Unpack[ItemFields]
) -> Item:
    """As `item_create`, inside the caller's `gallery_transaction`, which outlives a refusal."""
    item = Item(sku=sku)
    item_apply(item, fields)
    if item.category_id is None:
        raise fields_error({"category": "it is required"})
    names = tags_clean(tags)
    item.search_text = search_text_of(item, names)
    try:
        with transaction.atomic():
            item.save(force_insert=True)
    except IntegrityError:
        if not Item.objects.filter(sku=sku).exists():
            raise
        raise Conflict(
            f"There is an item with the SKU {sku!r} already.", fields={"sku": "is taken"}
        ) from None
    item.tags.set(tags_ensure(names).values())
    changes.record(ChangeKind.ITEM_CHANGED, [item.pk])
    return item


def item_update(
    *,
    item: Item,
    tags: Iterable[str] | None = None,
    user: AbstractBaseUser | None = None,
    **fields: Unpack[ItemFields],
) -> Item:
    """Change the fields given; others stay. Nothing is written when nothing differs."""
    names = None if tags is None else tags_clean(tags)
    with gallery_transaction() as changes:
        # Locked without its category: joined, one that got another category while this waited would not be found.
        rows = Item.objects.select_for_update()
        sku, item = item.sku, rows.filter(pk=item.pk).first()  # type: ignore[assignment]
        if item is None:
            raise NotFound(f"The item {sku!r} is gone; nothing was changed.")
        changed: list[str] = item_apply(item, fields)
        present = sorted(item.tags.values_list("name", flat=True))
        are_tags_changed = names is not None and sorted(names) != present
        if names is not None and are_tags_changed:
            item.tags.set(tags_ensure(names).values())
        if changed or are_tags_changed:
            item.search_text = search_text_of(item, present if names is None else names)
            moving = relabelling([item.pk], action="item.relabel", subject=item.sku, user=user)
            with moving if "category" in changed else nullcontext():
                item.save(update_fields=[*changed, "search_text", "updated_at"])
            changes.record(ChangeKind.ITEM_CHANGED, [item.pk])
    return item


def tags_set(*, item: Item, names: Iterable[str]) -> Item:
    """Replace the item's tags, making those that are new."""
    return item_update(item=item, tags=names)


def tags_ensure(names: Sequence[str]) -> dict[str, Tag]:
    """Tags by name, made where missing; two queries for any number. Names must be clean already."""
    Tag.objects.bulk_create([Tag(name=name) for name in sorted(names)], ignore_conflicts=True)
    return {tag.name: tag for tag in Tag.objects.filter(name__in=names)}


def item_delete(*, item: Item, user: AbstractBaseUser | None = None) -> None:
    """Delete an item, its photos and their entries; it leaves every answer once followers have read of it."""
    items_delete(items=[item], user=user)


def items_delete(*, items: Iterable[Item], user: AbstractBaseUser | None = None) -> int:
    """Delete items, a batch a transaction; returns how many. Items already gone are passed over."""
    ids = [item.pk for item in items]
    deleted = 0
    for start in range(0, len(ids), DELETE_BATCH):
        with gallery_transaction() as changes:
            deleted += item_rows_delete(changes, ids[start : start + DELETE_BATCH], user)
    return deleted


def item_rows_delete(changes: Changes, ids: Sequence[int], user: AbstractBaseUser | None) -> int:
    """As `items_delete`, a batch of ids inside the caller's `gallery_transaction`."""
    present = items_locked(ids)
    rows = list(Item.objects.filter(pk__in=present).select_related("category").order_by("pk"))
    pictures = [_files(*row) for row in _pictures(present)]
    entries = list(GalleryEntry.objects.filter(image__item__in=present).values_list("pk", flat=True))
    for item in rows:
        audit.event_record(
            action="item.delete",
            actor=user,
            subject=item.sku,
            before={"title": item.title, "category": item.category.path},
        )
    images_forget(list(ItemImage.objects.filter(item__in=present).values_list("pk", flat=True)))
    Item.objects.filter(pk__in=present).delete()
    changes.record(ChangeKind.ENTRY_REMOVED, entries)
    changes.record(ChangeKind.ITEM_REMOVED, present)
    transaction.on_commit(lambda: media_remove_unused(pictures))
    return len(rows)


def _pictures(item_ids: list[int]) -> set[tuple[str, str]]:
    photos = ItemImage.objects.filter(item__in=item_ids).values_list("image_sha256", "extension")
    held_out = EvaluationQuery.objects.filter(item__in=item_ids).values_list("image_sha256", "extension")
    return {*photos, *held_out}


def _files(sha256: str, extension: str) -> tuple[str, tuple[str, ...]]:
    return sha256, (stored_path(sha256, extension), thumbnail_path(sha256))


def image_add(
    *,
    item: Item,
    data: bytes,
    filename: str = "",  # noqa: ARG001
    alt: str = "",
    user: AbstractBaseUser | None = None,
) -> ItemImage:
    """Store a photo of an item and see that it is encoded. The same upload twice is one photo.

    Raises the BadImage family for the file, InvalidInput for the text.
    """
    if len(alt) > ALT_LENGTH or "\x00" in alt:
        raise fields_error({"alt": f"{len(alt)} characters, allowed: {ALT_LENGTH} printable ones"})
    clean = intake.image_clean(data)
    intake.image_write(clean)
    try:
        return _image_row(item, clean, alt, user)
    except Item.DoesNotExist:
        media_remove_unused([(clean.stored.image_sha256, clean.stored.files)])
        raise NotFound(f"The item {item.sku!r} is gone; the photo was not kept.") from None


def _image_row(item: Item, clean: intake.CleanImage, alt: str, user: AbstractBaseUser | None) -> ItemImage:
    with gallery_transaction() as changes:
        item = Item.objects.select_for_update().get(pk=item.pk)
        image, is_new = image_row_add(changes, item, clean, alt=alt)
        if is_new:
            encode_job_ensure(user)
    return image


def image_row_add(
    changes: Changes, item: Item, clean: intake.CleanImage, *, alt: str = ""
) -> tuple[ItemImage, bool]:
    """The row of a photo whose files are written, and whether it is new; inside the caller's `gallery_transaction`.

    The item is locked by the caller, or its own. The caller sees to it that new photos are encoded.
    """
    last = item.images.aggregate(last=Max("position"))["last"]
    image, is_new = ItemImage.objects.get_or_create(
        item=item,
        upload_sha256=clean.stored.upload_sha256,
        defaults={**clean.stored.as_row(), "alt": alt, "position": 0 if last is None else last + 1},
    )
    if is_new:
        changes.record(ChangeKind.ITEM_CHANGED, [item.pk])
    # Look again after the commit: a deletion that ran meanwhile may have taken the file.
    transaction.on_commit(lambda: intake.image_write(clean))
    return image, is_new


def image_delete(*, image: ItemImage, user: AbstractBaseUser | None = None) -> None:
    """Delete a photo and its entries; its file goes when no other row uses it. Twice is the same as once."""
    with gallery_transaction() as changes:
        row = (
            ItemImage.objects.select_for_update(of=("self",))
            .select_related("item")
            .filter(pk=image.pk)
            .first()
        )
        if row is None:
            return
        entries = list(row.entries.values_list("pk", flat=True))
        audit.event_record(
            action="image.delete", actor=user, subject=row.item.sku, before={"image_sha256": row.image_sha256}
        )
        EvaluationQuery.objects.filter(
            split=ONE_IN_EIGHT, item=row.item_id, upload_sha256=row.upload_sha256
        ).delete()
        images_forget([row.pk])
        row.delete()
        changes.record(ChangeKind.ENTRY_REMOVED, entries)
        changes.record(ChangeKind.ITEM_CHANGED, [row.item_id])
        files = [_files(row.image_sha256, row.extension)]
        transaction.on_commit(lambda: media_remove_unused(files))


def image_retry(*, image: ItemImage, user: AbstractBaseUser | None = None) -> ItemImage:
    """Forget why a photo failed and have it encoded again."""
    with transaction.atomic():
        ItemImage.objects.filter(pk=image.pk).update(failure="")
        encode_job_ensure(user)
    image.refresh_from_db()
    return image
