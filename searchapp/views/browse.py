"""The catalogue as a list: category tree, filters and pages, all in the address."""

from dataclasses import dataclass
from urllib.parse import urlencode

from django.core.paginator import Page, Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from searchapp.access import Role, role_of
from searchapp.addresses import item_url
from searchapp.exceptions import InvalidInput, TooManyRequests
from searchapp.models import PATH_SEPARATOR, Item, Vertical
from searchapp.services import browsing
from searchapp.services.throttling import items_spend, search_spend
from searchapp.views.asking import Asked, asked_in
from searchapp.views.cards import Link, Photo, category_of, leaf_of, place_of, price_of, thumbnail_of
from searchapp.views.items import refused
from searchapp.views.outcomes import Chip, chips_of
from searchapp.views.shelves import Facets, facets, items_word
from searchapp.visitor import client_address

PAGE_SIZE = 24
MAX_PAGE = 400  # shallow on purpose, like the API
TAGS_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Tile:
    url: str
    photo: Photo
    title: str
    category: str
    price: str
    place: str


@dataclass(frozen=True, slots=True)
class BrowsePage:
    heading: str
    count_word: str
    words: str
    tree: tuple[Link, ...]
    chips: tuple[tuple[Chip, str], ...]
    tags: tuple[Link, ...]
    verticals: tuple[Link, ...]
    tiles: tuple[Tile, ...]
    previous_url: str
    next_url: str
    page_word: str
    kept: tuple[tuple[str, str], ...]
    error: str = ""


def browse(request: HttpRequest) -> HttpResponse:
    """GET /browse: filters and pages in the address."""
    found = facets()
    asked = Asked()
    try:
        asked = asked_in(request.GET)
        wanted = browsing.Wanted(options=asked.options(), text=asked.words)
        is_anonymous = role_of(request.user, None) == Role.ANONYMOUS
        if is_anonymous and asked.words:
            search_spend(client=client_address(request.META))
        pages = Paginator(browsing.items_listed(wanted, with_state=False), PAGE_SIZE)
        page = pages.get_page(min(_page_number(request), MAX_PAGE))
        tiles = tuple(_tile(row) for row in page)
        if is_anonymous:
            items_spend(client=client_address(request.META), skus=[row.sku for row in page])
    except TooManyRequests as error:
        return refused(request, error)
    except InvalidInput as error:
        context = {
            "page": _browse_page(
                asked, found, None, (), error=" ".join(error.fields.values()) or error.message
            )
        }
        return render(request, "catalogue/browse.html", context, status=error.status)
    return render(request, "catalogue/browse.html", {"page": _browse_page(asked, found, page, tiles)})


def _page_number(request: HttpRequest) -> int:
    text = request.GET.get("page", "1")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 1


def _tile(row: Item) -> Tile:
    return Tile(
        url=item_url(row.sku),
        photo=thumbnail_of(next(iter(row.images.all()), None), row),
        title=row.title or row.sku,
        category=category_of(row),
        price=price_of(row),
        place=place_of(row),
    )


def _browse_page(
    asked: Asked, found: Facets, page: "Page[Item] | None", tiles: tuple[Tile, ...], error: str = ""
) -> BrowsePage:
    total = page.paginator.count if page else 0
    chosen = _category_path(asked, found)
    return BrowsePage(
        heading=leaf_of(chosen) if chosen else "The whole catalogue",
        count_word=items_word(total),
        words=asked.words,
        tree=_tree(asked, found, chosen),
        chips=tuple((chip, _url(asked.without(chip.field, chip.value))) for chip in chips_of(asked, found)),
        tags=tuple(
            Link(_url(_with(asked, "tag", tag)), tag)
            for tag in found.tags[:TAGS_SHOWN]
            if tag not in asked.values("tag")
        ),
        verticals=_verticals(asked, found),
        tiles=tiles,
        previous_url=_url(asked, page.previous_page_number()) if page and page.has_previous() else "",
        next_url=_url(asked, page.next_page_number())
        if page and page.has_next() and page.number < MAX_PAGE
        else "",
        page_word=f"Page {page.number} of {page.paginator.num_pages}"
        if page and page.paginator.num_pages > 1
        else "",
        kept=asked.filters,
        error=error,
    )


def _url(asked: Asked, page: int = 1) -> str:
    pairs = [("q", asked.words), *asked.filters, ("page", str(page) if page > 1 else "")]
    query = urlencode([(name, value) for name, value in pairs if value])
    return reverse("browse") + (f"?{query}" if query else "")


def _with(asked: Asked, field: str, value: str) -> Asked:
    others = tuple(pair for pair in asked.filters if field == "tag" or pair[0] != field)
    return Asked(words=asked.words, filters=(*others, (field, value)) if value else others)


def _category_path(asked: Asked, found: Facets) -> str:
    wanted = asked.value("category")
    return next((row["path"] for row in found.categories if wanted in (row["slug"], row["path"])), "")


def _tree(asked: Asked, found: Facets, chosen: str) -> tuple[Link, ...]:
    """The roots, and beneath the chosen category's ancestors their children; empty branches are left out."""

    def level(parent: str) -> tuple[Link, ...]:
        prefix = f"{parent}{PATH_SEPARATOR}" if parent else ""
        rows = [row for row in found.categories if row["path"].startswith(prefix) and row["count"]]
        return tuple(
            Link(
                url=_url(_with(asked, "category", row["slug"])),
                text=leaf_of(row["path"]),
                count=f"{row['count']:,}",
                is_current=row["path"] == chosen,
                children=level(row["path"])
                if (chosen + PATH_SEPARATOR).startswith(row["path"] + PATH_SEPARATOR)
                else (),
            )
            for row in rows
            if PATH_SEPARATOR not in row["path"].removeprefix(prefix)
        )

    everything = Link(_url(_with(asked, "category", "")), "Everything", is_current=not chosen)
    return (everything, *level(""))


def _verticals(asked: Asked, found: Facets) -> tuple[Link, ...]:
    if len(found.verticals) < 2:
        return ()
    chosen = asked.value("vertical")
    names = (("", "Both"), (Vertical.PRODUCT.value, "Products"), (Vertical.LANDMARK.value, "Places"))
    return tuple(
        Link(_url(_with(asked, "vertical", value)), text, is_current=value == chosen) for value, text in names
    )
