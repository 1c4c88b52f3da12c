"""View models of the search page and of the panel that asks again."""

from dataclasses import dataclass, field, replace
from typing import Any

from django.conf import settings
from django.urls import reverse

from searchapp.addresses import item_url
from searchapp.exceptions import SearchAppError
from searchapp.models import PATH_SEPARATOR, Item, Vertical
from searchapp.views.asking import CROP_FIELDS, Asked
from searchapp.views.cards import CURRENCY_SIGNS, Photo, leaf_of, thumbnail_of
from searchapp.views.outcomes import Failure, Results
from searchapp.views.shelves import Facets, Tile

NO_PHOTO = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


@dataclass(frozen=True, slots=True)
class Option:
    value: str
    label: str
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class CropField:
    name: str
    label: str
    value: str
    low: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class ItemSubject:
    url: str
    title: str
    photo: Photo


@dataclass(frozen=True, slots=True)
class Panel:
    """What was asked with, as a form that asks again."""

    kind: str
    title: str
    strip_hint: str
    method: str
    action: str
    words: str
    words_label: str
    words_hint: str
    hidden: tuple[tuple[str, str], ...]
    photo: str
    photo_url: str
    kept: str
    item: ItemSubject | None
    crop_fields: tuple[CropField, ...]
    crop_is_open: bool
    categories: tuple[Option, ...]
    verticals: tuple[Option, ...]
    tags: tuple[str, ...]
    tag_options: tuple[str, ...]
    has_prices: bool
    currency: str
    price_min: str
    price_max: str
    errors: dict[str, str] = field(default_factory=dict)
    no_photo_url: str = NO_PHOTO
    retention_days: int = settings.QUERY_IMAGE_RETENTION_DAYS

    @property
    def has_photo(self) -> bool:
        return self.kind in ("photo", "sample")


@dataclass(frozen=True, slots=True)
class SearchPage:
    blank_panel: Panel
    panel: Panel | None = None
    results: Results | None = None
    error: str = ""
    samples: tuple[Tile, ...] = ()
    shelves: tuple[Tile, ...] = ()
    title: str = "Perennial: find it by its picture"
    max_bytes: int = settings.IMAGE_MAX_BYTES
    unexplained: Failure = field(
        default=Failure("No connection", "Your photo is still here; try again in a moment.")
    )
    offline: Failure = field(
        default=Failure(
            "No connection", "The search could not be sent. Your photo is still here.", can_retry=True
        )
    )


TITLES = {"photo": "Your photo", "sample": "Sample photo", "item": "More like this", "text": "Filters"}


def panel_of(
    asked: Asked,
    found: Facets,
    *,
    photo_url: str = "",
    kept: str = "",
    item: Item | None = None,
    as_photo: bool = False,
) -> Panel:
    """The form beside the results. `as_photo` makes it one for a photo whatever was asked."""
    kind = "photo" if as_photo else asked.kind
    hidden = {"sample": ("sample", asked.sample), "item": ("sku", asked.sku)}.get(kind)
    return Panel(
        kind=kind,
        title=TITLES.get(kind, "Search"),
        strip_hint="Crop and filters" if kind in ("photo", "sample") else "Category, tag and more",
        method="post" if kind == "photo" else "get",
        action=reverse("search" if kind == "photo" else "start"),
        words=asked.words,
        words_label="What you are looking for" if kind == "text" else "Refine with words",
        words_hint="red apple" if kind == "text" else "refine with words",
        hidden=(hidden,) if hidden else (),
        photo=asked.photo if asked.photo != "new" else "",
        photo_url=photo_url,
        kept=kept,
        item=ItemSubject(item_url(item.sku), item.title or item.sku, _photo(item)) if item else None,
        crop_fields=_crop_fields(asked),
        crop_is_open=False,
        categories=_categories(asked, found),
        verticals=_verticals(asked, found),
        tags=tuple(asked.values("tag")),
        tag_options=tuple(found.tags),
        has_prices=found.has_prices or bool(asked.value("price_min") or asked.value("price_max")),
        currency=CURRENCY_SIGNS.get(found.currency, found.currency),
        price_min=asked.value("price_min"),
        price_max=asked.value("price_max"),
    )


def with_errors(panel: Panel, error: SearchAppError) -> Panel:
    return replace(panel, errors=dict(error.fields), crop_is_open="crop" in error.fields)


def _crop_fields(asked: Asked) -> tuple[CropField, ...]:
    labels = (("Left %", 0), ("Top %", 0), ("Width %", 1), ("Height %", 1))
    return tuple(
        CropField(name=name, label=label, value=f"{value:g}", low=low)
        for name, (label, low), value in zip(CROP_FIELDS, labels, asked.crop)
    )


def _categories(asked: Asked, found: Facets) -> tuple[Option, ...]:
    """The tree as options, indented by depth; empty branches are left out."""
    chosen = asked.value("category")
    return tuple(
        Option(category["slug"], _indented(category["path"]), category["slug"] == chosen)
        for category in found.categories
        if category["count"] or category["slug"] == chosen
    )


def _indented(path: str) -> str:
    return "\u00a0\u00a0" * path.count(PATH_SEPARATOR) + leaf_of(path)


def _verticals(asked: Asked, found: Facets) -> tuple[Option, ...]:
    chosen = asked.value("vertical")
    if len(found.verticals) < 2 and not chosen:
        return ()
    labels: list[tuple[Any, str]] = [
        ("", "Both"),
        (Vertical.PRODUCT, "Products"),
        (Vertical.LANDMARK, "Places"),
    ]
    return tuple(Option(str(value), label, value == chosen) for value, label in labels)


def _photo(item: Item) -> Photo:
    return thumbnail_of(next(iter(item.images.all()), None), item)
