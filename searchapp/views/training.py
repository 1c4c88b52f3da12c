"""Pages of a training: what a base version would learn from, the running one with its curves, what came of it."""

from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django_htmx.http import HttpResponseClientRefresh

from searchapp.exceptions import SearchAppError
from searchapp.models import Job
from searchapp.services import base_training, jobs, verdict_reading, verdicts
from searchapp.services.model_overview import model_overview, training_named
from searchapp.services.training_plan import training_plan
from searchapp.views.jobs import staff_of
from searchapp.views.model_cards import card_of
from searchapp.views.training_form import TrainingForm, form_page
from searchapp.views.training_progress import is_candidate, training_page
from searchapp.views.verdict_cards import sentence_of

RESULT_FIGURES = (
    ("photos", "Photos learned from", 0),
    ("categories", "Categories", 0),
    ("training_seconds", "Seconds of training", 0),
    ("seconds", "Seconds altogether", 0),
)


def train(request: HttpRequest) -> HttpResponse:
    """GET /ops/train: what would be trained on, and the choices. POST: start it, and follow it."""
    form = TrainingForm(request.POST if request.method == "POST" else None)
    if form.is_bound and form.is_valid():
        try:
            job = base_training.base_training_start(user=staff_of(request), **form.arguments())
            return HttpResponseRedirect(reverse("training", args=[job.pk]))
        except SearchAppError as error:
            form.refuse(error)
    context = {"form": form, "page": form_page(form, training_plan(), model_overview())}
    return render(request, "models/train.html", context, status=400 if form.errors else 200)


def training(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """GET /ops/train/<job>/: the training; for htmx only what moves, and the whole page anew once it has ended."""
    job = _training(job_id)
    with_figures = request.GET.get("figures") == "table"
    page = training_page(job, with_figures=with_figures)
    if request.htmx:  # type: ignore[attr-defined]
        moving = render(request, "models/_training.html", {"page": page})
        response: HttpResponse = moving if page.row.is_active else HttpResponseClientRefresh()
    else:
        response = render(
            request,
            "models/training.html",
            {"page": page, "is_candidate": is_candidate(job), **_result_context(job)},
        )
    patch_vary_headers(response, ["HX-Request"])
    return response


def training_cancel(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """GET: what would be lost, and what would be kept. POST: ask the training to end."""
    job = _training(job_id)
    if request.method != "POST":
        return render(request, "models/cancel.html", {"page": training_page(job)})
    try:
        jobs.job_cancel(job, staff_of(request))
        messages.success(request, "The training is being cancelled.")
    except SearchAppError as error:
        messages.error(request, error.message)
    return HttpResponseRedirect(reverse("training", args=[job.pk]))


def training_retry(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """POST: go on where a failed or cancelled training stopped."""
    job = _training(job_id)
    try:
        job = jobs.job_retry(job, staff_of(request))
        messages.success(request, "The training waits for its turn and goes on where it stopped.")
    except SearchAppError as error:
        messages.error(request, error.message)
    return HttpResponseRedirect(reverse("training", args=[job.pk]))


def _training(job_id: UUID) -> Job:
    job = training_named(job_id)
    if job is None:
        raise Http404
    return job


def _result_figures(job: Job) -> list[tuple[str, str]]:
    result = job.result or {}
    return [
        (label, f"{result[name]:,.{decimals}f}")
        for name, label, decimals in RESULT_FIGURES
        if isinstance(result.get(name), int | float)
    ]


def _result_context(job: Job) -> dict[str, object]:
    """The version that came of it, and of a candidate its verdict in a sentence; nothing while there is none."""
    name = (job.result or {}).get("version")
    overview = model_overview() if name else None
    facts = (
        next((facts for facts in overview.versions if facts.version.name == name), None) if overview else None
    )
    if overview is None or facts is None:
        return {}
    found = verdict_reading.newest_verdict(facts.version)
    return {
        "card": card_of(facts, overview),
        "figures": _result_figures(job),
        "sentence": sentence_of(verdicts.report_of(found)) if found else None,
    }
