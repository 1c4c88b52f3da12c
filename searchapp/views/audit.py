"""The audit log for operators: who did what, why, and what it was before and after; as a page and as CSV."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse

from searchapp.exceptions import InvalidInput
from searchapp.models import AuditEvent
from searchapp.services.audit_reading import (
    AuditFilter,
    digests_of,
    events_found,
    is_digest,
    people_and_actions,
)
from searchapp.views.csv_lines import csv_line

PAGE_SIZE = 50
VALUE_LENGTH = 120
AT_ONCE = 500  # rows of the CSV read from the database in one go
HEADER = ("when", "who", "action", "subject", "reason", "before", "after", "digests")
WORDS = {
    "version.promote": "Put a version in use",
    "version.promote.refused": "Refused to put a version in use",
    "version.rollback": "Went back to a version",
    "version.canary": "Began to try a version on some visitors",
    "version.shadow": "Began to ask a version unseen",
    "version.canary_end": "Ended the trial of a version",
    "version.import": "Took in a version from outside",
    "flip.decide": "Decided on an answer that changes",
    "quality.fallen": "Quality fell below what was promised",
    "quality.rollback": "Went back because quality fell",
    "gallery.correct": "Corrected the gallery",
    "gallery.checked": "Checked the gallery after a move",
    "categories.learn": "Learned categories",
    "categories.catch_up": "Taught a candidate missing categories",
    "category.add": "Added a category",
    "category.delete": "Deleted a category",
    "category.merge": "Merged categories",
    "category.rename": "Renamed a category",
    "category.split": "Split a category",
    "item.delete": "Deleted an item",
    "item.relabel": "Moved an item",
    "items.relabel": "Moved items",
    "image.delete": "Deleted a photo",
    "duplicate.keep": "Kept photos that are alike",
    "duplicate.remove": "Removed a photo that is alike",
    "setting.change": "Changed a setting",
    "evaluation_set.add": "Added an evaluation set",
    "evaluation_set.use": "Used an evaluation set, or not",
    "evaluation_set.remove": "Removed an evaluation photo",
    "evaluation_set.delete": "Deleted an evaluation set",
    "evaluation_set.expire": "Shoppers' photos ended",
    "index_audit.repair": "Repaired the gallery",
    "user.create": "Added an account",
    "user.change": "Changed an account",
    "key.create": "Created an API key",
    "key.revoke": "Revoked an API key",
}


@dataclass(frozen=True, slots=True)
class EventRow:
    event: AuditEvent
    words: str
    before: tuple[tuple[str, str], ...]
    after: tuple[tuple[str, str], ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    value: str
    label: str


def audit_log(request: HttpRequest) -> HttpResponse:
    """GET /ops/audit: a page of the events that the filter lets through."""
    wanted, problem = _wanted(request)
    page = Paginator(events_found(wanted), PAGE_SIZE).get_page(request.GET.get("page"))
    people, actions = people_and_actions()
    values = wanted.as_values()
    context = {
        "page": page,
        "rows": [_row(event) for event in page],
        "people": people,
        "actions": [Choice(action, WORDS.get(action, action)) for action in actions],
        "asked": {name: request.GET.get(name, "")[:150] for name in ("since", "until")} | values,
        "is_filtered": bool(values),
        "more": f"{urlencode(values)}&" if values else "",
        "csv_url": f"{reverse('audit-log-csv')}?{urlencode(values)}",
        "problem": problem,
    }
    return render(request, "models/audit.html", context, status=400 if problem else 200)


def audit_csv(request: HttpRequest) -> HttpResponseBase:
    """GET /ops/audit.csv: every event that the filter lets through, line by line as they are read."""
    wanted, problem = _wanted(request)
    if problem:
        return HttpResponse(problem, status=400, content_type="text/plain; charset=utf-8")
    response = StreamingHttpResponse(_lines(wanted), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="audit-log.csv"'
    return response


def _wanted(request: HttpRequest) -> tuple[AuditFilter, str]:
    """The filter, and what is wrong with it; then it is the empty one."""
    try:
        return AuditFilter.parse(request.GET.dict()), ""
    except InvalidInput as error:
        return AuditFilter(), error.message


def _lines(wanted: AuditFilter) -> Iterator[str]:
    yield csv_line(HEADER)
    for event in events_found(wanted).iterator(chunk_size=AT_ONCE):
        yield csv_line(
            [
                event.created_at.isoformat(timespec="seconds"),
                event.actor_name,
                event.action,
                event.subject,
                event.reason,
                _json(event.before),
                _json(event.after),
                " ".join(digests_of(event)),
            ]
        )


def _row(event: AuditEvent) -> EventRow:
    return EventRow(
        event,
        WORDS.get(event.action, event.action),
        _listed(event.before),
        _listed(event.after),
        tuple(digests_of(event)),
    )


def _listed(values: Any) -> tuple[tuple[str, str], ...]:
    """Digests are left to their own column."""
    if not isinstance(values, dict):
        return (("", _short(values)),)
    shown = {name: value for name, value in values.items() if not is_digest(value)}
    return tuple((name, _short(value)) for name, value in shown.items())


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    return text if len(text) <= VALUE_LENGTH else f"{text[:VALUE_LENGTH]}…"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if value not in ({}, None) else ""
