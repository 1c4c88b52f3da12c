"""Promotions that wait or run: the same one asked for again is that one, another has to wait."""

from collections.abc import Mapping
from typing import Any

from searchapp.exceptions import Conflict
from searchapp.models import FINISHED_STATES, Job

PROMOTE = "promote"


def asked_before(payload: Mapping[str, Any], idempotency_key: str) -> Job | None:
    """The job of this key, or one on its way that does the same; a reason is not given to one that has none."""
    promotions = Job.objects.filter(kind=PROMOTE)
    if idempotency_key and (asked := promotions.filter(idempotency_key=idempotency_key).first()) is not None:
        return asked
    same = [job for job in _going() if _wish(job.payload) == _wish(payload)]
    reason = payload["override_reason"]
    return next((job for job in same if not reason or job.payload["override_reason"]), None)


def refuse_another(payload: Mapping[str, Any]) -> None:
    """Raise Conflict while a promotion to something else waits or runs."""
    for job in _going():
        if _wish(job.payload) != _wish(payload):
            who = f" by {job.created_by}" if job.created_by else ""
            raise Conflict(
                f"“{job.subject}” was asked for{who} and is under way; wait for it, or cancel it first."
            )


def _wish(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What two askings must have in common to be the same."""
    return {name: value for name, value in payload.items() if name not in ("override_reason", "champion")}


def _going() -> list[Job]:
    going = Job.objects.filter(kind=PROMOTE, cancel_requested=False).exclude(state__in=FINISHED_STATES)
    return list(going.select_related("created_by").order_by("created_at"))
