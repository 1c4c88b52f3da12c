"""The work to be done. A Job row is the work itself; a broker message only says that it is worth a look."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q


class JobState(models.TextChoices):
    QUEUED = "queued", "Waiting"
    RUNNING = "running", "Running"
    DONE = "done", "Done"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


FINISHED_STATES = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class Job(models.Model):
    """Claimed by a conditional UPDATE; `fence` rises with every claim, and every later write must still hold it."""

    class Queue(models.TextChoices):
        DEFAULT = "default", "Default"
        TRAINING = "training", "Training"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=40)
    queue = models.CharField(max_length=10, choices=Queue, default=Queue.DEFAULT)
    subject = models.CharField(max_length=300, blank=True, help_text="what it is about, in words")
    payload = models.JSONField(default=dict)
    idempotency_key = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=9, choices=JobState, default=JobState.QUEUED)
    attempts = models.PositiveIntegerField(default=0)
    max_attempts = models.PositiveIntegerField(default=3)
    fence = models.PositiveIntegerField(default=0)
    lease_owner = models.CharField(max_length=120, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    cancel_requested = models.BooleanField(default=False)
    done_count = models.PositiveBigIntegerField(default=0)
    total_count = models.PositiveBigIntegerField(default=0)
    message = models.CharField(max_length=500, blank=True)
    checkpoint = models.JSONField(default=dict, blank=True)
    result = models.JSONField(null=True, blank=True)
    error = models.TextField(blank=True)
    retry_of = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="retries")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["state", "lease_until"], name="job_state_lease")]
        constraints = [
            models.UniqueConstraint(
                fields=["idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="one_job_per_idempotency_key",
            ),
            models.UniqueConstraint(
                fields=["queue"],
                condition=Q(queue="training", state="running"),
                name="one_training_runs_at_a_time",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED_STATES

    @property
    def progress(self) -> float:
        """Share done, 0 to 1."""
        if self.state == JobState.DONE:
            return 1.0
        return min(1.0, self.done_count / self.total_count) if self.total_count else 0.0


class OutboxMessage(models.Model):
    """Written in the transaction that made the job; only the relay publishes it, at least once."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="outbox")
    task_name = models.CharField(max_length=120)
    queue = models.CharField(max_length=10)
    created_at = models.DateTimeField(auto_now_add=True)
    published_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["id"], condition=Q(published_at__isnull=True), name="outbox_unpublished"),
        ]

    def __str__(self) -> str:
        return f"{self.task_name} {self.job_id}"
