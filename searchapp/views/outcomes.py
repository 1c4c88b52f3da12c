"""View models of an answer: the cards with their counts, or why there are none and what to do next."""

import math
from dataclasses import dataclass

from searchapp.exceptions import (
    BadImage,
    InvalidInput,
    NotFound,
    SearchAppError,
    TooManyRequests,
    Unavailable,
)
from searchapp.services.search_answers import SearchAnswer
from searchapp.views.asking import WHOLE, Asked
from searchapp.views.cards import CURRENCY_SIGNS, Card, leaf_of, result_card
from searchapp.views.shelves import Facets

EXPLAIN_METHODS = {"photo": "post", "sample": "get"}
PATIENCE_SECONDS = 10  # a longer wait is the shopper's to end, not ours to repeat


@dataclass(frozen=True, slots=True)
class Chip:
    field: str
    value: str
    label: str


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


PHOTO_GONE = Failure(
    "Choose the photo again",
    "This was a search by photo. Photos are not stored, so the address alone cannot repeat it.",
    needs_photo=True,
)


def results_of(answer: SearchAnswer, asked: Asked, found: Facets, *, is_staff: bool) -> Results:
    method = EXPLAIN_METHODS.get(asked.kind, "")
    cards = [
        result_card(result, query_id=answer.query_id, is_staff=is_staff, explain_method=method)
        for result in answer.results
    ]
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
        if asked.crop == WHOLE:
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
