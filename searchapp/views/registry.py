"""The registry's page of one version: everything that is kept of it."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from searchapp.services import savings, verdict_reading, verdicts
from searchapp.services.model_overview import model_overview
from searchapp.services.version_record import version_record
from searchapp.views.model_cards import card_of
from searchapp.views.registry_cards import registry_page
from searchapp.views.verdict_cards import sentence_of
from searchapp.views.verdicts import version_or_404


def version_page(request: HttpRequest, version: str) -> HttpResponse:
    """GET /ops/versions/<v>."""
    found = version_or_404(version)
    overview = model_overview()
    facts = overview.facts_of(found)
    newest = verdict_reading.newest_verdict(found)
    context = {
        "card": card_of(facts, overview, savings.rates_here() if facts.increment else None),
        "page": registry_page(version_record(found)),
        "sentence": sentence_of(verdicts.report_of(newest)) if newest else None,
        "in_use": overview.in_use.version.name if overview.in_use else "",
    }
    return render(request, "models/version.html", context)
