"""Who works on a job: claim by conditional UPDATE, renew, refuse the writes of one who lost the claim."""

import copy
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import CharField, F, Q, QuerySet, Value
from django.db.models.functions import Cast, Coalesce, Concat

from searchapp.exceptions import JobCancelled, LeaseLost, SearchAppError
from searchapp.models import Job, JobState
from searchapp.services.database_clock import DatabaseNow

Progress = Callable[[int, int, str], None]
PROGRESS_SECONDS = 0.25  # a handler may report every photo; the row is written this often
STALL_SECONDS = 900.0  # a handler that reports nothing for so long no longer has its lease renewed for it

logger = logging.getLogger(__name__)
_stopping = threading.Event()


class WorkerStopping(SearchAppError):
    """The process was asked to end; the job returns to the queue with its checkpoint, no attempt spent."""

    code = "worker_stopping"
    status = 503


def stop_running() -> None:
    """Ask whatever job runs in this process to give up its lease at its next `progress()`."""
    _stopping.set()


def owner_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def expired() -> Q:
    return Q(state=JobState.RUNNING, lease_until__lt=DatabaseNow())


def lease_claim(job_id: UUID | str, *, owner: str) -> Job | None:
    """Take a queued job, or a running one whose lease ran out; None when there is nothing to take.

    A second training job waits: the partial unique index refuses it, and it stays queued.
    """
    free = Job.objects.filter(Q(state=JobState.QUEUED) | expired(), pk=job_id, cancel_requested=False)
    try:
        with transaction.atomic():
            taken = free.filter(attempts__lt=F("max_attempts")).update(
                state=JobState.RUNNING,
                fence=F("fence") + 1,
                attempts=F("attempts") + 1,
                lease_owner=owner[:120],
                lease_until=DatabaseNow(settings.JOB_LEASE_SECONDS),
                started_at=Coalesce("started_at", DatabaseNow()),
            )
            return Job.objects.get(pk=job_id) if taken else None
    except IntegrityError:
        return None


def leases_settle() -> int:
    """End the jobs nobody will claim again: out of attempts, or cancelled while their worker was dead."""
    ended: dict[str, Any] = {"finished_at": DatabaseNow(), "lease_owner": "", "lease_until": None}
    cancelled = Job.objects.filter(Q(state=JobState.QUEUED) | expired(), cancel_requested=True)
    exhausted = Job.objects.filter(expired(), attempts__gte=F("max_attempts"))
    reason = Concat(
        Value("given up after "),
        Cast("attempts", CharField()),
        Value(" attempts: each time the worker died or fell silent (WorkerLost)"),
    )
    return cancelled.update(state=JobState.CANCELLED, **ended) + exhausted.update(
        state=JobState.FAILED, error=reason, **ended
    )


class JobRun:
    """What a handler holds while it works: the job, its payload and checkpoint, and the right to write.

    Every write is a conditional UPDATE on the fencing number of this claim and renews the lease.
    """

    def __init__(self, job: Job, *, on_progress: Progress | None = None) -> None:
        self.job = job
        self._on_progress = on_progress
        self._saved = json.dumps(job.checkpoint, sort_keys=True)
        self._last_written = 0.0
        self._last_heard = time.monotonic()
        self._is_lost = False

    @property
    def payload(self) -> dict[str, Any]:
        return copy.deepcopy(self.job.payload)

    @property
    def checkpoint(self) -> dict[str, Any]:
        """What the last `save` left, by this attempt or one before. Empty on a first start."""
        return copy.deepcopy(self.job.checkpoint)

    def progress(self, done: int, total: int, message: str = "") -> None:
        """Report and renew the lease. Raises JobCancelled, LeaseLost or WorkerStopping: let them through."""
        self._last_heard = time.monotonic()
        if _stopping.is_set():
            raise WorkerStopping("the worker is shutting down; the job continues when one is back")
        if self._is_lost:
            raise self._lost()
        if self._on_progress is not None:
            self._on_progress(done, total, message)
        if done < total and self._last_heard - self._last_written < PROGRESS_SECONDS:
            return
        held = self.held().filter(cancel_requested=False)
        written = held.update(
            done_count=done, total_count=total, message=message[:500], lease_until=_next_lease()
        )
        if not written:
            raise JobCancelled("the job was cancelled") if self.held().exists() else self._lost()
        self._last_written = self._last_heard

    def guard(self) -> None:
        """Call inside the transaction whose writes must not happen if another worker owns the job by now."""
        if not connection.in_atomic_block:
            raise RuntimeError("guard() protects the transaction around it, and there is none")
        self._write()

    def save(self, checkpoint: dict[str, Any], *, is_step: bool | None = None) -> None:
        """Keep `checkpoint` in the same transaction as the work it stands for; LeaseLost rolls both back.

        A step forward makes the attempts count anew: the cap is for a job that kills its workers at one and
        the same place, not for a long one on an unsteady machine. Any change is a step, unless `is_step` says
        otherwise: a job that begins anew after a kill writes what was written before.
        """
        kept = json.dumps(checkpoint, sort_keys=True)
        is_step = kept != self._saved if is_step is None else is_step
        self._write(checkpoint=checkpoint, **({"attempts": 1} if is_step else {}))
        self._saved = kept
        self.job.checkpoint = copy.deepcopy(checkpoint)
        self.job.attempts = 1 if is_step else self.job.attempts

    def held(self) -> QuerySet[Job]:
        """The job's row, as long as this claim is the valid one."""
        return Job.objects.filter(pk=self.job.pk, fence=self.job.fence, state=JobState.RUNNING)

    def renew(self) -> bool:
        """Renew the lease without a word from the handler, unless it has been silent for too long."""
        if time.monotonic() - self._last_heard > STALL_SECONDS:
            return False
        if not self.held().update(lease_until=_next_lease()):
            self._is_lost = True
        return not self._is_lost

    def _write(self, **fields: Any) -> None:
        self._last_heard = time.monotonic()
        if not self.held().update(lease_until=_next_lease(), **fields):
            raise self._lost()

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"job {self.job.pk} no longer belongs to claim {self.job.fence}; nothing was written"
        )


def _next_lease() -> DatabaseNow:
    return DatabaseNow(settings.JOB_LEASE_SECONDS)


@contextmanager
def heartbeat(run: JobRun) -> Iterator[None]:
    """Renew the lease from a thread of its own, for handlers that sit in native code for minutes."""
    finished = threading.Event()
    thread = threading.Thread(target=_beat, args=(run, finished), name="job-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join(timeout=5)


def _beat(run: JobRun, finished: threading.Event) -> None:
    while not finished.wait(settings.JOB_LEASE_SECONDS / 3):
        try:
            if not run.renew():
                return
        except DatabaseError:
            logger.warning("the lease of job %s could not be renewed, will try again", run.job.pk)
        finally:
            connection.close()
