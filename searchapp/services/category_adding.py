"""A new category with its photos in one step: category, items, photos and the jobs that follow commit together."""

from collections.abc import Callable, Sequence

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from searchapp.exceptions import InvalidInput, NotFound, SearchAppError
from searchapp.models import Category, Item, Vertical
from searchapp.services import audit, intake, learning
from searchapp.services.catalogue import image_row_add, item_row_add
from searchapp.services.categories import category_create
from searchapp.services.encoding import encode_job_ensure
from searchapp.services.gallery import Changes, gallery_transaction
from searchapp.services.holding_out import hold_out
from searchapp.services.item_fields import tags_clean
from searchapp.services.photo_batches import NamedPhoto, PhotoBatch, batch_cleaned, files_written

__all__ = ["NamedPhoto", "PhotoBatch", "category_add", "photos_add"]

SKU_LENGTH = 100  # of the part made from the category's name
NO_PHOTOS = PhotoBatch()


def category_add(
    *,
    name: str,
    parent: Category | None = None,
    vertical: str = Vertical.PRODUCT,
    tags: Sequence[str] = (),
    batch: PhotoBatch = NO_PHOTOS,
    one_item: bool = True,
    user: AbstractBaseUser | None = None,
) -> Category:
    """A category with its items and photos, on its way to be searchable and, in a gallery already in use, learned.

    one_item: all photos show one product, named like the category; else each photo is a product of its own. Raises
    InvalidInput naming all that is wrong (fields: name, parent, vertical, tags, photos, archive); nothing is written.
    """

    def rehearsed() -> None:
        with transaction.atomic():
            category_create(name=name, parent=parent, vertical=vertical)
            transaction.set_rollback(True)

    ready, unusable = batch_cleaned(batch)
    _refuse({**_problems_of(rehearsed), **_problems_of(lambda: tags_clean(tags)), **unusable})
    with files_written(ready), gallery_transaction() as changes:
        category = category_create(name=name, parent=parent, vertical=vertical)
        added = _photos_written(changes, ready, _new_items(changes, category, ready, tags, one_item=one_item))
        audit.event_record(
            action="category.add",
            actor=user,
            subject=category.path,
            after={"slug": category.slug, "vertical": category.vertical, "photos": added},
        )
        _follow(category, added, user)
    return category


def photos_add(
    *, category: Category, batch: PhotoBatch, one_item: bool = True, user: AbstractBaseUser | None = None
) -> int:
    """More photos of a category that is there; returns how many were new. One that waits is learned with them.

    one_item: they show the category's only product, or a new one where it has none or several. Raises InvalidInput
    (fields: photos, archive) and NotFound.
    """
    ready, unusable = batch_cleaned(batch)
    _refuse(unusable if ready or unusable else {"photos": "choose one or more, or a zip of them"})
    with files_written(ready), gallery_transaction() as changes:
        # Items before their category, as everybody locks them.
        own = Item.objects.select_for_update(of=("self",)).filter(category=category.pk)
        present = list(own.order_by("pk")[:2])
        found = Category.objects.select_for_update(no_key=True).filter(pk=category.pk).first()
        if found is None:
            raise NotFound(f"The category {category.path!r} is gone; nothing was written.")
        is_the_only = one_item and len(present) == 1
        items = present if is_the_only else _new_items(changes, found, ready, (), one_item=one_item)
        added = _photos_written(changes, ready, items)
        _follow(found, added, user)
    return added


def _follow(category: Category, added: int, user: AbstractBaseUser | None) -> None:
    """What new photos bring with them: some are held out, all are encoded, and a waiting category is learned."""
    if not added:
        return
    hold_out([category.path])
    encode_job_ensure(user)
    if learning.waiting_categories(learning.version_in_use()).filter(pk=category.pk).exists():
        learning.learn_start(user=user)  # with all others that wait by then


def _new_items(
    changes: Changes,
    category: Category,
    ready: Sequence[intake.CleanImage],
    tags: Sequence[str],
    *,
    one_item: bool,
) -> list[Item]:
    """One item for all photos, or one for each."""
    count = min(1, len(ready)) if one_item else len(ready)
    return [
        item_row_add(changes, sku=sku, tags=tags, title=category.name, category=category)
        for sku in _free_skus(category, count, is_numbered=not one_item)
    ]


def _photos_written(changes: Changes, ready: Sequence[intake.CleanImage], items: Sequence[Item]) -> int:
    """The rows of the photos, all of the first item or one of each; returns how many are new."""
    owners = items if len(items) == len(ready) else [items[0]] * len(ready)
    return sum(image_row_add(changes, item, clean)[1] for item, clean in zip(owners, ready, strict=True))


def _free_skus(category: Category, count: int, *, is_numbered: bool) -> list[str]:
    """SKUs nobody has, made of the category's name: the name itself for a single product, else numbered."""
    base = category.slug[:SKU_LENGTH]
    taken = set(Item.objects.filter(sku__startswith=base).values_list("sku", flat=True))
    found = [base] if count and not is_numbered and base not in taken else []
    number = 1 if is_numbered else 2
    while len(found) < count:
        if f"{base}-{number}" not in taken:
            found.append(f"{base}-{number}")
        number += 1
    return found


def _problems_of(write: Callable[[], object]) -> dict[str, str]:
    try:
        write()
    except SearchAppError as error:
        return error.fields or {"name": error.message}
    return {}


def _refuse(problems: dict[str, str]) -> None:
    if problems:
        told = "; ".join(f"{field}: {problem}" for field, problem in problems.items())
        raise InvalidInput(f"Nothing was written: {told}", fields=problems)
