"""Background work as staff see it: what runs, for whom, how far it is, and why something failed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django_htmx.http import HttpResponseStopPolling

from searchapp.access import Role, role_of
from searchapp.exceptions import SearchAppError
from searchapp.job_kinds import JOB_KINDS, may_steer
from searchapp.models import FINISHED_STATES, Job, JobState
from searchapp.services import jobs
from searchapp.services.database_clock import database_now
from searchapp.views.csv_lines import csv_line
from searchapp.views.pair_cards import pairs_of_job

LISTED = 50
FIRST_ERRORS = 5
SIGNS = {"queued": "wait", "running": "run", "done": "check", "failed": "warn", "cancelled": "stop"}
COUNTS = (
    ("created", "Created"),
    ("updated", "Updated"),
    ("unchanged", "Unchanged"),
    ("encoded", "Encoded"),
    ("failed", "Failed"),
    ("evaluation_queries", "Held-out photos"),
    ("duplicates_found", "Look alike"),
)


@dataclass(frozen=True, slots=True)
class JobError:
    row: str
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class JobRow:
    job: Job
    title: str
    kind: str
    who: str
    state: str
    state_word: str
    sign: str
    percent: int
    has_percent: bool
    counted: str  # empty, as the pace is, for kinds of jobs that do not count items
    pace: str
    eta: str
    reason: str
    errors: tuple[JobError, ...]
    more_errors: int
    figures: tuple[tuple[str, str], ...]
    can_cancel: bool
    can_retry: bool
    is_active: bool
    has_report: bool
    is_dry_run: bool


def job_list(request: HttpRequest) -> HttpResponse:
    """GET /jobs/: the page, or for htmx its rows; polling ends when nothing is left to wait for."""
    rows = _rows(role_of(request.user, None))
    context = {"rows": rows, "is_live": any(row.is_active for row in rows)}
    if request.htmx:  # type: ignore[attr-defined]
        response = render(request, "jobs/_list.html", context)
        if not context["is_live"]:
            response = HttpResponseStopPolling(response.content)
    else:
        response = render(request, "jobs/list.html", context)
    patch_vary_headers(response, ["HX-Request"])
    return response


def job_report(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """GET /jobs/<id>/: everything about one job."""
    job = _job(job_id)
    row = row_of(job, database_now(), first_errors=None, role=role_of(request.user, None))
    context = {"row": row, "pairs": pairs_of_job(job, request.user)}
    if request.htmx:  # type: ignore[attr-defined]
        response = render(request, "jobs/_report.html", context)
        return response if row.is_active else HttpResponseStopPolling(response.content)
    return render(request, "jobs/report.html", context)


def job_errors(request: HttpRequest, job_id: UUID) -> HttpResponse:  # noqa: ARG001
    """GET /jobs/<id>/errors.csv: the rejected lines, to be mended and imported again."""
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="errors-{job_id}.csv"'
    response.write(csv_line(["row", "field", "message"]))
    for error in _errors(_job(job_id)):
        response.write(csv_line([error.row, error.field, error.message]))
    return response


def job_cancel(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """POST /jobs/<id>/cancel."""
    try:
        jobs.job_cancel(_job_to_steer(request, job_id), staff_of(request))
        messages.success(request, "The job is being cancelled.")
    except SearchAppError as error:
        messages.error(request, error.message)
    return HttpResponseRedirect(reverse("jobs"))


def job_retry(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """POST /jobs/<id>/retry."""
    try:
        jobs.job_retry(_job_to_steer(request, job_id), staff_of(request))
        messages.success(request, "The job waits for its turn and goes on where it stopped.")
    except SearchAppError as error:
        messages.error(request, error.message)
    return HttpResponseRedirect(reverse("jobs"))


def staff_of(request: HttpRequest) -> AbstractBaseUser:
    """Who asks; the access table lets only staff come this far."""
    assert isinstance(request.user, AbstractBaseUser)
    return request.user


def _job(job_id: UUID) -> Job:
    job = Job.objects.select_related("created_by").filter(pk=job_id).first()
    if job is None:
        raise Http404
    return job


def _job_to_steer(request: HttpRequest, job_id: UUID) -> Job:
    """The job, for one who may cancel and retry its kind."""
    job = _job(job_id)
    if not may_steer(role_of(request.user, None), job.kind):
        raise PermissionDenied("Your account may not do this.")
    return job


def _rows(role: Role) -> list[JobRow]:
    """Work in progress first, then the latest."""
    unfinished = Q(state__in=[JobState.RUNNING, JobState.QUEUED])
    listed = Job.objects.select_related("created_by").order_by("-created_at")
    now = database_now()
    active = [row_of(job, now, role=role) for job in listed.filter(unfinished)[:LISTED]]
    return active + [row_of(job, now, role=role) for job in listed.exclude(unfinished)[:LISTED]]


def row_of(
    job: Job, now: datetime, *, first_errors: int | None = FIRST_ERRORS, role: Role = Role.OPERATOR
) -> JobRow:
    """`role` is of the one who looks; it decides which buttons there are."""
    errors = _errors(job)
    shown = errors if first_errors is None else errors[:first_errors]
    kind = JOB_KINDS.get(job.kind)
    is_active = job.state not in FINISHED_STATES
    may = may_steer(role, job.kind)
    counts = kind is not None and kind.counts_items
    is_dry_run = bool((job.payload.get("options") or {}).get("dry_run"))
    title = kind.title if kind else job.kind
    return JobRow(
        job=job,
        title=job.subject or title,
        kind="Trial run, nothing is written" if is_dry_run else title,
        who=job.created_by.get_username() if job.created_by else "the system",
        state=job.state,
        state_word="Cancelling" if is_active and job.cancel_requested else job.get_state_display(),
        sign=SIGNS[job.state],
        percent=round(100 * job.progress),
        has_percent=bool(job.total_count),
        counted=f"{job.done_count:,} of {job.total_count:,}" if counts and job.total_count else "",
        pace=_pace(job, now) if counts else "",
        eta=_eta(jobs.eta_seconds(job, now)),
        reason=job.error,
        errors=tuple(shown),
        more_errors=len(errors) - len(shown),
        figures=_figures(job),
        can_cancel=may and is_active and not job.cancel_requested,
        can_retry=may and job.state in (JobState.FAILED, JobState.CANCELLED),
        is_active=is_active,
        has_report=bool(job.result),
        is_dry_run=is_dry_run,
    )


def _errors(job: Job) -> list[JobError]:
    listed = (job.result or {}).get("errors") or []
    return [
        JobError(str(error.get("row", "")), str(error.get("field") or ""), str(error.get("message", "")))
        for error in listed
    ]


def _figures(job: Job) -> tuple[tuple[str, str], ...]:
    result: dict[str, Any] = job.result or {}
    figures = [(label, f"{result[name]:,}") for name, label in COUNTS if isinstance(result.get(name), int)]
    if isinstance(result.get("seconds"), int | float):
        figures.append(("Seconds", f"{result['seconds']:,.1f}"))
    return tuple(figures)


def _pace(job: Job, now: datetime) -> str:
    if job.started_at is None or not job.done_count:
        return ""
    seconds = ((job.finished_at or now) - job.started_at).total_seconds()
    pace = job.done_count / seconds if seconds > 0.1 else 0.0
    return f"{pace:,.1f} items/s" if pace >= 0.05 else ""


def _eta(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    return f"about {round(seconds / 60)} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"
