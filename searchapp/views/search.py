"""The start page and its results: one page, one form, with or without scripts."""

from dataclasses import replace
from typing import Any
from urllib.parse import urlparse

from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render
from django.utils.cache import patch_vary_headers

from searchapp.access import Role, role_of
from searchapp.exceptions import BadImage, InvalidInput, NotFound, SearchAppError
from searchapp.models import Item
from searchapp.services import search
from searchapp.services.media import media_read
from searchapp.services.previews import preview_bytes, preview_url
from searchapp.services.search_answers import SearchAnswer
from searchapp.services.throttling import items_spend, search_spend
from searchapp.views.asking import Asked, asked_in
from searchapp.views.outcomes import PHOTO_GONE, Results, failed, results_of
from searchapp.views.panels import SearchPage, panel_of, with_errors
from searchapp.views.shelves import facets, sample_path, sample_tiles, shelf_tiles
from searchapp.visitor import client_address, visitor_of

NEW_PHOTO = "new"  # a photo whose tab has no name for it: sent without scripts


def start(request: HttpRequest) -> HttpResponse:
    """GET /: the empty page, or the answer to a search that an address can carry."""
    try:
        asked = asked_in(request.GET)
    except InvalidInput as error:
        return _answered(request, _readable(request.GET), error=error)
    if asked.kind == "none":
        return _page(request, _start_page())
    if asked.kind == "photo":
        return _answered(request, asked, results=Results(failure=PHOTO_GONE))
    try:
        return _answered(request, asked, results=_asked_of_the_catalogue(request, asked))
    except SearchAppError as error:
        return _answered(request, asked, error=error)


def search_by_photo(request: HttpRequest) -> HttpResponse:
    """POST /search: a photo from the form, or the copy of it that the last page without scripts carried."""
    if request.method == "GET":
        return HttpResponseRedirect(
            Asked().address() + (f"?{request.GET.urlencode()}" if request.GET else "")
        )
    try:
        asked = asked_in(request.POST)
    except InvalidInput as error:
        return _answered(request, replace(_readable(request.POST), photo=NEW_PHOTO), error=error)
    upload = request.FILES.get("image")
    kept = "" if upload else request.POST.get("kept", "")
    if not upload and not kept:
        return _without_photo(request, asked)
    asked = replace(asked, photo=asked.photo or NEW_PHOTO, sample="", sku="")
    data = b""
    try:
        data = upload.read() if isinstance(upload, UploadedFile) else preview_bytes(kept)
        answer = _photo_answer(request, asked, data, filename=getattr(upload, "name", "") or "")
        results = results_of(answer, asked, facets(), is_staff=_is_staff(request))
        return _answered(request, asked, results=results, data=data, kept=kept)
    except SearchAppError as error:
        return _answered(request, asked, error=error, data=data, kept=kept)


def _asked_of_the_catalogue(request: HttpRequest, asked: Asked) -> Results:
    _throttle(request)
    options, visitor = asked.options(), visitor_of(request)
    if asked.kind == "sample":
        data = media_read(sample_path(asked.sample))
        answer = search.search_by_image(
            data=data, crop=asked.shown_crop, options=options, text=asked.words, visitor=visitor
        )
    elif asked.kind == "item":
        answer = search.search_by_item(sku=asked.sku, options=options, visitor=visitor)
    else:
        answer = search.search_by_text(text=asked.words, options=options, visitor=visitor)
    _budget(request, answer)
    return results_of(answer, asked, facets(), is_staff=_is_staff(request))


def _photo_answer(request: HttpRequest, asked: Asked, data: bytes, *, filename: str) -> SearchAnswer:
    _throttle(request)
    answer = search.search_by_image(
        data=data,
        filename=filename,
        crop=asked.shown_crop,
        options=asked.options(),
        text=asked.words,
        visitor=visitor_of(request),
    )
    _budget(request, answer)
    return answer


def _throttle(request: HttpRequest) -> None:
    if role_of(request.user, None) == Role.ANONYMOUS:
        search_spend(client=client_address(request.META))


