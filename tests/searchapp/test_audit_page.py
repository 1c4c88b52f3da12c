"""Operators read the audit log by who, what, on what and when, on the page and as CSV; nobody changes it."""

import ast
import csv
import io
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.utils import timezone

import searchapp
from searchapp.models import AuditEvent
from searchapp.services.audit import event_record
from searchapp.views.audit import PAGE_SIZE, WORDS
from tests.searchapp.api_cast import operator_make, session_client, user_make

pytestmark = pytest.mark.django_db
DIGEST = "ab" * 32


@pytest.fixture
def olga(db: None) -> User:
    return operator_make()


@pytest.fixture
def operator(olga: User) -> Client:
    return session_client(olga)


def events(olga: User) -> None:
    event_record(
        action="version.promote", actor=olga, subject="version 2.0", reason="better",
        before={"version": "1.0"}, after={"version": "2.0", "digest": DIGEST},
    )  # fmt: skip
    event_record(
        action="item.delete",
        actor=user_make("sam", is_staff=True),
        subject="apple-1",
        before={"sku": "apple-1"},
    )
    event_record(action="version.rollback", actor=None, subject="version 1.0")


def page(client: Client, **asked: str) -> str:
    response = client.get("/ops/audit", asked)
    assert response.status_code == 200, response.content[:300]
    return response.content.decode()


def lines(client: Client, **asked: str) -> list[dict[str, str]]:
    response = client.get("/ops/audit.csv", asked)
    assert response.status_code == 200
    assert response.streaming
    assert "attachment" in response["Content-Disposition"]
    text = b"".join(response.streaming_content).decode()  # type: ignore[attr-defined]
    return list(csv.DictReader(io.StringIO(text)))


def test_the_page_tells_who_did_what_why_and_what_it_was_before_and_after(
    olga: User, operator: Client
) -> None:
    events(olga)

    said = page(operator)

    for told in (
        "olga",
        "Put a version in use",
        "version 2.0",
        "better",
        f'title="{DIGEST}"',
        "system",
        "apple-1",
    ):
        assert told in said
    assert said.index("Went back to a version") < said.rindex("Put a version in use")  # newest first


@pytest.mark.parametrize(
    ("asked", "subjects"),
    [
        ({}, ["version 1.0", "apple-1", "version 2.0"]),
        ({"who": "olga"}, ["version 2.0"]),
        ({"who": "system"}, ["version 1.0"]),
        ({"action": "item.delete"}, ["apple-1"]),
        ({"text": "VERSION"}, ["version 1.0", "version 2.0"]),
        ({"text": "better"}, ["version 2.0"]),
        ({"who": "sam", "action": "version.promote"}, []),
        ({"text": "half\x00"}, []),
    ],
)
def test_filters_are_combined_and_the_csv_holds_the_same_rows(
    olga: User, operator: Client, asked: dict[str, str], subjects: list[str]
) -> None:
    events(olga)

    assert [line["subject"] for line in lines(operator, **asked)] == subjects
    shown = page(operator, **asked)
    assert f"{len(subjects)} entr" in shown or not subjects


def test_days_are_whole_days(olga: User, operator: Client) -> None:
    events(olga)
    today = timezone.localdate()
    tomorrow, yesterday = today + timedelta(days=1), today - timedelta(days=1)

    assert len(lines(operator, since=str(today), until=str(today))) == 3
    assert lines(operator, since=str(tomorrow)) == []
    assert lines(operator, until=str(yesterday)) == []


@pytest.mark.parametrize(
    "asked",
    [
        {"since": "soon"},
        {"until": "2026-02-30"},
        {"since": "0001-01-01"},
        {"since": "2026-02-02", "until": "2026-02-01"},
    ],
)
def test_a_day_that_is_none_is_said_and_nothing_is_left_out_unsaid(
    operator: Client, asked: dict[str, str]
) -> None:
    for url in ("/ops/audit", "/ops/audit.csv"):
        response = operator.get(url, asked)
        assert response.status_code == 400
        assert "since: it is" in response.content.decode() or "until: it is" in response.content.decode()


def test_the_csv_holds_all_and_runs_nothing_in_a_spreadsheet(olga: User, operator: Client) -> None:
    event_record(
        action="version.promote",
        actor=olga,
        subject='=HYPERLINK("http://evil")',
        reason="+1",
        after={"digest": DIGEST, "n": 1},
    )

    line = lines(operator)[0]

    assert line["subject"] == '\'=HYPERLINK("http://evil")'
    assert line["reason"] == "'+1"
    assert line["after"] == f'{{"digest": "{DIGEST}", "n": 1}}'
    assert (line["who"], line["digests"], line["before"]) == ("olga", DIGEST, "")


def test_pages_keep_the_filter(olga: User, operator: Client) -> None:
    for number in range(PAGE_SIZE + 1):
        event_record(action="item.delete", actor=olga, subject=f"apple-{number}")

    first = page(operator, who="olga")
    assert 'href="?who=olga&amp;page=2"' in first
    assert "apple-0<" not in first
    assert "apple-0<" in page(operator, who="olga", page="2")


def test_what_events_hold_is_shown_as_text_and_never_run(olga: User, operator: Client) -> None:
    event_record(action="x", actor=olga, subject="<script>alert(1)</script>", before={"<b>": "<i>"})

    said = page(operator)

    assert "<script>alert(1)" not in said
    assert "&lt;b&gt;" in said


def test_only_operators_read_it(db: None) -> None:
    staff = session_client(user_make("sam", is_staff=True))
    for url in ("/ops/audit", "/ops/audit.csv"):
        assert staff.get(url).status_code == 403
        assert Client().get(url).status_code in (302, 401, 403)


@pytest.mark.database
@pytest.mark.parametrize("sql", ["UPDATE {} SET reason = 'other'", "DELETE FROM {}"])
def test_the_database_refuses_to_change_or_delete_an_entry(olga: User, sql: str) -> None:
    events(olga)
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.format(AuditEvent._meta.db_table))

    assert AuditEvent.objects.count() == 3


def test_every_action_that_is_recorded_has_words() -> None:
    sources = Path(searchapp.__file__).parent.rglob("*.py")
    recorded = {action for path in sources for action in actions_recorded(ast.parse(path.read_text("utf-8")))}
    assert {"version.canary", "categories.catch_up", "duplicate.keep", "evaluation_set.use"} <= recorded
    assert recorded <= WORDS.keys()


def actions_recorded(tree: ast.Module) -> Iterator[str]:
    """Texts given as `action`, by name or by place to a function of the same file, or returned by one so named."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    takers = {
        one.name: names.index("action")
        for one in functions
        if "action" in (names := [argument.arg for argument in one.args.args])
    }
    given: list[ast.AST] = [one for one in functions if one.name == "action"]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given += [keyword.value for keyword in call.keywords if keyword.arg == "action"]
        if isinstance(call.func, ast.Name) and takers.get(call.func.id, len(call.args)) < len(call.args):
            given.append(call.args[takers[call.func.id]])
    for node in (found for one in given for found in ast.walk(one)):
        if isinstance(node, ast.Constant) and re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", said := str(node.value)):
            yield said
