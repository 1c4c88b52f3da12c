"""Background jobs: create, run, cancel, retry, follow. The Job row is the work, a message is only a hint."""

import errno
import json
import logging
import os
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import IntegrityError, InterfaceError, OperationalError, connection, transaction
from django.db.models import Case, F, Value, When
from django.db.models.functions import Greatest
from django.utils.module_loading import import_string

from searchapp.enqueue import enqueue
from searchapp.exceptions import Conflict, InvalidInput, JobCancelled, LeaseLost, NoSpace, Unavailable
from searchapp.failpoints import failpoint
from searchapp.job_kinds import JOB_KINDS
from searchapp.models import FINISHED_STATES, Job, JobState
from searchapp.services.database_clock import DatabaseNow, database_now
from searchapp.services.leases import (
    JobRun,
    Progress,
    WorkerStopping,
    heartbeat,
    lease_claim,
    leases_settle,
    owner_name,
    stop_running,
)

__all__ = [
    "JobRun",
    "eta_seconds",
    "job_cancel",
    "job_create",
    "job_retry",
    "job_run",
    "job_run_here",
    "owner_name",
    "stop_running",
]

Handler = Callable[[JobRun], dict[str, Any] | None]
ERROR_LENGTH = 500
FULL_DATABASE = ("database or disk is full", "No space left on device")  # as SQLite, PostgreSQL put it
FOLLOW_SECONDS = 0.5

logger = logging.getLogger(__name__)


@transaction.atomic
def job_create(
    *,
    kind: str,
    payload: dict[str, Any],
    user: AbstractBaseUser | None = None,
    subject: str = "",
    idempotency_key: str = "",
    total: int = 0,
    coalesce: bool = False,
) -> Job:
    """Make a job and its message, in the caller's transaction if there is one.

    The same idempotency key gives the existing job. `coalesce` gives a job of the same kind and payload that
    still waits: it is locked until the caller commits, so it starts only when it can see the caller's rows.
    One with a checkpoint does not count: it goes on behind that, and may have passed the caller's rows already.
    """
    if kind not in JOB_KINDS:
        raise InvalidInput(f"job kind is {kind!r}, allowed: {', '.join(sorted(JOB_KINDS))}")
    existing = _existing(kind, idempotency_key)
    if existing is None and coalesce:
        waiting = Job.objects.filter(kind=kind, payload=payload, state=JobState.QUEUED, checkpoint={})
        existing = waiting.select_for_update().order_by("created_at").first()
    if existing is not None:
        return existing
    job = Job(
        kind=kind,
        queue=JOB_KINDS[kind].queue,
        payload=payload,
        created_by_id=None if user is None else user.pk,
        subject=subject[:300],
        idempotency_key=idempotency_key,
        total_count=total,
        max_attempts=settings.JOB_MAX_ATTEMPTS,
    )
    try:
        with transaction.atomic():
            job.save(force_insert=True)
    except IntegrityError:  # somebody else used the key a moment ago
        existing = _existing(kind, idempotency_key)
        if existing is None:
            raise
        return existing
    enqueue(job)
    return job


def _existing(kind: str, idempotency_key: str) -> Job | None:
    job = Job.objects.filter(idempotency_key=idempotency_key).first() if idempotency_key else None
    if job is not None and job.kind != kind:
        raise Conflict(f"idempotency key {idempotency_key!r} belongs to a job of kind {job.kind}, not {kind}")
    return job


def job_run(job_id: UUID | str, owner: str, *, on_progress: Progress | None = None) -> bool:
    """Claim the job, run its handler, record how it ended. False when there was nothing to claim.

    Safe to call any number of times: a finished, cancelled, vanished or taken job is left alone.
    """
    job = lease_claim(job_id, owner=owner)
    if job is None:
        return False
    failpoint("job.after_claim")
    run = JobRun(job, on_progress=on_progress)
    with heartbeat(run):
        _execute(run)
    return True


def _execute(run: JobRun) -> None:
    """Run the handler; whatever it raises becomes the job's outcome, for nobody is above to be told."""
    try:
        handler: Handler = import_string(JOB_KINDS[run.job.kind].handler)
        result = _json_safe(handler(run))
        failpoint("job.before_finish")
        _finish(run, JobState.DONE, result=result, done_count=Greatest("done_count", "total_count"))
    except JobCancelled:
        _finish(run, JobState.CANCELLED)
    except LeaseLost:
        logger.warning("job %s has another owner now; this attempt wrote nothing more", run.job.pk)
    except WorkerStopping:
        _release(run, attempts=F("attempts") - 1)
    except (KeyboardInterrupt, SystemExit):
        _release(run, attempts=F("attempts") - 1)
        raise
    except Exception as error:  # noqa: BLE001
        _fail(run, error)


def _fail(run: JobRun, error: Exception) -> None:
    """A passing trouble goes back to the queue while attempts remain; all else fails, with the reason."""
    logger.error("job %s (%s) failed: %s", run.job.pk, run.job.kind, error, exc_info=error)
    is_full = _is_out_of_space(error)
    is_passing = isinstance(error, OperationalError | InterfaceError | Unavailable) and not is_full
    if is_passing and run.job.attempts < run.job.max_attempts:
        _release(run)
        return
    reason = "no space: free some on the disk, then retry" if is_full else str(error) or "no reason given"
    _finish(run, JobState.FAILED, error=f"{reason[:ERROR_LENGTH]} ({type(error).__name__})")


