"""Photos of two items that look alike, side by side: staff keep both or remove the new one."""

from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from searchapp.exceptions import SearchAppError
from searchapp.services import duplicate_decisions
from searchapp.services.duplicate_decisions import Removal
from searchapp.views.jobs import staff_of
from searchapp.views.pair_cards import pair_card

PAGE_SIZE = 12
SETTLED = "These two are settled already: they were decided before, or one of the photos is gone."


def duplicate_list(request: HttpRequest) -> HttpResponse:
    """GET /jobs/duplicates: pairs nobody has decided yet, newest first."""
    page = Paginator(duplicate_decisions.pairs_listed(), PAGE_SIZE).get_page(request.GET.get("page"))
    context = {"page": page, "cards": [pair_card(pair, request.user) for pair in page]}
    return render(request, "jobs/duplicates.html", context)


def duplicate_keep(request: HttpRequest, pair_id: int) -> HttpResponse:
    """POST /jobs/duplicates/<id>/keep."""
    if duplicate_decisions.removal_of(pair_id) is None:
        messages.info(request, SETTLED)
        return _back(request)
    if not request.user.has_perm("searchapp.change_item"):
        raise PermissionDenied("Your account may not change items.")
    duplicate_decisions.pair_keep(pair_id, staff_of(request))
    messages.success(request, "Both are kept; this pair is not asked about again.")
    return _back(request)


def duplicate_remove(request: HttpRequest, pair_id: int) -> HttpResponse:
    """GET: what removing the new photo takes along. POST: remove it, unless that has changed meanwhile."""
    removal = duplicate_decisions.removal_of(pair_id)
    if removal is None:
        messages.info(request, SETTLED)
        return _back(request)
    if not request.user.has_perm(f"searchapp.delete_{'item' if removal.is_whole_item else 'itemimage'}"):
        raise PermissionDenied("Your account may not delete this.")
    if request.method != "POST":
        return _remove_page(request, removal)
    with_item = request.POST.get("with_item") == "yes"
    try:
        done = duplicate_decisions.pair_remove_new(pair_id, with_item=with_item, user=staff_of(request))
    except SearchAppError as error:
        messages.error(request, error.message)
        return HttpResponseRedirect(request.get_full_path())
    name = removal.pair.new_image.item.sku
    words = f"{name} is deleted." if with_item else f"The new photo of {name} is deleted."
    messages.success(request, words) if done else messages.info(request, SETTLED)
    return _back(request)


def _remove_page(request: HttpRequest, removal: Removal) -> HttpResponse:
    context = {"card": pair_card(removal.pair, request.user), "removal": removal, "job": _job(request) or ""}
    return render(request, "jobs/duplicate_remove.html", context)


def _back(request: HttpRequest) -> HttpResponse:
    """To the report of the import that the decision was taken on, else to the list."""
    job = _job(request)
    return HttpResponseRedirect(reverse("job", args=[job]) if job else reverse("duplicates"))


def _job(request: HttpRequest) -> UUID | None:
    try:
        return UUID(request.POST.get("job") or request.GET.get("job") or "")
    except ValueError:
        return None
