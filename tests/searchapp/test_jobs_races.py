"""Several workers, relays and writers at the same moment, each on a connection of its own."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction

from searchapp.models import Category, Job, JobState, OutboxMessage
from searchapp.services import jobs, leases
from searchapp.services.database_clock import DatabaseNow

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Run the actions in threads that start together; the results, or what was raised, in their order."""
    barrier = threading.Barrier(len(actions))
    results: list[Any] = [None] * len(actions)

    def run(place: int, action: Callable[[], Any]) -> None:
        try:
            barrier.wait()
            results[place] = action()
        except Exception as error:  # noqa: BLE001  the test looks at it
            results[place] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


def test_of_eight_workers_that_claim_one_job_at_once_one_gets_it() -> None:
    for _ in range(5):
        job = jobs.job_create(kind="encode_images", payload={})
        claims = at_once(*[lambda job=job: leases.lease_claim(job.pk, owner="w")] * 8)
        assert [claim.fence for claim in claims if claim is not None] == [1]
        job.refresh_from_db()
        assert (job.attempts, job.fence) == (1, 1)


def test_of_eight_workers_that_take_over_a_dead_ones_job_one_gets_it() -> None:
    job = jobs.job_create(kind="encode_images", payload={})
    leases.lease_claim(job.pk, owner="dead")
    Job.objects.filter(pk=job.pk).update(lease_until=DatabaseNow(-1))
    claims = at_once(*[lambda: leases.lease_claim(job.pk, owner="w")] * 8)
    assert [claim.fence for claim in claims if claim is not None] == [2]


def test_of_four_trainings_claimed_at_once_one_runs_and_the_others_wait_without_an_error() -> None:
    trainings = [Job.objects.create(kind="encode_images", queue=Job.Queue.TRAINING) for _ in range(4)]
    claims = at_once(*[lambda job=job: leases.lease_claim(job.pk, owner="w") for job in trainings])
    assert not [claim for claim in claims if isinstance(claim, Exception)]
    assert len([claim for claim in claims if claim is not None]) == 1
    states = sorted(Job.objects.values_list("state", flat=True))
    assert states == [JobState.QUEUED] * 3 + [JobState.RUNNING]


def test_one_idempotency_key_used_by_six_callers_at_once_makes_one_job_and_one_message() -> None:
    made = at_once(*[lambda: jobs.job_create(kind="encode_images", payload={}, idempotency_key="key")] * 6)
    assert len({job.pk for job in made}) == 1
    assert (Job.objects.count(), OutboxMessage.objects.count()) == (1, 1)


def test_a_retry_asked_for_by_four_people_at_once_makes_one_job() -> None:
    job = jobs.job_create(kind="encode_images", payload={})
    Job.objects.filter(pk=job.pk).update(state=JobState.FAILED)
    retries = at_once(*[lambda: jobs.job_retry(job)] * 4)
    assert len({retry.pk for retry in retries}) == 1
    assert Job.objects.count() == 2


def test_a_job_that_was_joined_starts_only_when_it_can_see_what_joined_it() -> None:
    """Without the lock the worker would look for new photos, find none, and the photo would stay pending."""
    job = jobs.job_create(kind="encode_images", payload={}, coalesce=True)
    joined = threading.Event()

    def add_a_photo() -> None:
        with transaction.atomic():
            assert jobs.job_create(kind="encode_images", payload={}, coalesce=True).pk == job.pk
            joined.set()
            time.sleep(0.5)
            Category.objects.create(name="new", slug="new", path="new")

    def claim() -> bool:
        joined.wait(10)
        assert leases.lease_claim(job.pk, owner="w") is not None
        return Category.objects.filter(name="new").exists()

    assert at_once(add_a_photo, claim) == [None, True]