def _is_out_of_space(error: Exception) -> bool:
    is_os_error = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    is_database = isinstance(error, OperationalError) and any(text in str(error) for text in FULL_DATABASE)
    # Libraries that write files by themselves have errors of their own, which hold the system's words.
    return isinstance(error, NoSpace) or is_os_error or is_database or os.strerror(errno.ENOSPC) in str(error)


def _finish(run: JobRun, state: JobState, **fields: Any) -> None:
    """Write the outcome under the fencing number: a job that has another owner is left to that one."""
    ended: dict[str, Any] = {"finished_at": DatabaseNow(), "lease_owner": "", "lease_until": None}
    with transaction.atomic():
        if not run.held().update(state=state, **ended, **fields):
            logger.warning("job %s was %s here, but has another owner now", run.job.pk, state)
        elif run.job.queue == Job.Queue.TRAINING:
            _wake_next_training()


def _wake_next_training() -> None:
    """The training slot is free: hint at the job that has waited longest, sooner than the sweeper would."""
    waiting = Job.objects.filter(queue=Job.Queue.TRAINING, state=JobState.QUEUED)
    longest = waiting.order_by("created_at").first()
    if longest is not None:
        enqueue(longest)


def _release(run: JobRun, **fields: Any) -> None:
    """Give the job back to the queue, due at once. One that was to be cancelled is."""
    if not connection.in_atomic_block:
        connection.close_if_unusable_or_obsolete()  # after a database restart the next query connects anew
    if run.held().filter(cancel_requested=True).exists():
        _finish(run, JobState.CANCELLED)
        return
    with transaction.atomic():
        if run.held().update(state=JobState.QUEUED, lease_owner="", lease_until=DatabaseNow(), **fields):
            enqueue(run.job)


def job_cancel(job: Job, user: AbstractBaseUser | None = None) -> Job:
    """A waiting job ends at once, a running one at its next `progress()`. Twice is the same as once."""
    Job.objects.filter(pk=job.pk, state__in=[JobState.QUEUED, JobState.RUNNING]).update(
        cancel_requested=True,
        finished_at=Case(When(state=JobState.QUEUED, then=DatabaseNow()), default=None),
        state=Case(When(state=JobState.QUEUED, then=Value(JobState.CANCELLED)), default=F("state")),
    )
    job.refresh_from_db()
    if job.state in {JobState.DONE, JobState.FAILED}:
        raise Conflict(f"job {job.pk} is {job.state}; only a waiting or running one can be cancelled")
    logger.info("job %s: cancel asked for by %s", job.pk, user or "nobody named")
    return job


@transaction.atomic
def job_retry(job: Job, user: AbstractBaseUser | None = None) -> Job:
    """A new job that goes on from the checkpoint of a failed or cancelled one. Asked twice, it is one job."""
    original = Job.objects.select_for_update().get(pk=job.pk)
    if original.state not in {JobState.FAILED, JobState.CANCELLED}:
        raise Conflict(f"job {job.pk} is {original.state}; only a failed or cancelled one can be retried")
    pending = original.retries.exclude(state__in=[JobState.FAILED, JobState.CANCELLED]).first()
    if pending is not None:
        return pending
    again = Job.objects.create(
        kind=original.kind,
        queue=original.queue,
        subject=original.subject,
        payload=original.payload,
        checkpoint=original.checkpoint,
        total_count=original.total_count,
        done_count=original.done_count,
        max_attempts=settings.JOB_MAX_ATTEMPTS,
        retry_of=original,
        created_by_id=original.created_by_id if user is None else user.pk,
    )
    enqueue(again)
    return again


def job_run_here(job: Job, on_progress: Progress | None = None) -> Job:
    """For commands: run the job in this process, or follow it where a worker has it. Returns it finished."""
    while not job.is_finished:
        if not job_run(job.pk, owner_name(), on_progress=on_progress):
            leases_settle()
            time.sleep(FOLLOW_SECONDS)
        job.refresh_from_db()
        if on_progress is not None and not job.is_finished:
            on_progress(job.done_count, job.total_count, job.message)
    return job


def eta_seconds(job: Job, now: datetime | None = None) -> float | None:
    """Seconds left at the pace since the start; None when unknown. A given `now` spares a query per job."""
    if job.state in FINISHED_STATES or job.started_at is None or not job.done_count or not job.total_count:
        return None
    elapsed = ((now or database_now()) - job.started_at).total_seconds()
    return max(0.0, elapsed * (job.total_count - job.done_count) / job.done_count)


def _json_safe(result: dict[str, Any] | None) -> dict[str, Any]:
    """Dates, decimals and UUIDs become text. NaN is refused: PostgreSQL would refuse it and say less."""
    safe: dict[str, Any] = json.loads(json.dumps(result or {}, cls=DjangoJSONEncoder, allow_nan=False))
    return safe
