"""What happens while new categories are learned: deaths, sweeps, other jobs, and writes past Perennial."""

from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django.fixtures import Settings

from searchapp.models import (
    AuditEvent,
    Category,
    CountedEntry,
    Deployment,
    GalleryEntry,
    Job,
    JobState,
    ModelVersion,
)
from searchapp.services import base_training, jobs, learning, learning_increment, learning_publishing
from tests.searchapp.galleries import encode_missing, item_with_photos
from tests.searchapp.learnings import in_use, rows_by_version
from tests.searchapp.trainings import class_photos

pytestmark = [pytest.mark.django_db, pytest.mark.database]
EACH = 4


class Killed(BaseException):
    """As a kill: nothing catches it, nothing is put in order."""


@pytest.fixture(autouse=True)
def _quick_and_quiet(settings: Settings) -> None:
    """The heartbeat's own connection cannot see the job of a test that never commits."""
    settings.JOB_LEASE_SECONDS = 3600
    settings.LEARN_WINDOW_SECONDS = 0


@pytest.fixture
def new(data_dir: Path, data_packs: Path) -> Category:
    """A category that waits, in a shop of two."""
    for name, photos in class_photos(data_packs, 3, EACH).items():
        category = item_with_photos(name, photos, name, title=name).category
        encode_missing()
    Category.objects.exclude(pk=category.pk).update(learn_asked_at=None)
    return category


def at(monkeypatch: pytest.MonkeyPatch, module: Any, point: str, act: Callable[[], object]) -> None:
    """Do something the first time that `module` passes a failpoint."""
    left = [act]

    def passed(name: str) -> None:
        if name == point and left:
            left.pop()()

    monkeypatch.setattr(module, "failpoint", passed)


def die() -> None:
    raise Killed


def run_again(job: Job) -> Job:
    """By another worker, once the lease of the dead one ran out."""
    Job.objects.filter(pk=job.pk).update(lease_until="2020-01-01T00:00:00Z")
    job.refresh_from_db()
    return jobs.job_run_here(job)


def folders(name: str) -> Sequence[str]:
    root: Path = getattr(django_settings, name)
    return sorted(path.name for path in root.glob("*"))


@pytest.mark.parametrize(
    ("module", "point"),
    [
        (learning_increment, "learning.before_publish"),
        (learning_publishing, "learning.before_commit"),
        (learning_increment, "learning.after_publish"),
    ],
)
def test_killed_around_its_publication_it_is_published_once_and_leaves_no_files(
    new: Category, monkeypatch: pytest.MonkeyPatch, module: Any, point: str
) -> None:
    before = rows_by_version()
    job = learning.learn_start(user=None)
    at(monkeypatch, module, point, die)
    with pytest.raises(Killed):
        jobs.job_run_here(job)

    job = run_again(job)

    assert (job.state, job.error, (job.result or {})["version"], in_use()) == ("done", "", "1.1", "1.1")
    after = rows_by_version()
    assert (after["1.0"], len(after["1.1"]), set(after)) == (before["1.0"], EACH, {"1.0", "1.1"})
    assert Deployment.objects.filter(ended_at__isnull=True).count() == 1
    assert AuditEvent.objects.filter(action="categories.learn").count() == 1
    assert folders("TRAINING_DIR") == []
    assert folders("MODEL_DIR") == sorted(ModelVersion.objects.values_list("digest", flat=True))


def test_a_publication_that_fails_leaves_no_bundle(new: Category, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("as it had to")

    at(monkeypatch, learning_publishing, "learning.before_commit", fail)

    job = jobs.job_run_here(learning.learn_start(user=None))

    assert (job.state, job.error, in_use()) == ("failed", "as it had to (ValueError)", "1.0")
    assert folders("MODEL_DIR") == [ModelVersion.objects.get().digest]
    assert base_training.training_leftovers_remove() == 1  # a retry begins in a folder of its own
    assert folders("TRAINING_DIR") == []


def test_the_sweeper_leaves_the_files_of_a_learning_that_runs(
    new: Category, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[int] = []
    at(
        monkeypatch,
        learning_increment,
        "learning.after_bundle",
        lambda: swept.append(base_training.training_leftovers_remove()),
    )

    job = jobs.job_run_here(learning.learn_start(user=None))

    assert (job.state, job.error, swept) == ("done", "", [0])


def test_a_job_whose_categories_another_learned_meanwhile_ends_well_and_changes_nothing(
    new: Category, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = learning.learn_start(user=None), learning.learn_start(user=None, categories=[new.slug])
    jobs.job_run_here(first)
    before = rows_by_version()

    second = jobs.job_run_here(second)

    assert (second.state, second.error, second.result) == ("done", "", {"categories": []})
    assert second.message == "nothing was left to learn"
    assert (rows_by_version(), in_use()) == (before, "1.1")


def rewrite(entry: GalleryEntry) -> None:
    """One bit of a stored code, past Perennial and past the trigger that would refuse it."""
    table, code = GalleryEntry._meta.db_table, bytes(entry.code)
    trigger = "gallery_entry_no_update"
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"DROP TRIGGER {trigger}")
        else:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute(f"DROP TRIGGER {trigger} ON {table}")
        changed = bytes([code[0] ^ 1]) + code[1:]
        cursor.execute(f"UPDATE {table} SET code = %s WHERE id = %s", [changed, entry.pk])


@pytest.mark.parametrize("point", ["learning.after_count", "learning.after_gates", "learning.before_publish"])
def test_a_code_changed_past_perennial_is_named_and_nothing_is_published(
    new: Category, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Whenever that was: the codes are looked at when learning begins, before it is judged, and in the last step."""
    changed: list[GalleryEntry] = []

    def change() -> None:
        changed.append(CountedEntry.objects.order_by("pk")[0].entry)
        rewrite(changed[0])

    at(monkeypatch, learning_increment, point, change)
    with pytest.raises(CommandError) as refused:
        call_command("learn_categories", "--wait", stdout=StringIO())

    entry = changed[0]
    named = f"the first is that of photo {entry.image_sha256} of item {entry.image.item.sku} ("
    assert f"1 of {2 * EACH} stored codes are not what they were, {named}" in str(refused.value)
    assert refused.value.returncode == 1
    assert (in_use(), ModelVersion.objects.count(), set(rows_by_version())) == ("1.0", 1, {"1.0"})
    assert Job.objects.get(kind=learning.KIND).state == JobState.FAILED
    assert folders("MODEL_DIR") == [ModelVersion.objects.get().digest]
