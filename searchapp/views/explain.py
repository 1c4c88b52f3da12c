"""“What matched?”: one result's heat map over the shopper's own photo, which comes along and is not kept."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from numpy.typing import NDArray

from ml.retrieval.occlusion import COVERS
from searchapp.access import Role, role_of
from searchapp.addresses import item_url
from searchapp.exceptions import SearchAppError, Unavailable
from searchapp.services.explaining import EXPLANATION_COST, ExplainedItem, explain_item
from searchapp.services.heat_pictures import legend_url, outline_path, veil_url
from searchapp.services.media import media_read
from searchapp.services.previews import Preview, preview_bytes, preview_of
from searchapp.services.throttling import items_spend, search_spend
from searchapp.views.asking import CROP_FIELDS, Asked, asked_in
from searchapp.views.cards import Photo, thumbnail_of
from searchapp.views.outcomes import PHOTO_GONE, Failure, failure_of
from searchapp.views.shelves import sample_path
from searchapp.visitor import client_address, visitor_of


@dataclass(frozen=True, slots=True)
class Back:
    """The way back to the results: an address, or (method post) a form that carries the photo again."""

    action: str
    method: str
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Heat:
    """What lies over the photo, and where, in its pixels: over the crop, or all of it."""

    veil_url: str
    outline: str
    legend_url: str
    x: str
    y: str
    width: str
    height: str
    is_cropped: bool


@dataclass(frozen=True, slots=True)
class Matched:
    title: str = ""
    url: str = ""
    photo: Photo | None = None
    query: Preview | None = None
    heat: Heat | None = None
    summary: str = ""
    how: str = ""
    back: Back | None = None

    @property
    def is_tall(self) -> bool:
        """Whether height, not width, is what limits the photo on a wide screen."""
        return self.query is not None and self.query.width < 1.2 * self.query.height


def explain(request: HttpRequest) -> HttpResponse:
    """POST /search/explain with the search's own form, GET for a sample photo: `explain` is the result's SKU."""
    sent = request.POST if request.method == "POST" else request.GET
    sku = sent.get("explain", "").replace("\x00", "")[:120]
    try:
        asked = asked_in(sent)
        if request.method != "POST" and (asked.kind != "sample" or not sku):
            return HttpResponseRedirect(asked.address())
        data, filename = _photo(request, asked)
        if not data:
            return _shown(request, failure=PHOTO_GONE, status=400)
        _spend(request, sku)
        found = explain_item(
            data=data,
            filename=filename,
            crop=asked.shown_crop,
            sku=sku,
            options=asked.options(),
            visitor=visitor_of(request),
        )
        query = preview_of(data)
    except SearchAppError as error:
        response = _shown(request, failure=_failure(error), status=error.status)
        if seconds := getattr(error, "retry_after_seconds", None):
            response["Retry-After"] = str(seconds)
        return response
    is_post = request.method == "POST"
    back = _back(asked, _kept(request) or query.url) if is_post else Back(asked.address(), "get")
    return _shown(request, _matched(found, asked, query, back))


def _photo(request: HttpRequest, asked: Asked) -> tuple[bytes, str]:
    if request.method != "POST":
        return media_read(sample_path(asked.sample)), ""
    upload, kept = request.FILES.get("image"), _kept(request)
    if isinstance(upload, UploadedFile):
        return upload.read(), upload.name or ""
    return (preview_bytes(kept) if kept else b""), ""


def _kept(request: HttpRequest) -> str:
    """The copy of the photo that the last page without scripts carried; "" when the photo itself came."""
    return "" if request.FILES.get("image") else request.POST.get("kept", "")


def _spend(request: HttpRequest, sku: str) -> None:
    """Counted as the many searches it costs; the item is new to the address only if it was not in the results."""
    if role_of(request.user, None) == Role.ANONYMOUS:
        client = client_address(request.META)
        search_spend(client=client, calls=EXPLANATION_COST)
        items_spend(client=client, skus=[sku])


def _failure(error: SearchAppError) -> Failure:
    if isinstance(error, Unavailable):
        return Failure("One moment", error.message, kind="wait")
    return failure_of(error)


def _matched(found: ExplainedItem, asked: Asked, query: Preview, back: Back) -> Matched:
    explanation, item = found.explanation, found.item
    title = item.title or item.sku
    return Matched(
        title=title,
        url=item_url(item.sku),
        photo=thumbnail_of(found.image, item),
        query=query,
        heat=None if explanation.is_flat else _heat(explanation.heat, asked, query),
        summary=explanation.summary,
        how=f"{COVERS} parts of your photo were covered, one after another, to see how much each counts. "
        f"{math.ceil(found.took_ms['total'])} ms",
        back=back,
    )


def _heat(grid: NDArray[np.float64], asked: Asked, query: Preview) -> Heat:
    sides = (query.width, query.height, query.width, query.height)
    x, y, width, height = (f"{share / 100 * side:.1f}" for share, side in zip(asked.crop, sides))
    outline, is_cropped = outline_path(grid), asked.shown_crop is not None
    return Heat(veil_url(grid), outline, legend_url(), x, y, width, height, is_cropped)


def _back(asked: Asked, kept: str) -> Back:
    crop: Mapping[str, str] = {name: f"{value:g}" for name, value in zip(CROP_FIELDS, asked.crop)}
    fields = {"kept": kept, "photo": asked.photo, "q": asked.words, **crop}
    return Back(reverse("search"), "post", (*fields.items(), *asked.filters))


def _shown(
    request: HttpRequest,
    matched: Matched | None = None,
    *,
    failure: Failure | None = None,
    status: int = 200,
) -> HttpResponse:
    template = "search/_matched.html" if getattr(request, "htmx", None) else "search/matched.html"
    response = render(request, template, {"matched": matched, "failure": failure}, status=status)
    patch_vary_headers(response, ["HX-Request"])
    return response
