"""View models of the search page: the panel, the results, and what to say when there are none."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from django.conf import settings
from django.urls import reverse

from searchapp.exceptions import (
    BadImage,
    InvalidInput,
    NotFound,
    SearchAppError,
    TooManyRequests,
    Unavailable,
)
from searchapp.models import PATH_SEPARATOR, Item, Vertical
from searchapp.services.search_answers import SearchAnswer
from searchapp.views.asking import CROP_FIELDS, Asked
from searchapp.views.cards import CURRENCY_SIGNS, Card, Photo, item_url, leaf_of, result_card, thumbnail_of
from searchapp.views.shelves import Facets, Tile

NO_PHOTO = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
PATIENCE_SECONDS = 10  # a longer wait is the shopper's to end, not ours to repeat


@dataclass(frozen=True, slots=True)
class Option:
    value: str
    label: str
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Chip:
    field: str
    value: str
    label: str


@dataclass(frozen=True, slots=True)
class CropField:
    name: str
    label: str
    value: str
    low: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Advice:
    title: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer, in words, and the one thing to do next."""

    title: str
    text: str
    kind: str = "error"  # or "wait"
    can_retry: bool = False
    needs_photo: bool = False
    retry_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Results:
    heading: str = ""
    took: str = ""
    chips: tuple[Chip, ...] = ()
    cards: tuple[Card, ...] = ()
    weak_cards: tuple[Card, ...] = ()
    advice: Advice | None = None
    failure: Failure | None = None


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


def results_of(answer: SearchAnswer, asked: Asked, found: Facets, *, is_staff: bool) -> Results:
    cards = [result_card(result, query_id=answer.query_id, is_staff=is_staff) for result in answer.results]
    good = tuple(card for card in cards if card.strength != "weak")
    weak = tuple(card for card in cards if card.strength == "weak")
    return Results(
        heading=heading_of(len(cards), answer.strong_count),
        took=f"{math.ceil(answer.took_ms['total'])} ms",
        chips=chips_of(asked, found),
        cards=good,
        weak_cards=weak,
        advice=_advice(asked, has_any=bool(cards), has_good=bool(good)),
    )


def heading_of(count: int, strong: int) -> str:
    results = "1 result" if count == 1 else f"{count} results"
    return f"{results}, {strong or 'none'} strong" if count else "Nothing here looks like it"


def failed(error: SearchAppError, asked: Asked, found: Facets) -> Results:
    return Results(failure=failure_of(error), chips=chips_of(asked, found))


def failure_of(error: SearchAppError) -> Failure:
    """One cause, one sentence, one next step."""
    if isinstance(error, BadImage):
        return Failure("That photo cannot be used", error.message, needs_photo=True)
    if isinstance(error, TooManyRequests):
        wait = error.retry_after_seconds
        pause = f"{wait} s" if wait < 120 else f"{wait / 3600:.0f} h" if wait >= 5400 else f"{wait // 60} min"
        text = f"That was a lot of searches from your address. You can go on in {pause}."
        again = wait if wait <= PATIENCE_SECONDS else 0
        return Failure("A short break", text, kind="wait", can_retry=True, retry_seconds=again)
    if isinstance(error, Unavailable):
        text = f"{error.message} Your search is kept and goes on by itself."
        return Failure(
            "One moment", text, kind="wait", can_retry=True, retry_seconds=error.retry_after_seconds
        )
    if isinstance(error, NotFound):
        return Failure("That is not here any more", error.message)
    if isinstance(error, InvalidInput):
        return Failure(
            "Something in the search is not right", " ".join(error.fields.values()) or error.message
        )
    return Failure("The search did not work", error.message, can_retry=True)


PHOTO_GONE = Failure(
    "Choose the photo again",
    "This was a search by photo. Photos are not stored, so the address alone cannot repeat it.",
    needs_photo=True,
)


def chips_of(asked: Asked, found: Facets) -> tuple[Chip, ...]:
    return tuple(Chip(name, value, _chip_label(name, value, found)) for name, value in asked.filters)


def _chip_label(name: str, value: str, found: Facets) -> str:
    sign = CURRENCY_SIGNS.get(found.currency, found.currency)
    if name == "category":
        return next(
            (leaf_of(row["path"]) for row in found.categories if row["slug"] == value), leaf_of(value)
        )
    if name == "vertical":
        return {"product": "Products", "landmark": "Places"}.get(value, value)
    if name in ("price_min", "price_max"):
        return f"{'≥' if name == 'price_min' else '≤'} {value} {sign}".strip()
    return value


def _advice(asked: Asked, *, has_any: bool, has_good: bool) -> Advice | None:
    if has_good:
        return None
    steps = []
    if asked.kind in ("photo", "sample"):
        steps.append("Crop the photo tightly around the one thing you mean.")
        if not asked.words:
            steps.append("Add a word or two, such as its colour or what it is.")
    if asked.filters:
        steps.append("Take a filter away.")
    else:
        steps.append("Choose a category, so that only its items are compared.")
    if asked.kind == "text":
        steps.insert(0, "Try fewer or other words, or a photo.")
    title = "No strong match: the ones below are guesses." if has_any else "What you can try next"
    return Advice(title, tuple(steps))


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
