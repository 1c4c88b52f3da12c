"""Whether the version in use holds what was promised, for the operator's page; and the button that measures it now."""

from dataclasses import dataclass

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from searchapp.exceptions import SearchAppError
from searchapp.services import quality_watch, query_drift, versions
from searchapp.services.quality_watch import Look, Point
from searchapp.views.jobs import staff_of

SHOWN = 8


@dataclass(frozen=True, slots=True)
class QualityCard:
    """line: what was measured, in words; queries: whether people ask with other photos. rows: earlier measurements,
    newest first."""

    title: str
    line: str
    queries: str
    went_back: str
    rows: tuple[Point, ...]
    look: Look

    @property
    def is_alarm(self) -> bool:
        return self.look.has_fallen


def quality_card() -> QualityCard:
    look = quality_watch.latest()
    return QualityCard(
        title=_title(look),
        line=str(look.result.get("words", "")),
        queries=_queries(),
        went_back=_went_back(look),
        rows=tuple(reversed(quality_watch.history()[-SHOWN:])),
        look=look,
    )


def quality_look(request: HttpRequest) -> HttpResponse:
    """POST /ops/measure: measure the version in use now, as the schedule does."""
    if request.method == "POST":
        try:
            quality_watch.watch_start(staff_of(request))
            messages.success(
                request, "The version in use is being measured; that takes a moment per held-out photo."
            )
        except SearchAppError as error:
            messages.error(request, error.message)
    return HttpResponseRedirect(reverse("models"))


def _title(look: Look) -> str:
    if not look.result:
        return "Quality: not measured since it was put in use"
    if look.has_fallen:
        return "Quality has fallen under what was promised"
    if not look.result["promised"]:
        return "Quality: measured, nothing was promised"
    is_comparable = look.result["same_queries"]
    return f"Quality: {'as promised' if is_comparable else 'measured with other photos than was promised'}"


def _queries() -> str:
    drift = query_drift.drift_of(versions.champion().version)
    return "" if drift is None else drift.words


def _went_back(look: Look) -> str:
    if not look.has_fallen or not look.result["stayed_because"]:
        return ""
    return f"It stays in use: {look.result['stayed_because']}."
