"""Which photos a look at shifts compares: those a category is known by, held-out ones of that time, and later ones."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import QuerySet
from django.utils import timezone

from searchapp.models import EvaluationQuery, ItemImage, ModelVersion, stored_path
from searchapp.services.learning import waiting_categories

MOST_NEW, MOST_HELD, MOST_USUAL = 500, 500, 4_000
_FETCHED = 500


class Cut(NamedTuple):
    """Until when photos of a category are those it is known by."""

    photo: int  # the newest there was
    at: datetime


class Photo(NamedTuple):
    image_sha256: str
    path: str
    item: int  # negative: a held-out photo of no item stands for itself
    category: int


Cuts = Mapping[int, Cut]  # by category id


def cuts_now(version: ModelVersion, before: Cuts) -> Cuts:
    """Of every known category that has photos: the cut of before, else this moment."""
    waiting = waiting_categories(version).values("pk")
    photos = ItemImage.objects.filter(failure="").exclude(item__category__in=waiting)
    known = set(photos.order_by().values_list("item__category", flat=True).distinct())
    newest = ItemImage.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    now = Cut(newest, timezone.now())
    return {category: before.get(category, now) for category in sorted(known)}


def cuts_from(rows: Iterable[Mapping[str, Any]]) -> Cuts:
    """The inverse of `cuts_as_rows`."""
    return {
        category: Cut(row["photo"], datetime.fromisoformat(row["at"]))
        for row in rows
        for category in row["categories"]
    }


def cuts_as_rows(cuts: Cuts) -> list[dict[str, Any]]:
    """For a job's result: categories that became known at the same look stand together."""
    return [
        {
            "photo": cut.photo,
            "at": cut.at.isoformat(),
            "categories": [category for category, own in cuts.items() if own == cut],
        }
        for cut in sorted(set(cuts.values()))
    ]


def new_photos(cuts: Cuts) -> list[Photo]:
    """Photos that came after the cut of their category, the newest MOST_NEW."""
    first = min((cut.photo for cut in cuts.values()), default=0)
    later = ItemImage.objects.filter(pk__gt=first).order_by("-pk")
    return _first(
        MOST_NEW, (one for pk, one in _rows(later) if one.category in cuts and pk > cuts[one.category].photo)
    )


def usual_photos(cuts: Cuts, categories: Collection[int]) -> list[Photo]:
    """What these categories are known by, none of it held out: MOST_USUAL by their content, which is chance."""
    held_out = EvaluationQuery.objects.values("image_sha256")
    photos = ItemImage.objects.filter(item__category__in=[pk for pk in categories if pk in cuts])
    rows = _rows(photos.exclude(image_sha256__in=held_out).order_by("image_sha256", "pk"))
    return _first(MOST_USUAL, (one for pk, one in rows if pk <= cuts[one.category].photo))


def held_out_photos(cuts: Cuts) -> list[Photo]:
    """Those held out before the cut of their category, MOST_HELD by their content, which is chance."""
    rows = EvaluationQuery.objects.filter(category__in=list(cuts)).order_by("image_sha256", "pk")
    return _first(
        MOST_HELD,
        (
            Photo(
                row.image_sha256,
                stored_path(row.image_sha256, row.extension),
                row.item_id if row.item_id is not None else -row.pk,
                row.category_id,
            )
            for row in rows.iterator(_FETCHED)
            if row.created_at <= cuts[row.category_id].at
        ),
    )


def _rows(photos: QuerySet[ItemImage]) -> Iterator[tuple[int, Photo]]:
    fields = ("pk", "image_sha256", "extension", "item_id", "item__category_id")
    for pk, sha256, extension, item, category in (
        photos.filter(failure="").values_list(*fields).iterator(_FETCHED)
    ):
        yield pk, Photo(sha256, stored_path(sha256, extension), item, category)


def _first(most: int, photos: Iterable[Photo]) -> list[Photo]:
    """The first `most` of different content."""
    found: dict[str, Photo] = {}
    for photo in photos:
        found.setdefault(photo.image_sha256, photo)
        if len(found) == most:
            break
    return list(found.values())


def having(photos: Sequence[Photo], contents: Collection[str], categories: Collection[int]) -> list[Photo]:
    """Those of these contents and categories."""
    return [one for one in photos if one.image_sha256 in contents and one.category in categories]
