"""The sweeper: publishes again what the broker lost, and ends what nobody will claim."""

import logging
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from searchapp.enqueue import enqueue
from searchapp.models import FINISHED_STATES, Job, JobState, OutboxMessage
from searchapp.services.database_clock import database_now
from searchapp.services.leases import expired, leases_settle

RESEND_MOST_SECONDS = 30.0  # the pause between two hints at one job doubles up to this
RESEND_BATCH = 500

logger = logging.getLogger(__name__)


def sweep_once() -> int:
    """One pass over the jobs: end the abandoned, hint again at the due. Returns how many were hinted at."""
    settled = leases_settle()
    if settled:
        logger.warning("%d abandoned jobs were ended", settled)
    resent = jobs_resend()
    if resent:
        logger.info("%d jobs were published again", resent)
    return resent


@transaction.atomic
def jobs_resend() -> int:
    """Write a new message for each due job whose last one seems lost: none waits, the last one left long ago.

    A job that only waits its turn looks the same, so the pause doubles with every message; a superfluous one
    costs a worker one UPDATE that matches nothing.
    """
    due = Job.objects.filter(
        Q(state=JobState.QUEUED) | expired(), ~Exists(_unpublished()), cancel_requested=False
    )
    now = database_now()
    oldest_first = due.order_by("created_at").prefetch_related("outbox")[:RESEND_BATCH]
    lost = [job for job in oldest_first if _is_message_lost(job, now)]
    for job in lost:
        enqueue(job)
    return len(lost)


@transaction.atomic
def jobs_resend_all() -> int:
    """For a broker that was emptied or replaced: publish a message for every unfinished job."""
    unfinished = Job.objects.exclude(state__in=FINISHED_STATES).filter(~Exists(_unpublished()))
    jobs = list(unfinished.order_by("created_at"))
    for job in jobs:
        enqueue(job)
    return len(jobs)


def _unpublished() -> QuerySet[OutboxMessage]:
    return OutboxMessage.objects.filter(job=OuterRef("pk"), published_at__isnull=True)


def _is_message_lost(job: Job, now: datetime) -> bool:
    due_since = job.lease_until or job.created_at
    sent = [message.published_at for message in job.outbox.all() if message.published_at is not None]
    since_due = [at for at in sent if at >= due_since]
    if not since_due:  # a lease that ran out: nobody has been told yet
        return job.state == JobState.RUNNING or (now - due_since).total_seconds() > settings.SWEEP_SECONDS
    pause = min(settings.SWEEP_SECONDS * 2.0 ** (len(since_due) - 1), RESEND_MOST_SECONDS)
    return (now - max(since_due)).total_seconds() > pause
