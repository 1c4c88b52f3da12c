"""Operators change settings on a page that says what is allowed, asks for a reason, and shows every change."""

import pytest
from django.test import Client

from searchapp.models import AuditEvent, OperatorSetting
from searchapp.services.operator_settings import SETTINGS, setting_changes, setting_value
from tests.searchapp.api_cast import operator_make, session_client, user_make

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator(db: None) -> Client:
    return session_client(operator_make())


def change(client: Client, name: str, value: str, reason: str = "") -> tuple[int, str]:
    response = client.post("/ops/settings", {"name": name, "value": value, "reason": reason}, follow=True)
    return response.status_code, response.content.decode()


def test_every_setting_has_a_place_that_a_link_can_lead_to(operator: Client) -> None:
    said = operator.get("/ops/settings").content.decode()

    for setting in SETTINGS.values():
        assert f'id="{setting.name}"' in said
        assert setting.label in said
        assert setting.allowed in said


def test_a_change_is_kept_with_who_when_from_to_and_why(operator: Client) -> None:
    status, said = change(operator, "gate.map_loss", "0.02", "a smaller model on purpose")

    assert status == 200
    assert setting_value("gate.map_loss") == 0.02
    for told in ("olga", "a smaller model on purpose", "0.01", "0.02", "Set back"):
        assert told in said
    event = AuditEvent.objects.get(action="setting.change")
    assert (event.before, event.after) == ({"gate.map_loss": 0.01}, {"gate.map_loss": 0.02})


def test_setting_back_is_a_change_of_its_own(operator: Client) -> None:
    change(operator, "gate.flips", "0.1", "for a day")
    change(operator, "gate.flips", "0.05", "Set back what was changed today")

    assert setting_value("gate.flips") == 0.05
    assert OperatorSetting.objects.filter(name="gate.flips").count() == 2
    newest, older = setting_changes()
    assert (newest.before, newest.row.value, newest.is_newest) == (0.1, 0.05, True)
    assert (older.before, older.row.value, older.is_newest) == (0.05, 0.1, False)


@pytest.mark.parametrize(
    ("name", "value", "reason", "told"),
    [
        ("gate.map_loss", "0.02", "", "changed only with a reason"),
        ("gate.map_loss", "0.02", "   ", "changed only with a reason"),
        ("gate.map_loss", "much", "why", "allowed: 0 to 0.5"),
        ("gate.map_loss", "nan", "why", "allowed: 0 to 0.5"),
        ("gate.map_loss", "2", "why", "allowed: 0 to 0.5"),
        ("watch.rollback", "perhaps", "why", "allowed: yes or no"),
        ("watch.email", "nobody", "", "allowed: an address, or nothing"),
        ("gate.unknown", "1", "why", "there is no setting"),
    ],
)
def test_what_is_not_allowed_is_said_beside_the_setting_and_nothing_is_stored(
    operator: Client, name: str, value: str, reason: str, told: str
) -> None:
    status, said = change(operator, name, value, reason)

    assert status == 400
    assert told in said
    if name in SETTINGS and "reason" not in told:
        assert f'value="{value}"' in said or name == "watch.rollback"  # what was typed is still there
    assert not OperatorSetting.objects.exists()
    assert not AuditEvent.objects.filter(action="setting.change").exists()


def test_switches_and_words_are_settings_too(operator: Client) -> None:
    change(operator, "watch.rollback", "yes", "nights are long")
    change(operator, "watch.email", "olga@example.org")
    status, said = change(operator, "watch.email", " ")

    assert status == 200
    assert setting_value("watch.rollback") is True
    assert setting_value("watch.email") == ""
    assert "is nothing now" in said


def test_only_operators_change_settings(db: None) -> None:
    status, _ = change(session_client(user_make("sam", is_staff=True)), "gate.map_loss", "0.02", "why")

    assert status == 403
    assert not OperatorSetting.objects.exists()
