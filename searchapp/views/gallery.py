"""The gallery for operators: who made its entries, how far off they are, and the two ways to bring them up to date."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django_htmx.http import HttpResponseClientRefresh

from searchapp.exceptions import InvalidInput, SearchAppError, Unavailable
from searchapp.models import FINISHED_STATES, Job
from searchapp.services import backfilling, correcting, jobs
from searchapp.services.database_clock import database_now
from searchapp.services.staleness import Staleness, staleness
from searchapp.services.versions import champion
from searchapp.views.gallery_cards import correction_facts, gallery_page, probe_words
from searchapp.views.jobs import JobRow, row_of, staff_of


def gallery(request: HttpRequest) -> HttpResponse:
    """GET /ops/gallery: the staleness map; for htmx only the work in progress, and the page anew once it is done."""
    work = _work()
    if request.htmx:  # type: ignore[attr-defined]
        moving = render(request, "models/_gallery_work.html", {"work": work})
        response: HttpResponse = moving if work else HttpResponseClientRefresh()
    else:
        last = Job.objects.filter(kind=correcting.KIND).order_by("-created_at").first()
        corrected = last if last and last.is_finished else None
        context = _page() | {
            "work": work,
            "paused": backfilling.backfill_paused(),
            "last": row_of(corrected, database_now()) if corrected else None,
            "facts": correction_facts(corrected),
            "probes": probe_words(corrected),
            "live": champion(),
        }
        response = render(request, "models/gallery.html", context)
    patch_vary_headers(response, ["HX-Request"])
    return response


def gallery_correct(request: HttpRequest) -> HttpResponse:
    """GET: what a correction would do, in measured words. POST: start it."""
    error = None
    if request.method == "POST":
        try:
            correcting.correction_start(
                user=staff_of(request),
                fit_items=_number(request, "fit_items"),
                override_reason=request.POST.get("reason", ""),
            )
            messages.success(
                request, "The gallery is being corrected; it is used only if it passes its gate."
            )
            return HttpResponseRedirect(reverse("gallery"))
        except SearchAppError as refusal:
            error = refusal
    context = _page() | {"error": error, "sent": request.POST, "least": correcting.LEAST_ITEMS}
    return render(request, "models/gallery_correct.html", context, status=error.status if error else 200)


def gallery_backfill(request: HttpRequest) -> HttpResponse:
    """GET: what would be encoded, in which order, and how long it takes here. POST: start it."""
    error = None
    if request.method == "POST":
        try:
            backfilling.backfill_start(
                user=staff_of(request),
                limit=_number(request, "limit"),
                order=request.POST.get("order", "error"),
            )
            messages.success(request, "Older entries are being encoded in the background.")
            return HttpResponseRedirect(reverse("gallery"))
        except SearchAppError as refusal:
            error = refusal
    chosen = request.POST.get("order", "error")
    orders = [(name, words, name == chosen) for name, words in backfilling.ORDERS.items()]
    context = _page() | {"error": error, "sent": request.POST, "orders": orders}
    return render(request, "models/gallery_backfill.html", context, status=error.status if error else 200)


def gallery_pause(request: HttpRequest) -> HttpResponse:
    """POST: stop the correction or the backfill under way; of a backfill what is done stays."""
    try:
        going = Job.objects.filter(kind=correcting.KIND).exclude(state__in=FINISHED_STATES).first()
        if request.POST.get("what") == correcting.KIND and going is not None:
            jobs.job_cancel(going, staff_of(request))
            messages.success(request, "The correction is being cancelled; nothing changes.")
        else:
            backfilling.backfill_pause(staff_of(request))
            messages.success(request, "The backfill stops after the photos it works on; what is done stays.")
    except SearchAppError as error:
        messages.error(request, error.message)
    return HttpResponseRedirect(reverse("gallery"))


def gallery_resume(request: HttpRequest) -> HttpResponse:
    """POST: go on with the backfill that was stopped."""
    try:
        backfilling.backfill_resume(staff_of(request))
        messages.success(request, "The backfill waits for its turn and goes on where it stopped.")
    except SearchAppError as error:
        messages.error(request, error.message)
    return HttpResponseRedirect(reverse("gallery"))


def _page() -> dict[str, object]:
    """The staleness map; nothing while this process loads its gallery."""
    try:
        found: Staleness | None = staleness()
    except Unavailable:
        found = None
    return {"found": found, "page": gallery_page(found) if found else None}


def _work() -> list[JobRow]:
    rows = Job.objects.filter(kind__in=(correcting.KIND, backfilling.KIND)).exclude(state__in=FINISHED_STATES)
    now = database_now()
    return [row_of(job, now) for job in rows.select_related("created_by").order_by("created_at")]


def _number(request: HttpRequest, name: str) -> int | None:
    """Empty is none. Raises InvalidInput for what is no whole number."""
    text = request.POST.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or len(text) > 9:
        message = f"it is {text[:40]!r}, expected a whole number, or nothing"
        raise InvalidInput(f"{name}: {message}", fields={name: message})
    return int(text)
