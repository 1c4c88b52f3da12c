"""What was asked and what people said of the answers. Rows are flushed in batches, never in the request's path."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Query(models.Model):
    id = models.UUIDField(primary_key=True)
    kind = models.CharField(max_length=10)  # image, text, item, vector
    text = models.CharField(max_length=300, blank=True)
    filters = models.JSONField(default=dict)
    version = models.CharField(max_length=20)
    arm = models.CharField(max_length=9)
    deployment_id = models.BigIntegerField(null=True, db_index=True)
    visitor_hash = models.CharField(
        max_length=16, blank=True, default="", help_text="who asked, as one trial alone tells visitors apart"
    )
    is_failed = models.BooleanField(default=False, help_text="the arm could not answer")
    shadow = models.JSONField(null=True, blank=True, help_text="what the candidate in the shadow answered")
    result_skus = models.JSONField(default=list)
    strong_count = models.PositiveIntegerField(default=0)
    took_ms = models.JSONField(default=dict)
    asked_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name_plural = "queries"

    def __str__(self) -> str:
        return f"{self.kind} query {self.id}"


class Click(models.Model):
    """Somebody opened a result. No foreign key, as for feedback."""

    query_id = models.UUIDField(db_index=True)
    sku = models.CharField(max_length=120)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["query_id", "sku"], name="one_click_per_query_and_item")
        ]

    def __str__(self) -> str:
        return f"{self.sku} opened"


class QuerySum(models.Model):
    """What the photos asked in one hour came to together, by version. No single photo's embedding is kept anywhere."""

    version = models.CharField(max_length=20)
    hour = models.DateTimeField()
    count = models.PositiveIntegerField()
    total = models.JSONField(help_text="the sum of their embeddings")
    best = models.FloatField(help_text="the sum of their best scores")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["version", "hour"], name="one_sum_per_version_and_hour")
        ]

    def __str__(self) -> str:
        return f"{self.count} photos asked of {self.version}"


class Feedback(models.Model):
    class Verdict(models.TextChoices):
        RIGHT = "right", "This is it"
        WRONG = "wrong", "Not this"

    # No foreign key: feedback may arrive before the batch that holds its query is flushed.
    query_id = models.UUIDField(db_index=True)
    sku = models.CharField(max_length=120)
    verdict = models.CharField(max_length=5, choices=Verdict)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    image_sha256 = models.CharField(
        max_length=64, blank=True, help_text="kept only with the shopper's consent"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "feedback"
        constraints = [
            models.UniqueConstraint(fields=["query_id", "sku"], name="one_verdict_per_query_and_item")
        ]

    def __str__(self) -> str:
        return f"{self.sku}: {self.verdict}"
