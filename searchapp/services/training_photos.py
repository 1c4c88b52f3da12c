"""Which photos of the catalogue a training may see: readable, and never an evaluation query.

Where a category's source named no held-out photos, one in eight is held out by its content (services.holding_out).
Those are left out here even while the category is too small to have queries: it may grow.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from django.db.models import Count, Q, QuerySet

from searchapp.models import Category, EvaluationQuery, ItemImage, stored_path
from searchapp.services.catalogue import ONE_IN_EIGHT
from searchapp.services.holding_out import hold_out, one_in_eight

LEAST_PHOTOS = 2  # a single photo has no second one of its category to be told to resemble


@dataclass(frozen=True, slots=True)
class TrainingPhoto:
    image_id: int
    image_sha256: str
    extension: str
    category: str  # slug; empty for one whose category has too few photos to be learned
    vertical: str

    @property
    def path(self) -> str:
        return stored_path(self.image_sha256, self.extension)

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


def training_photos(scope: Mapping[str, str] | None = None) -> list[TrainingPhoto]:
    """In the order of their rows; each content once. Held-out queries are chosen first where some are missing.

    scope: {"category": slug} for those in it and beneath it, {"vertical": name} for those of one; empty for all.
    """
    hold_out(list(Category.objects.values_list("path", flat=True)))
    fields = ("pk", "image_sha256", "extension", "item__category__slug", "item__category__vertical")
    rows = usable_photos(scope).exclude(left_out()).order_by("-pk")
    found = {row[1]: row for row in rows.values_list(*fields)}.values()  # of equal files the first
    sizes = Counter(row[3] for row in found)
    return [
        TrainingPhoto(pk, sha256, extension, slug if sizes[slug] >= LEAST_PHOTOS else "", vertical)
        for pk, sha256, extension, slug, vertical in sorted(found)
    ]


def training_sizes(scope: Mapping[str, str] | None = None) -> dict[str, int]:
    """How many photos of each category a training would see, by slug, counted by the database and nothing changed.

    A file that several categories have counts in each.
    """
    counted = usable_photos(scope).exclude(left_out()).values_list("item__category__slug").order_by()
    sizes = dict(counted.annotate(count=Count("image_sha256", distinct=True)))
    return {slug: size for slug, size in sorted(sizes.items()) if size >= LEAST_PHOTOS}


def usable_photos(scope: Mapping[str, str] | None = None) -> QuerySet[ItemImage]:
    """Those that can be read and are no evaluation query of any set."""
    held_out = EvaluationQuery.objects.values("image_sha256")
    return ItemImage.objects.filter(_in_scope(scope or {}), failure="").exclude(image_sha256__in=held_out)


def left_out() -> Q:
    """One photo in eight by its content, where the category's source named no evaluation queries."""
    named = EvaluationQuery.objects.public().exclude(split=ONE_IN_EIGHT).values("category")
    return one_in_eight() & Q(item__category__in=Category.objects.exclude(pk__in=named))


def _in_scope(scope: Mapping[str, str]) -> Q:
    if "category" in scope:
        top = Category.objects.filter(slug=scope["category"]).first()
        beneath = Category.objects.subtree(top) if top is not None else Category.objects.none()
        return Q(item__category__in=beneath)
    return Q(item__category__vertical=scope["vertical"]) if scope else Q()


def category_sizes(photos: list[TrainingPhoto]) -> dict[str, int]:
    """Photos of each category that can be learned, by slug, sorted."""
    return dict(sorted(Counter(photo.category for photo in photos if photo.category).items()))
