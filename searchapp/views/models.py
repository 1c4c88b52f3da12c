"""Model versions for operators: which one is in use, how good each is, what may come, and what was."""

from datetime import timedelta

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django_htmx.http import HttpResponseClientRefresh

from searchapp.exceptions import SearchAppError
from searchapp.models import JobState
from searchapp.services import canary_stats, drift_watch, savings, verdict_reading, verdicts
from searchapp.services.database_clock import database_now
from searchapp.services.deployment_history import history
from searchapp.services.model_overview import (
    ModelOverview,
    model_overview,
    standing_of,
)
from searchapp.views.dashboard_cards import candidate_cards, chosen_of, live_words, verdict_card
from searchapp.views.drift_cards import drift_card
from searchapp.views.history_cards import history_card
from searchapp.views.jobs import JobRow, row_of, staff_of
from searchapp.views.model_cards import VersionCard, card_of, gallery_bar, proof_of
from searchapp.views.quality import quality_card
from searchapp.views.strip_cards import strip_card
from searchapp.views.verdicts import Pair

FAILURE_SHOWN = timedelta(days=1)
HISTORY_SHOWN = 8


def model_list(request: HttpRequest) -> HttpResponse:
    """GET /ops/: the versions; for htmx only the work in progress, and the whole page anew once it is done."""
    overview = model_overview()
    rows = _work(overview)
    if request.htmx:  # type: ignore[attr-defined]
        moving = render(request, "models/_work.html", {"work": rows})
        response: HttpResponse = moving if any(row.is_active for row in rows) else HttpResponseClientRefresh()
    else:
        context = {
            "in_use": overview.in_use,
            "previous": overview.previous,
            "live": live_words(canary_stats.live_figures()),
            "drift": drift_card(drift_watch.look_at(overview.in_use.version)) if overview.in_use else None,
            "quality": quality_card() if overview.in_use else None,
            "cards": _cards(overview),
            "bar": gallery_bar(overview),
            "proof": proof_of(overview),
            "work": rows,
            "is_live": any(row.is_active for row in rows),
            "earlier": _earlier(overview),
            "strip": strip_card(),
            "history": [history_card(entry) for entry in history(limit=HISTORY_SHOWN)],
            **_story(overview, request.GET.get("candidate", "")),
        }
        response = render(request, "models/list.html", context)
    patch_vary_headers(response, ["HX-Request"])
    return response


def _cards(overview: ModelOverview) -> list[VersionCard]:
    has_increment = any(facts.increment for facts in overview.versions)
    rates = savings.rates_here() if has_increment else None
    return [card_of(facts, overview, rates) for facts in overview.versions]


def _story(overview: ModelOverview, name: str) -> dict[str, object]:
    """The candidates, and the verdict of the one that is looked at."""
    chosen = chosen_of(overview, name)
    if overview.in_use is None or chosen is None:
        return {"candidates": []}
    in_use = overview.in_use.version
    found = verdict_reading.verdict_facts(chosen.version, in_use)
    report = verdicts.report_of(found.verdict) if found.verdict else {}
    return {
        "candidates": candidate_cards(overview, verdict_reading.judged_beside(in_use), chosen),
        "chosen": card_of(chosen, overview),
        "facts": found,
        "measuring": row_of(found.measuring, database_now()) if found.measuring else None,
        "verdict": verdict_card(chosen.version, in_use, found.verdict, report),
        "pair": Pair(chosen.version, in_use, standing_of(chosen.version)),
    }


def drift_look(request: HttpRequest) -> HttpResponse:
    """POST /ops/look: see now whether new photos and labels still fit the version in use."""
    if request.method == "POST":
        try:
            drift_watch.watch_start(staff_of(request))
            messages.success(request, "New photos and labels are being looked at; that takes some seconds.")
        except SearchAppError as error:
            messages.error(request, error.message)
    return HttpResponseRedirect(reverse("models"))


def _work(overview: ModelOverview) -> list[JobRow]:
    """What goes on, and what went wrong of late; what went well is told by the versions themselves."""
    now = database_now()
    latest = [*overview.moves[:1], *overview.trainings[:1], *overview.others]
    active = [job for job in (*overview.moves, *overview.trainings, *overview.others) if not job.is_finished]
    failed = [
        job
        for job in latest
        if job.state == JobState.FAILED and (job.finished_at or now) > now - FAILURE_SHOWN
    ]
    return [row_of(job, now) for job in (*active, *failed)]


def _earlier(overview: ModelOverview) -> list[tuple[JobRow, str]]:
    """Finished trainings, newest first, each with the version that came of it."""
    now = database_now()
    finished = [job for job in overview.trainings if job.is_finished]
    return [(row_of(job, now), str((job.result or {}).get("version") or "")) for job in finished]
