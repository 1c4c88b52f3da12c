"""View models of photos and result cards: every word and number a template shows, ready made."""

from dataclasses import dataclass
from urllib.parse import urlencode
from uuid import UUID

from django.urls import reverse

from searchapp.addresses import alt_of, item_url, thumbnail_url
from searchapp.models import PATH_SEPARATOR, Item, ItemImage, Vertical
from searchapp.services.search_answers import Result

THUMBNAIL_BOX = 400
STRENGTH_WORDS = {"strong": "Strong match", "fair": "Possible match", "weak": "Probably not it"}
CURRENCY_SIGNS = {"EUR": "€", "USD": "$", "GBP": "£", "CHF": "CHF", "JPY": "¥"}


@dataclass(frozen=True, slots=True)
class Photo:
    url: str
    alt: str
    width: int = THUMBNAIL_BOX
    height: int = THUMBNAIL_BOX
    colour: str = "none"


@dataclass(frozen=True, slots=True)
class Link:
    url: str
    text: str
    count: str = ""
    is_current: bool = False
    children: tuple["Link", ...] = ()


@dataclass(frozen=True, slots=True)
class FeedbackForm:
    query_id: str
    sku: str
    title: str
    said: str = ""

    @property
    def said_word(self) -> str:
        return {"right": "This is it", "wrong": "Not this"}.get(self.said, "")


@dataclass(frozen=True, slots=True)
class Card:
    url: str
    more_url: str
    photo: Photo
    title: str
    category: str
    price: str
    place: str
    strength: str
    strength_word: str
    reasons: tuple[str, ...]
    feedback: FeedbackForm
    sku: str = ""
    explain_method: str = ""  # how the photo of the search travels to its explanation; "": there is no photo


def more_url(sku: str) -> str:
    return f"{reverse('start')}?{urlencode({'sku': sku})}"


def thumbnail_of(image: ItemImage | None, item: Item) -> Photo:
    if image is None:
        return Photo(url="", alt="No photo yet")
    return Photo(thumbnail_url(image), alt_of(image, item), colour=image.colour or "none")


def price_of(item: Item) -> str:
    if item.price is None:
        return ""
    sign = CURRENCY_SIGNS.get(item.currency, item.currency)
    return f"{item.price:,.2f} {sign}".strip()


def place_of(item: Item) -> str:
    """Where a landmark is, as a short line: its address, else its coordinates."""
    if item.category.vertical != Vertical.LANDMARK:
        return ""
    if item.address:
        return item.address
    return coordinates_of(item)


def coordinates_of(item: Item) -> str:
    if item.latitude is None or item.longitude is None:
        return ""
    return f"{item.latitude:.5f}, {item.longitude:.5f}"


def category_of(item: Item) -> str:
    """The category path for a card, without a last step that only repeats the title."""
    steps = item.category.path.split(PATH_SEPARATOR)
    repeats = len(steps) > 1 and steps[-1].replace("-", " ").casefold() == item.title.casefold()
    return " › ".join(steps[:-1] if repeats else steps)


def leaf_of(path: str) -> str:
    return path.rsplit(PATH_SEPARATOR, maxsplit=1)[-1]


def result_card(result: Result, *, query_id: UUID, is_staff: bool, explain_method: str = "") -> Card:
    item = result.row
    return Card(
        url=item_url(item.sku, query_id),
        more_url=more_url(item.sku),
        photo=thumbnail_of(result.photo, item),
        title=item.title or item.sku,
        category=category_of(item),
        price=price_of(item),
        place=place_of(item),
        strength=result.strength,
        strength_word=STRENGTH_WORDS[result.strength],
        reasons=_reasons(result, is_staff=is_staff),
        feedback=FeedbackForm(str(query_id), item.sku, item.title or item.sku),
        sku=item.sku,
        explain_method=explain_method,
    )


def _reasons(result: Result, *, is_staff: bool) -> tuple[str, ...]:
    """Plain words for shoppers; the figures behind them for staff."""
    reasons = [*result.plain]
    if is_staff:
        reasons.append(f"SKU {result.sku}, score {result.score:.4f}")
        if result.hamming is not None:
            reasons.append(
                f"Hamming {result.hamming}, entry {result.provenance} by version {result.producer}"
            )
    return tuple(reasons)