def _budget(request: HttpRequest, answer: SearchAnswer) -> None:
    if role_of(request.user, None) == Role.ANONYMOUS:
        items_spend(client=client_address(request.META), skus=[result.sku for result in answer.results])


def _is_staff(request: HttpRequest) -> bool:
    return role_of(request.user, None) >= Role.STAFF


def _readable(data: QueryDict) -> Asked:
    """The question without its crop, which could not be read."""
    rest = data.copy()
    for name in ("crop", "crop_x", "crop_y", "crop_w", "crop_h"):
        rest.pop(name, None)
    return asked_in(rest)


def _without_photo(request: HttpRequest, asked: Asked) -> HttpResponse:
    if asked.words and not asked.photo:
        return HttpResponseRedirect(asked.address())
    if asked.photo:
        return _answered(request, asked, results=Results(failure=PHOTO_GONE), status=400)
    return _page(
        request, _start_page(error="Choose a photo first, or say what you are looking for."), status=400
    )


def _answered(
    request: HttpRequest,
    asked: Asked,
    *,
    results: Results | None = None,
    error: SearchAppError | None = None,
    data: bytes = b"",
    kept: str = "",
    status: int = 200,
) -> HttpResponse:
    """Results or an error, as the whole page or (for htmx) as the part that changes."""
    if error is not None:
        results, status = failed(error, asked, facets()), error.status
    if getattr(request, "htmx", None):
        response = render(request, "search/_results.html", {"results": results}, status=status)
        _name_the_address(request, response, asked)
    elif isinstance(error, BadImage):
        response = _page(request, _start_page(error=error.message), status=status)
    else:
        response = _page(request, _results_page(asked, results, error, _carried(data, kept)), status=status)
    patch_vary_headers(response, ["HX-Request"])
    if error is not None and (seconds := getattr(error, "retry_after_seconds", None)):
        response["Retry-After"] = str(seconds)
    return response


def _results_page(
    asked: Asked, results: Results | None, error: SearchAppError | None, kept: str
) -> SearchPage:
    found = facets()
    panel = panel_of(asked, found, photo_url=kept or _photo_url(asked), kept=kept, item=_item(asked))
    title = (
        results.failure.title if results and results.failure else (results.heading if results else "Search")
    )
    return SearchPage(
        blank_panel=panel_of(Asked(), found, as_photo=True),
        panel=with_errors(panel, error) if error else panel,
        results=results,
        title=f"{title} · Perennial",
    )


def _carried(data: bytes, kept: str) -> str:
    """The photo as the page sends it back. A copy that came back goes on as it is: encoding it again and again would
    wear it out, and change the results."""
    if not data:
        return ""
    return kept or preview_url(data)


def _start_page(error: str = "") -> SearchPage:
    found = facets()
    return SearchPage(
        blank_panel=panel_of(Asked(), found, as_photo=True),
        error=error,
        samples=tuple(sample_tiles(found)),
        shelves=tuple(shelf_tiles(found)),
    )


def _photo_url(asked: Asked) -> str:
    if asked.kind != "sample":
        return ""
    try:
        return f"/media/{sample_path(asked.sample)}"
    except NotFound:
        return ""


def _item(asked: Asked) -> Item | None:
    if asked.kind != "item":
        return None
    return Item.objects.filter(sku=asked.sku).prefetch_related("images").select_related("category").first()


def _page(request: HttpRequest, page: SearchPage, status: int = 200) -> HttpResponse:
    return render(request, "search/page.html", {"page": page}, status=status)


def _name_the_address(request: HttpRequest, response: HttpResponse, asked: Asked) -> None:
    """A filter makes a new step for Back; a nudged crop or another word changes the present one."""
    try:
        before = urlparse(request.headers.get("HX-Current-URL", ""))
        same = _step(asked_in(QueryDict(before.query))) == _step(asked)
    except (InvalidInput, ValueError):  # the latter from an address that is none
        same = False
    response["HX-Replace-Url" if same else "HX-Push-Url"] = asked.address()


def _step(asked: Asked) -> tuple[Any, ...]:
    return asked.kind, asked.photo, asked.sample, asked.sku, asked.filters
