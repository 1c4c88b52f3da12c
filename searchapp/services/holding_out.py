"""Evaluation queries of a catalogue without splits: one photo in eight of each category with eight or more.

Such a photo stays in the gallery and leaves its own answer out; it is never trained on. It is chosen by its
content, so photos that come later never move an earlier one from one side to the other.
"""

from collections.abc import Collection, Mapping, Sequence

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from searchapp.models import Category, EvaluationQuery, Item, ItemImage
from searchapp.services.catalogue import ONE_IN_EIGHT

LEAST_PHOTOS = 8


def hold_out(paths: Collection[str]) -> int:
    """Make the missing evaluation queries of these categories; returns how many they have. Twice is the
    same as once."""
    held = 0
    for category in _without_splits(paths):
        with transaction.atomic():
            held += _hold_out_of(category)
    return held


def _hold_out_of(category: Category) -> int:
    photos = ItemImage.objects.filter(item__category=category)
    if photos.count() < LEAST_PHOTOS:
        return 0
    EvaluationQuery.objects.bulk_create(
        [_query(photo, category) for photo in _locked(photos.filter(one_in_eight()), category)],
        ignore_conflicts=True,
        batch_size=500,
    )
    return EvaluationQuery.objects.filter(category=category, split=ONE_IN_EIGHT).count()


def _locked(photos: QuerySet[ItemImage], category: Category) -> QuerySet[ItemImage]:
    """Those of the photos that are still there, and stay so until the transaction ends.

    Items first and photos after, as every deletion does: locked together, each could wait for the other.
    """
    wanted = Item.objects.filter(pk__in=photos.values("item"), category=category)
    items = list(wanted.select_for_update(of=("self",)).order_by("pk").values_list("pk", flat=True))
    others = ItemImage.objects.filter(item=OuterRef("item")).exclude(pk=OuterRef("pk"))
    rows = photos.filter(item__in=items).select_related("item").annotate(has_siblings=Exists(others))
    return rows.select_for_update(of=("self",)).order_by("pk")


def held_out_expected(new_photos: Mapping[str, Sequence[int]]) -> int:
    """What `hold_out` would have made of a dry run: category path -> (new photos, those of them that are
    one in eight)."""
    present = {
        category.path: ItemImage.objects.filter(item__category=category)
        for category in _without_splits(new_photos)
    }
    with_splits = set(Category.objects.filter(path__in=new_photos).values_list("path", flat=True)) - set(
        present
    )
    expected = 0
    for path, (count, chosen) in new_photos.items():
        photos = present.get(path, ItemImage.objects.none())
        if path not in with_splits and photos.count() + count >= LEAST_PHOTOS:
            expected += chosen + photos.filter(one_in_eight()).count()
    return expected


def is_one_in_eight(image_sha256: str) -> bool:
    return int(image_sha256[-1], 16) % 8 == 0


def _without_splits(paths: Collection[str]) -> QuerySet[Category]:
    """A category whose source named its held-out photos keeps to those."""
    split_by_source = EvaluationQuery.objects.public().exclude(split=ONE_IN_EIGHT).values("category")
    return Category.objects.filter(path__in=list(paths)).exclude(pk__in=split_by_source)


def one_in_eight() -> Q:
    """As `is_one_in_eight`, asked of the database."""
    return Q(image_sha256__endswith="0") | Q(image_sha256__endswith="8")  # a hex digit that eight divides


def _query(photo: ItemImage, category: Category) -> EvaluationQuery:
    has_siblings = getattr(photo, "has_siblings", False)
    return EvaluationQuery(
        source=f"photo:{photo.item.sku}:{photo.upload_sha256}",
        split=ONE_IN_EIGHT,
        image_sha256=photo.image_sha256,
        upload_sha256=photo.upload_sha256,
        extension=photo.extension,
        relevance=EvaluationQuery.Relevance.ITEM if has_siblings else EvaluationQuery.Relevance.CATEGORY,
        item=photo.item,
        category=category,
    )
