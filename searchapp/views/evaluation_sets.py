"""Evaluation sets for operators: bring labelled photos, make a set of shoppers' photos, look, use, delete."""

from dataclasses import dataclass

from django.conf import settings
from django.contrib import messages
from django.core.files.uploadedfile import UploadedFile
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from searchapp.addresses import item_url
from searchapp.exceptions import InvalidInput, NotFound, SearchAppError
from searchapp.models import EvaluationQuery, EvaluationSet, Job, thumbnail_path
from searchapp.services import evaluation_sets
from searchapp.services.database_clock import database_now
from searchapp.views.jobs import JobRow, row_of, staff_of

LISTED = 10
PAGE_SIZE = 48


@dataclass(frozen=True, slots=True)
class QueryCard:
    pk: int
    thumbnail: str
    label: str
    item_url: str  # empty for one that is labelled with a category alone


@dataclass(frozen=True, slots=True)
class Form:
    """What was typed, and what is wrong with it."""

    name: str = ""
    problems: dict[str, str] | None = None
    error: str = ""


def set_list(request: HttpRequest) -> HttpResponse:
    """GET /ops/evaluation: the sets and the ways to get one. POST: take in a zip of labelled photos."""
    if request.method != "POST":
        return _list_page(request)
    upload, name = request.FILES.get("file"), request.POST.get("name", "")
    try:
        if not isinstance(upload, UploadedFile):
            return _list_page(request, upload=Form(name[:200], {"file": "Choose a zip first."}), status=400)
        evaluation_sets.set_upload(
            name=name,
            chunks=upload.chunks(),
            filename=upload.name or "",
            is_used=request.POST.get("is_used") == "yes",
            user=staff_of(request),
        )
    except SearchAppError as error:
        return _list_page(request, upload=_refused(name, error), status=error.status)
    messages.success(request, "The photos are being looked at; what could not be used will be listed below.")
    return HttpResponseRedirect(reverse("evaluation-sets"))


def feedback_promote(request: HttpRequest) -> HttpResponse:
    """POST /ops/evaluation/feedback: a set of the photos that shoppers called right and let us keep."""
    name = request.POST.get("name", "")
    try:
        evaluation_sets.feedback_promote(name=name, user=staff_of(request))
    except SearchAppError as error:
        return _list_page(request, feedback=_refused(name, error), status=error.status)
    messages.success(request, "A set is being made. Look at its photos, then use it.")
    return HttpResponseRedirect(reverse("evaluation-sets"))


def set_look(request: HttpRequest, set_id: int) -> HttpResponse:
    """GET /ops/evaluation/<id>/: the photos of a set and what they are said to show."""
    found = _set(set_id)
    queries = (
        EvaluationQuery.objects.filter(evaluation_set=found).select_related("item", "category").order_by("pk")
    )
    page = Paginator(queries, PAGE_SIZE).get_page(request.GET.get("page"))
    return render(
        request,
        "models/evaluation_set.html",
        {"set": found, "page": page, "cards": [_card(query) for query in page]},
    )


def set_use(request: HttpRequest, set_id: int) -> HttpResponse:
    """POST /ops/evaluation/<id>/use: ask its photos from now on (use=yes), or not."""
    try:
        is_used = request.POST.get("use") == "yes"
        found = evaluation_sets.set_use(set_id=set_id, is_used=is_used, user=staff_of(request))
        words = "is asked from now on" if is_used else "is kept and not asked"
        messages.success(request, f"{found.name} {words}. Verdicts have to be measured again.")
    except NotFound as error:
        messages.error(request, error.message)
    return HttpResponseRedirect(reverse("evaluation-sets"))


def query_remove(request: HttpRequest, set_id: int) -> HttpResponse:
    """POST /ops/evaluation/<id>/remove: take out one photo, by its number."""
    text = request.POST.get("query", "")
    query_id = int(text) if text.isdecimal() and len(text) < 19 else 0
    try:
        evaluation_sets.query_remove(set_id=set_id, query_id=query_id, user=staff_of(request))
        messages.success(request, "The photo is out of the set.")
    except NotFound as error:
        messages.error(request, error.message)
    return HttpResponseRedirect(reverse("evaluation-set", args=[set_id]))


def set_delete(request: HttpRequest, set_id: int) -> HttpResponse:
    """GET: what deleting a set means. POST: delete it."""
    found = _set(set_id)
    if request.method != "POST":
        facts = next(facts for facts in evaluation_sets.set_facts() if facts.set == found)
        return render(request, "models/evaluation_delete.html", {"facts": facts})
    evaluation_sets.set_delete(set_id=set_id, user=staff_of(request))
    messages.success(request, f"{found.name} is deleted.")
    return HttpResponseRedirect(reverse("evaluation-sets"))


def _list_page(
    request: HttpRequest, *, upload: Form | None = None, feedback: Form | None = None, status: int = 200
) -> HttpResponse:
    jobs = _jobs()
    context = {
        "sets": evaluation_sets.set_facts(),
        "waiting": evaluation_sets.feedback_waiting().count(),
        "retention_days": settings.QUERY_IMAGE_RETENTION_DAYS,
        "upload": upload or Form(),
        "feedback": feedback or Form(),
        "jobs": jobs,
        "is_live": any(row.is_active for row in jobs),
    }
    return render(request, "models/evaluation.html", context, status=status)


def _jobs() -> list[JobRow]:
    now = database_now()
    jobs = Job.objects.filter(kind=evaluation_sets.KIND).select_related("created_by").order_by("-created_at")
    return [row_of(job, now) for job in jobs[:LISTED]]


def _refused(name: str, error: SearchAppError) -> Form:
    known = {field: text for field, text in error.fields.items() if field in ("name", "file")}
    is_told = isinstance(error, InvalidInput) and known
    return Form(name[:200], known, "" if is_told else error.message)


def _set(set_id: int) -> EvaluationSet:
    try:
        return evaluation_sets.set_named(set_id)
    except NotFound as error:
        raise Http404 from error


def _card(query: EvaluationQuery) -> QueryCard:
    item = query.item
    return QueryCard(
        query.pk,
        f"{settings.MEDIA_URL}{thumbnail_path(query.image_sha256)}",
        (item.title or item.sku) if item else query.category.path,
        item_url(item.sku) if item else "",
    )
