"""Each test has files of its own; its rows are rolled back, and what this process remembers of them goes with them."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import Group
from django.db import connection
from django.test import Client
from pytest_django.fixtures import Settings

from searchapp.models import AuditEvent, CountedEntry, GalleryCounter, GalleryEntry
from searchapp.services import query_drift, query_log, serving, shadowing
from tests.searchapp.api_cast import key_client, user_make


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    yield
    serving.forget()
    query_log.forget()
    shadowing.forget()
    query_drift.forget()


@pytest.fixture(autouse=True)
def _append_only_rows_can_be_flushed(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that commits is cleaned up by deleting every row, in any order: what the triggers are there to refuse."""
    marker = request.node.get_closest_marker("django_db")
    commits = "transactional_db" in request.fixturenames or (marker and marker.kwargs.get("transaction"))
    if not commits:
        yield
        return
    request.getfixturevalue("transactional_db")  # so that this ends before the flush
    # The flush of the test before took the rows that the migrations made.
    GalleryCounter.objects.get_or_create(pk=1)
    Group.objects.get_or_create(name="operators")
    yield
    if connection.vendor == "sqlite":
        _deleted_past_the_triggers()


def _deleted_past_the_triggers() -> None:
    migration = importlib.import_module("searchapp.migrations.0002_append_only_and_text_search")
    guards = {
        sql.split()[2]: sql
        for sql in migration.SQLITE
        if sql.startswith("CREATE TRIGGER") and "no_delete" in sql
    }
    with connection.cursor() as cursor:
        for name in guards:
            cursor.execute(f"DROP TRIGGER {name}")
        for model in (CountedEntry, GalleryEntry, AuditEvent):
            cursor.execute(f"DELETE FROM {model._meta.db_table}")
        for sql in guards.values():
            cursor.execute(sql)


@pytest.fixture
def data_dir(tmp_path: Path, settings: Settings) -> Path:
    """A DATA_DIR of the test's own."""
    settings.DATA_DIR = tmp_path
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.MODEL_DIR = tmp_path / "models"
    settings.SNAPSHOT_DIR = tmp_path / "snapshots"
    settings.IMPORT_DIR = tmp_path / "imports"
    settings.TRAINING_DIR = tmp_path / "training"
    return tmp_path


@pytest.fixture
def quiet_heartbeat(settings: Settings) -> None:
    """Its own connection cannot see the job of a test that never commits, and would take the lease for lost."""
    settings.JOB_LEASE_SECONDS = 3600


@pytest.fixture
def anonymous() -> Client:
    return Client()


@pytest.fixture
def staff(db: None) -> Client:
    """Staff by API key: no session, no CSRF token."""
    return key_client(user_make("sam", is_staff=True))
