"""One item's page: photos, facts, place, and what looks similar."""

from dataclasses import dataclass
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from searchapp.access import Role, role_of
from searchapp.addresses import alt_of, item_url
from searchapp.exceptions import NotFound, SearchAppError, TooManyRequests
from searchapp.models import PATH_SEPARATOR, Item, ItemImage, Vertical
from searchapp.services import browsing, query_log, search
from searchapp.services.search_options import SearchOptions
from searchapp.services.throttling import items_spend, search_spend
from searchapp.views.asking import Asked
from searchapp.views.cards import (
    Card,
    FeedbackForm,
    Link,
    Photo,
    coordinates_of,
    leaf_of,
    price_of,
    result_card,
    thumbnail_of,
)
from searchapp.views.outcomes import failure_of
from searchapp.visitor import client_address, visitor_of

SIMILAR = 8


@dataclass(frozen=True, slots=True)
class ItemPage:
    item: Item
    title: str
    canonical: str  # without the answer it was found in
    photo: Photo
    others: tuple[tuple[str, Photo, bool], ...]
    crumbs: tuple[Link, ...]
    price: str
    is_place: bool
    coordinates: str
    map_url: str
    tags: tuple[Link, ...]
    feedback: FeedbackForm | None
    similar: tuple[Card, ...]
    similar_note: str
    more_url: str


def item_by_sku(request: HttpRequest) -> HttpResponse:
    """GET /items/?sku=…: the page of an item whose SKU cannot stand in a path."""
    sku = request.GET.get("sku", "")
    return item(request, sku) if sku else HttpResponseRedirect(reverse("browse"))


def item(request: HttpRequest, sku: str) -> HttpResponse:
    """GET /items/<sku>."""
    try:
        found = browsing.item_named(sku.replace("\x00", "")[:120])
    except NotFound:
        raise Http404 from None
    is_anonymous = role_of(request.user, None) == Role.ANONYMOUS
    if is_anonymous:
        try:
            items_spend(client=client_address(request.META), skus=[found.sku])
        except TooManyRequests as error:
            return refused(request, error)
    _click(request, found)
    similar, note = _similar(request, found)
    return render(request, "catalogue/item.html", {"page": _item_page(request, found, similar, note)})


def _click(request: HttpRequest, found: Item) -> None:
    """The address of a result names the answer it stood in; a browser that only fetches ahead opened nothing."""
    query_id = _uuid(request.GET.get("query", ""))
    is_ahead = "prefetch" in request.headers.get("Sec-Purpose", request.headers.get("Purpose", ""))
    if query_id is not None and request.method == "GET" and not is_ahead:
        query_log.click_record(query_id, sku=found.sku)


def refused(request: HttpRequest, error: TooManyRequests) -> HttpResponse:
    """The page that says for how long an address has had its share."""
    response = render(request, "failure.html", {"failure": failure_of(error)}, status=error.status)
    response["Retry-After"] = str(error.retry_after_seconds)
    return response


def _similar(request: HttpRequest, found: Item) -> tuple[tuple[Card, ...], str]:
    """What looks alike; a gallery that is warming up costs this rail, not the page."""
    role = role_of(request.user, None)
    try:
        if role == Role.ANONYMOUS:
            search_spend(client=client_address(request.META))
        answer = search.search_by_item(
            sku=found.sku, options=SearchOptions(k=SIMILAR), visitor=visitor_of(request)
        )
    except SearchAppError as error:
        return (), error.message
    is_staff = role >= Role.STAFF
    cards = tuple(
        result_card(result, query_id=answer.query_id, is_staff=is_staff)
        for result in answer.results
        if result.strength != "weak"
    )
    return cards, "" if cards else "Nothing else in the catalogue looks much like it."


def _item_page(request: HttpRequest, found: Item, similar: tuple[Card, ...], note: str) -> ItemPage:
    images = list(found.images.all())
    chosen = next(
        (image for image in images if str(image.pk) == request.GET.get("photo")),
        images[0] if images else None,
    )
    address = item_url(found.sku)
    separator = "&" if "?" in address else "?"
    query_id = _uuid(request.GET.get("query", ""))
    return ItemPage(
        item=found,
        title=found.title or found.sku,
        canonical=request.build_absolute_uri(address),
        photo=_big_photo(chosen, found),
        others=tuple(
            (f"{address}{separator}photo={image.pk}", thumbnail_of(image, found), image is chosen)
            for image in images
        )
        if len(images) > 1
        else (),
        crumbs=_crumbs(found.category.path),
        price=price_of(found),
        is_place=found.category.vertical == Vertical.LANDMARK,
        coordinates=coordinates_of(found),
        map_url=_map_url(found),
        tags=tuple(
            Link(f"{reverse('browse')}?{urlencode({'tag': tag.name})}", tag.name) for tag in found.tags.all()
        ),
        feedback=FeedbackForm(str(query_id), found.sku, found.title or found.sku) if query_id else None,
        similar=similar,
        similar_note=note,
        more_url=Asked(sku=found.sku).address(),
    )


def _big_photo(image: ItemImage | None, found: Item) -> Photo:
    if image is None:
        return Photo("", "No photo yet")
    return Photo(
        f"{settings.MEDIA_URL}{image.path}", alt_of(image, found), image.width, image.height, image.colour
    )


def _crumbs(path: str) -> tuple[Link, ...]:
    steps = path.split(PATH_SEPARATOR)
    paths = [PATH_SEPARATOR.join(steps[: depth + 1]) for depth in range(len(steps))]
    return tuple(
        Link(f"{reverse('browse')}?{urlencode({'category': whole})}", leaf_of(whole)) for whole in paths
    )


def _map_url(found: Item) -> str:
    if found.latitude is None or found.longitude is None:
        return ""
    place = f"{found.latitude:.6f}/{found.longitude:.6f}"
    marker = urlencode({"mlat": f"{found.latitude:.6f}", "mlon": f"{found.longitude:.6f}"})
    return f"https://www.openstreetmap.org/?{marker}#map=18/{place}"


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
