"""The audit log as it is read: filtered by who, what, on what and when."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime, time, timedelta
from typing import Any, Self

from django.db.models import Q, QuerySet
from django.utils import timezone

from searchapp.exceptions import InvalidInput
from searchapp.models import AuditEvent

TEXT_LENGTH = 150
YEARS = range(2000, 3000)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Empty means any. `text` is looked for in subject and reason; `since` and `until` are whole days."""

    who: str = ""
    action: str = ""
    text: str = ""
    since: date | None = None
    until: date | None = None

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> Self:
        """From a form's values. Raises InvalidInput on since or until when they are no days such as 2026-01-31."""
        who, action, text = (_plain(values.get(name, "")) for name in ("who", "action", "text"))
        since, until = (_day(name, values.get(name, "")) for name in ("since", "until"))
        if since and until and since > until:
            message = f"it is {since}, after the last day, {until}."
            raise InvalidInput(f"since: {message}", fields={"since": message})
        return cls(who=who, action=action, text=text, since=since, until=until)

    def as_values(self) -> dict[str, str]:
        """What a link must carry to show the same; without what is empty."""
        found = {field.name: str(getattr(self, field.name) or "") for field in fields(self)}
        return {name: value for name, value in found.items() if value}


def events_found(wanted: AuditFilter) -> QuerySet[AuditEvent]:
    """Newest first."""
    asked = Q()
    if wanted.who:
        asked &= Q(actor_name=wanted.who)
    if wanted.action:
        asked &= Q(action=wanted.action)
    if wanted.text:
        asked &= Q(subject__icontains=wanted.text) | Q(reason__icontains=wanted.text)
    if wanted.since:
        asked &= Q(created_at__gte=_midnight(wanted.since))
    if wanted.until:
        asked &= Q(created_at__lt=_midnight(wanted.until + timedelta(days=1)))
    return AuditEvent.objects.filter(asked).order_by("-pk")


def people_and_actions() -> tuple[list[str], list[str]]:
    """Who ever did something, and which kinds of things were done; to choose from."""
    rows = AuditEvent.objects.order_by()
    people = rows.exclude(actor_name="").values_list("actor_name", flat=True).distinct()
    return sorted(people), sorted(rows.values_list("action", flat=True).distinct())


def digests_of(event: AuditEvent) -> list[str]:
    """Every SHA-256 that an event names, before and after, each once."""
    return list(dict.fromkeys([*_digests_in(event.before), *_digests_in(event.after)]))


def is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _digests_in(value: Any) -> list[str]:
    if is_digest(value):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [digest for part in value for digest in _digests_in(part)] if isinstance(value, list) else []


def _plain(text: str) -> str:
    return text.replace("\x00", "").strip()[:TEXT_LENGTH]


def _day(name: str, text: str) -> date | None:
    if not text.strip():
        return None
    try:
        found = date.fromisoformat(text.strip())
    except ValueError:
        message = f"it is {text[:40]!r}, allowed: a day such as 2026-01-31."
        raise InvalidInput(f"{name}: {message}", fields={name: message}) from None
    if found.year not in YEARS:
        message = f"it is {found}, allowed: the years 2000 to 2999."
        raise InvalidInput(f"{name}: {message}", fields={name: message})
    return found


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time.min))
