"""The only way to start background work: an outbox row in the caller's transaction. Only the relay publishes."""

from django.db import connection

from searchapp.models import Job, OutboxMessage

TASK_NAME = "searchapp.run_job"


def enqueue(job: Job) -> None:
    """Write the outbox row for `job`. Must be called inside the transaction that made or changed the job."""
    if not connection.in_atomic_block:
        raise RuntimeError(
            "enqueue() was called outside a transaction; the job and its message must commit together"
        )
    OutboxMessage.objects.create(job=job, task_name=TASK_NAME, queue=job.queue)
