"""What a category holds, in numbers and pictures: shown before it is merged, split or deleted."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Prefetch, Q, QuerySet

from searchapp.models import Category, EvaluationQuery, GalleryEntry, Item, ItemImage

PICTURES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Contents:
    """pictures: of the first items, one each."""

    items: int
    photos: int
    categories: int  # beneath it
    codes: int  # stored, by any version
    held_out: int
    pictures: tuple[ItemImage, ...]


def contents_of(category: Category) -> Contents:
    """Of a category with everything beneath it."""
    tree = Category.objects.subtree(category)
    return _contents(
        Item.objects.filter(category__in=tree),
        categories=tree.count() - 1,
        held_out=EvaluationQuery.objects.filter(category__in=tree).count(),
    )


def contents_of_items(items: Sequence[Item]) -> Contents:
    ids = [item.pk for item in items]
    held_out = EvaluationQuery.objects.filter(item__in=ids).count()
    return _contents(Item.objects.filter(pk__in=ids), categories=0, held_out=held_out)


def items_found(category: Category, words: str) -> QuerySet[Item]:
    """The category's items whose SKU, title or other text contains each of the words; all of them without any."""
    found = category.items.order_by("title", "sku")
    for word in words.split():
        found = found.filter(Q(sku__icontains=word) | Q(search_text__icontains=word))
    return found.prefetch_related(Prefetch("images", ItemImage.objects.order_by("position", "pk")))


def _contents(items: QuerySet[Item], *, categories: int, held_out: int) -> Contents:
    photos = ItemImage.objects.filter(item__in=items)
    first = photos.filter(position=0).select_related("item").order_by("item", "pk")[:PICTURES_SHOWN]
    return Contents(
        items=items.count(),
        photos=photos.count(),
        categories=categories,
        codes=GalleryEntry.objects.filter(image__in=photos).count(),
        held_out=held_out,
        pictures=tuple(first),
    )
