"""The audit log: who did what to what, why, and what it was before and after. Rows are only ever added."""

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AbstractBaseUser

from searchapp.models import AuditEvent


def event_record(
    *,
    action: str,
    actor: AbstractBaseUser | None,
    subject: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str = "",
) -> AuditEvent:
    """Add one event, in the caller's transaction if there is one: it must commit with what it tells of.

    `actor` None means the system itself. The name is kept beside the account, which may be deleted later.
    """
    is_person = actor is not None and actor.is_authenticated
    return AuditEvent.objects.create(
        action=action,
        actor_id=actor.pk if actor is not None and is_person else None,
        actor_name=actor.get_username()[:150] if actor is not None and is_person else "system",
        subject=subject[:300],
        before=dict(before or {}),
        after=dict(after or {}),
        reason=reason[:500],
    )
