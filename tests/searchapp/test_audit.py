"""The audit log names who did what, and nothing in it can be changed or taken away."""

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import DatabaseError, transaction

from searchapp.models import AuditEvent
from searchapp.services import audit

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_an_event_keeps_actor_subject_before_after_and_reason() -> None:
    anna = User.objects.create(username="anna")

    audit.event_record(
        action="item.delete", actor=anna, subject="hat", before={"title": "Hat"}, after={}, reason="sold out"
    )

    event = AuditEvent.objects.get()
    assert (event.actor, event.actor_name, event.action, event.subject) == (
        anna,
        "anna",
        "item.delete",
        "hat",
    )
    assert (event.before, event.after, event.reason) == ({"title": "Hat"}, {}, "sold out")


@pytest.mark.parametrize("nobody", [None, AnonymousUser()])
def test_what_nobody_named_did_is_the_systems(nobody: AnonymousUser | None) -> None:
    event = audit.event_record(action="sweep", actor=nobody, subject="jobs")  # type: ignore[arg-type]

    assert (event.actor_id, event.actor_name) == (None, "system")


def test_the_name_outlives_the_account() -> None:
    anna = User.objects.create(username="anna")
    audit.event_record(action="promote", actor=anna, subject="1.2")

    anna.delete()

    event = AuditEvent.objects.get()
    assert (event.actor_id, event.actor_name) == (None, "anna")


def test_the_database_refuses_to_change_or_delete_an_event() -> None:
    event = audit.event_record(action="promote", actor=None, subject="1.2")

    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEvent.objects.update(subject="1.3")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEvent.objects.all().delete()
    assert AuditEvent.objects.get().subject == event.subject == "1.2"
