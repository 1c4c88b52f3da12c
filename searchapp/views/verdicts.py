"""The verdict of a version beside another: the page, measuring it again, and what operators say of single answers."""

from dataclasses import dataclass
from urllib.parse import quote, urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django_htmx.http import HttpResponseClientRefresh

from searchapp.exceptions import IncompatibleVersion, SearchAppError
from searchapp.models import ModelVersion, Verdict
from searchapp.services import correcting, evaluating, verdict_flips, verdict_reading, verdicts, versions
from searchapp.services.database_clock import database_now
from searchapp.services.model_overview import Standing, standing_of
from searchapp.views.category_bars import category_bars
from searchapp.views.cost_cards import costs_of
from searchapp.views.flip_cards import NEGATIVE, POSITIVE, Flips, examples_of, flips_of, skus_in
from searchapp.views.jobs import row_of, staff_of
from searchapp.views.matrix_cards import METRICS, matrix_of
from searchapp.views.verdict_cards import Report, gate_rows, sentence_of


@dataclass(frozen=True, slots=True)
class Pair:
    """A version and the one it is judged beside."""

    version: ModelVersion
    against: ModelVersion | None  # None: it is the only one
    standing: Standing

    @property
    def is_tried(self) -> bool:
        """Whether it answers a part of the queries, or runs in the shadow."""
        return self.standing.is_tried(self.version)


def verdict(request: HttpRequest, version: str) -> HttpResponse:
    """GET /ops/versions/<v>/verdict: one sentence, the gates, the matrix, categories, pictures, costs.

    For htmx only how far a measurement is, and the whole page anew once it has ended.
    """
    pair = _pair(request, version)
    context: dict[str, object] = {"pair": pair, "version": pair.version.name}
    if pair.against is not None:
        facts = verdict_reading.verdict_facts(pair.version, pair.against)
        context |= {"against": pair.against.name, "facts": facts}
        context |= {"measuring": row_of(facts.measuring, database_now())} if facts.measuring else {}
        if request.htmx:  # type: ignore[attr-defined]
            if facts.measuring is None:
                return HttpResponseClientRefresh()
            return render(request, "models/_measuring.html", context)
        if facts.verdict is not None:
            context |= _report_context(request, pair.version, pair.against, facts.verdict)
    response = render(request, "models/verdict.html", context)
    patch_vary_headers(response, ["HX-Request"])
    return response


def _report_context(
    request: HttpRequest, version: ModelVersion, against: ModelVersion, found: Verdict
) -> dict[str, object]:
    report = verdicts.report_of(found)
    return {
        "report": report,
        "can_correct": version.lineage == against.lineage
        and not any(cell["gallery_state"] == "corrected" for cell in report["matrix"]),
        "sentence": sentence_of(report),
        "gates": gate_rows(report),
        "matrix": matrix_of(report, request.GET.get("metric", "map")),
        "metrics": tuple(METRICS.items()),
        "bars": category_bars(report),
        "flips": _flips(request, version, against, report),
        "costs": costs_of(report),
    }


def _flips(request: HttpRequest, version: ModelVersion, against: ModelVersion, report: Report) -> Flips:
    kind = POSITIVE if request.GET.get("flips") == POSITIVE else NEGATIVE
    return flips_of(
        report,
        kind,
        request.GET.get("category", ""),
        verdict_reading.titles_of(skus_in(examples_of(report, kind))),
        verdict_flips.decisions_of(version, against),
        shows_all="all" in request.GET,
    )


def _pair(request: HttpRequest, name: str) -> Pair:
    """`?against=` names another version than the one in use, or than the one before it for the one in use."""
    version = version_or_404(name)
    standing = standing_of(version)
    asked = request.GET.get("against") or request.POST.get("against")
    against = version_or_404(asked) if asked else standing.beside
    return Pair(version, None if against == version else against, standing)


def version_or_404(name: str) -> ModelVersion:
    """The version of a page's address."""
    try:
        return versions.version_named(name)
    except IncompatibleVersion:
        raise Http404 from None


def measure(request: HttpRequest, version: str) -> HttpResponse:
    """POST /ops/versions/<v>/measure: measure it beside the other, in a job; the page tells when it is done."""
    pair = _pair(request, version)
    try:
        evaluating.evaluation_start(version=pair.version, against=pair.against, user=staff_of(request))
    except SearchAppError as error:
        messages.error(request, error.message)
    return HttpResponseRedirect(_address(version, request))


def correct_first(request: HttpRequest, version: str) -> HttpResponse:
    """POST /ops/versions/<v>/correct: fit the stored entries to this candidate, before it is put in use."""
    pair = _pair(request, version)
    try:
        correcting.correction_start(user=staff_of(request), version=pair.version)
        words = f"The gallery is being corrected for {version}, in a job. Measure again once it is done."
        messages.success(request, words)
    except SearchAppError as error:
        messages.error(request, error.message)
    return HttpResponseRedirect(_address(version, request))


def flip_decide(request: HttpRequest, version: str) -> HttpResponse:
    """POST /ops/versions/<v>/flips: an answer that turned wrong is accepted, or blocks, or nothing is said of it."""
    pair = _pair(request, version)
    if pair.against is None:
        raise Http404
    sha256 = request.POST.get("query", "")[:64]
    try:
        verdict_flips.flip_decide(
            version=pair.version,
            against=pair.against,
            image_sha256=sha256,
            decision=request.POST.get("decision") or None,
            user=staff_of(request),
            reason=request.POST.get("reason", ""),
        )
    except SearchAppError as error:
        messages.error(request, error.message)
    return HttpResponseRedirect(f"{_address(version, request)}#flip-{quote(sha256[:16])}")


def _address(version: str, request: HttpRequest) -> str:
    """The verdict page as it was left: beside the same version, with the same pictures."""
    shown = {name: request.POST[name] for name in ("against", "category", "all") if request.POST.get(name)}
    return f"{reverse('model-verdict', args=[version])}?{urlencode(shown)}"
