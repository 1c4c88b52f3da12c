"""What the catalogue offers to choose from: categories with counts, tags, sample photos."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

from django.conf import settings
from django.core.cache import cache
from django.db.models import Count, Min
from django.urls import reverse

from searchapp.exceptions import NotFound
from searchapp.models import (
    PATH_SEPARATOR,
    Category,
    EvaluationQuery,
    GalleryCounter,
    Item,
    ItemImage,
    Tag,
    stored_path,
    thumbnail_path,
)
from searchapp.views.asking import Asked
from searchapp.views.cards import Photo, leaf_of

TAGS_OFFERED = 100
SAMPLES = 6
SHELVES = 6
CACHE_SECONDS = 300


class CategoryFact(TypedDict):
    slug: str
    path: str
    vertical: str
    count: int


@dataclass(frozen=True, slots=True)
class Facets:
    """Plain facts, so that any cache can hold them. Counts include the categories beneath."""

    categories: list[CategoryFact]
    tags: list[str]
    currency: str
    has_prices: bool
    samples: list[dict[str, Any]]
    shelves: list[dict[str, Any]]

    @property
    def verticals(self) -> set[str]:
        return {category["vertical"] for category in self.categories if category["count"]}


@dataclass(frozen=True, slots=True)
class Tile:
    url: str
    photo: Photo
    name: str = ""
    count_word: str = ""


def facets() -> Facets:
    """One query when nothing changed since the last call."""
    counter = GalleryCounter.objects.values_list("value", flat=True).first() or 0
    key = f"facets:{counter}"
    found = cache.get(key)
    if found is None:
        found = asdict(_facets())
        cache.set(key, found, CACHE_SECONDS)
    return Facets(**found)


def sample_tiles(found: Facets) -> list[Tile]:
    return [
        Tile(
            url=Asked(sample=str(sample["id"])).address(),
            photo=Photo(f"{settings.MEDIA_URL}{sample['thumbnail']}", sample["alt"], 72, 72),
        )
        for sample in found.samples
    ]


def sample_path(sample: str) -> str:
    """The file of a sample photo by the number its address names. Raises NotFound."""
    found = EvaluationQuery.objects.public().filter(pk=sample[:18]).first()
    if found is None:
        raise NotFound("That sample photo is not in the catalogue any more.")
    return stored_path(found.image_sha256, found.extension)


def shelf_tiles(found: Facets) -> list[Tile]:
    return [
        Tile(
            url=f"{reverse('browse')}?category={shelf['slug']}",
            photo=Photo(f"{settings.MEDIA_URL}{shelf['thumbnail']}", "", colour=shelf["colour"]),
            name=shelf["name"],
            count_word=items_word(shelf["count"]),
        )
        for shelf in found.shelves
    ]


def items_word(count: int) -> str:
    return "1 item" if count == 1 else f"{count:,} items"


def _facets() -> Facets:
    categories = _categories()
    priced = (
        Item.objects.filter(price__isnull=False).order_by().values_list("currency", flat=True).distinct()[:2]
    )
    currencies = list(priced)
    tags = Tag.objects.annotate(uses=Count("items")).filter(uses__gt=0).order_by("-uses", "name")
    return Facets(
        categories=categories,
        tags=list(tags.values_list("name", flat=True)[:TAGS_OFFERED]),
        currency=currencies[0] if len(currencies) == 1 else "",
        has_prices=bool(currencies),
        samples=_samples(),
        shelves=_shelves(categories),
    )


def _categories() -> list[CategoryFact]:
    own = dict(Item.objects.order_by().values_list("category").annotate(Count("pk")))
    rows = list(Category.objects.values_list("pk", "slug", "path", "vertical"))
    totals: dict[str, int] = defaultdict(int)
    for pk, _, path, _ in rows:
        steps = path.split(PATH_SEPARATOR)
        for depth in range(1, len(steps) + 1):
            totals[PATH_SEPARATOR.join(steps[:depth])] += own.get(pk, 0)
    return [
        CategoryFact(slug=slug, path=path, vertical=vertical, count=totals[path])
        for _, slug, path, vertical in rows
    ]


def _samples() -> list[dict[str, Any]]:
    """A few held-out photos, spread evenly over the categories that have any."""
    public = EvaluationQuery.objects.public()
    firsts = public.order_by().values("category").annotate(first=Min("pk")).order_by("category")
    ids = list(firsts.values_list("first", flat=True))
    chosen = [ids[index * len(ids) // SAMPLES] for index in range(SAMPLES)] if len(ids) > SAMPLES else ids
    rows = EvaluationQuery.objects.filter(pk__in=chosen).select_related("category")
    return [
        {
            "id": row.pk,
            "thumbnail": thumbnail_path(row.image_sha256),
            "alt": f"Search with a photo of {leaf_of(row.category.path)}",
        }
        for row in rows
    ]


def _shelves(categories: list[CategoryFact]) -> list[dict[str, Any]]:
    counts = {category["path"]: category["count"] for category in categories if category["count"]}
    roots = Category.objects.filter(parent=None, path__in=counts)
    shelves = []
    for root in sorted(roots, key=lambda category: (-counts[category.path], category.path))[:SHELVES]:
        inside = Category.objects.subtree(root)
        image = ItemImage.objects.filter(item__category__in=inside).order_by("pk").first()
        if image is not None:
            shelves.append(
                {
                    "slug": root.slug,
                    "name": root.name,
                    "count": counts[root.path],
                    "thumbnail": image.thumbnail,
                    "colour": image.colour,
                }
            )
    return shelves
