"""What the broker lost is published again, what is abandoned is ended, what is left over is removed."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models import F

from searchapp.models import Job, JobState, OutboxMessage
from searchapp.services import jobs, leases, leftovers, sweeping
from searchapp.services.database_clock import DatabaseNow

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture(autouse=True)
def _every_five_seconds(settings: Any) -> None:
    settings.SWEEP_SECONDS = 5


def make() -> Job:
    return jobs.job_create(kind="encode_images", payload={})


def published(job: Job, *, seconds_ago: float) -> None:
    OutboxMessage.objects.filter(job=job, published_at__isnull=True).update(
        published_at=DatabaseNow(-seconds_ago)
    )
    Job.objects.filter(pk=job.pk).update(created_at=DatabaseNow(-seconds_ago - 1))


def test_a_waiting_job_whose_message_was_lost_is_published_again() -> None:
    job = make()
    published(job, seconds_ago=6)
    assert sweeping.sweep_once() == 1
    assert OutboxMessage.objects.filter(job=job, published_at__isnull=True).count() == 1


@pytest.mark.parametrize("seconds_ago", [0, 4])
def test_a_message_that_left_a_moment_ago_is_given_time(seconds_ago: float) -> None:
    job = make()
    published(job, seconds_ago=seconds_ago)
    assert sweeping.sweep_once() == 0
    assert job.outbox.count() == 1


def test_a_message_that_still_waits_for_the_relay_is_enough() -> None:
    job = make()
    Job.objects.filter(pk=job.pk).update(created_at=DatabaseNow(-100))
    assert sweeping.sweep_once() == 0


def test_the_pause_doubles_with_every_message_up_to_half_a_minute() -> None:
    job = make()
    Job.objects.filter(pk=job.pk).update(created_at=DatabaseNow(-1000))
    published_ago = [(6, 1), (6, 0), (11, 1), (21, 1), (31, 1), (31, 1), (29, 0)]
    outcomes = []
    for seconds, _ in published_ago:
        OutboxMessage.objects.filter(job=job).update(published_at=DatabaseNow(-seconds))
        Job.objects.filter(pk=job.pk).update(created_at=DatabaseNow(-1000))
        outcomes.append(sweeping.jobs_resend())
    assert outcomes == [expected for _, expected in published_ago]


def test_a_lease_that_ran_out_is_published_at_once_and_a_live_one_is_not() -> None:
    dead, live = make(), make()
    for job in (dead, live):
        published(job, seconds_ago=1000)
        leases.lease_claim(job.pk, owner="w")
    Job.objects.filter(pk=dead.pk).update(lease_until=DatabaseNow(-0.1))
    assert sweeping.sweep_once() == 1
    assert dead.outbox.filter(published_at__isnull=True).count() == 1
    assert live.outbox.filter(published_at__isnull=True).count() == 0


@pytest.mark.parametrize("state", [JobState.DONE, JobState.FAILED, JobState.CANCELLED])
def test_a_finished_job_is_never_published_again(state: JobState) -> None:
    job = make()
    published(job, seconds_ago=1000)
    Job.objects.filter(pk=job.pk).update(state=state)
    assert sweeping.sweep_once() == 0
    assert sweeping.jobs_resend_all() == 0


def test_a_job_out_of_attempts_is_failed_by_the_sweep_instead_of_published() -> None:
    job = make()
    published(job, seconds_ago=1000)
    leases.lease_claim(job.pk, owner="w")
    Job.objects.filter(pk=job.pk).update(lease_until=DatabaseNow(-1), attempts=F("max_attempts"))
    assert sweeping.sweep_once() == 0
    job.refresh_from_db()
    assert job.state == JobState.FAILED


def test_an_emptied_broker_gets_every_unfinished_job_once() -> None:
    waiting, running, fresh = make(), make(), make()
    for job in (waiting, running):
        published(job, seconds_ago=1)
    leases.lease_claim(running.pk, owner="w")
    assert sweeping.jobs_resend_all() == 2
    assert sweeping.jobs_resend_all() == 0
    assert [job.outbox.filter(published_at__isnull=True).count() for job in (waiting, running, fresh)] == [
        1,
        1,
        1,
    ]


def test_old_messages_go_when_their_job_is_over_and_stay_while_it_is_not() -> None:
    over, open_job, recent = make(), make(), make()
    day = timedelta(days=1).total_seconds()
    for job, age in ((over, day + 60), (open_job, day + 60), (recent, day - 60)):
        published(job, seconds_ago=age)
    Job.objects.exclude(pk=open_job.pk).update(state=JobState.DONE)
    assert leftovers.messages_remove() == 1
    assert [job.outbox.count() for job in (over, open_job, recent)] == [0, 1, 1]


def test_temporary_files_of_dead_writers_go_and_fresh_or_finished_ones_stay(
    settings: Any, tmp_path: Path
) -> None:
    settings.MEDIA_ROOT, settings.MODEL_DIR, settings.SNAPSHOT_DIR = (
        tmp_path / "m",
        tmp_path / "v",
        tmp_path / "s",
    )
    dead = [tmp_path / "m/images/ab/.new-x1", tmp_path / "v/.digest.1.tmp/weights", tmp_path / "s/.view.tmp"]
    kept = [tmp_path / "m/images/ab/ab12.jpg", tmp_path / "v/digest/weights", tmp_path / "s/view.snapshot"]
    for path in dead + kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")

    assert leftovers.temporaries_remove() == 0  # too young to be a dead writer's
    assert all(path.exists() for path in dead + kept)

    leftovers_kept = leftovers.TEMPORARY_KEPT_SECONDS
    leftovers.TEMPORARY_KEPT_SECONDS = -1.0
    try:
        assert leftovers.temporaries_remove() >= 3
    finally:
        leftovers.TEMPORARY_KEPT_SECONDS = leftovers_kept
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in kept)


def test_a_picture_left_aside_is_put_back_when_a_row_needs_it_and_removed_when_none_does(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MEDIA_ROOT, settings.MODEL_DIR, settings.SNAPSHOT_DIR = tmp_path, tmp_path / "v", tmp_path / "s"
    monkeypatch.setattr(leftovers, "TEMPORARY_KEPT_SECONDS", -1.0)
    needed, unneeded = "aa" * 32, "bb" * 32
    monkeypatch.setattr("searchapp.services.media._is_used", lambda sha256: sha256 == needed)
    for sha in (needed, unneeded):
        (tmp_path / f".old-17-{sha}.jpg").write_bytes(b"x")
    assert leftovers.temporaries_remove() == 2
    assert [path.name for path in tmp_path.iterdir()] == [f"{needed}.jpg"]
