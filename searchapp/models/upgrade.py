"""What judging and serving a new version needs: verdicts, decisions on flips, calibrations of pairs, settings."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from searchapp.models.job import Job
from searchapp.models.model_version import ModelVersion


class PairCalibration(models.Model):
    """What similarities mean between queries of one version and entries of another, where no bundle says it.

    Measured here: a version knows the older ones it was trained beside, and none that came later.
    """

    query_version = models.ForeignKey(ModelVersion, models.CASCADE, related_name="calibrations")
    producer = models.ForeignKey(ModelVersion, models.CASCADE, related_name="+")
    corrector_digest = models.CharField(max_length=64, blank=True, help_text="of entries seen through it")
    values = models.JSONField(help_text="the fields of ml.protocol.Calibration")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["query_version", "producer", "corrector_digest"], name="one_calibration_per_pair"
            )
        ]

    def __str__(self) -> str:
        return f"{self.query_version} on entries of {self.producer}"


class Verdict(models.Model):
    """One judgement of a version beside another: what `manage.py evaluate` prints. The newest of a pair counts."""

    version = models.ForeignKey(ModelVersion, models.CASCADE, related_name="verdicts")
    against = models.ForeignKey(ModelVersion, models.CASCADE, related_name="+")
    held_out = models.CharField(max_length=100, help_text="fingerprint of the queries that were asked")
    report = models.JSONField()
    job = models.ForeignKey(Job, models.SET_NULL, null=True, blank=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["version", "against", "-id"], name="verdict_of_pair")]

    def __str__(self) -> str:
        return f"{self.version} against {self.against}"


class FlipDecision(models.Model):
    """What an operator says of one answer that turned wrong: it may, or it blocks the promotion."""

    class Decision(models.TextChoices):
        ACCEPT = "accept", "Accepted"
        BLOCK = "block", "Blocks"

    version = models.ForeignKey(ModelVersion, models.CASCADE, related_name="flip_decisions")
    against = models.ForeignKey(ModelVersion, models.CASCADE, related_name="+")
    image_sha256 = models.CharField(max_length=64, help_text="the held-out photo that asks")
    decision = models.CharField(max_length=6, choices=Decision)
    reason = models.CharField(max_length=500, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["version", "against", "image_sha256"], name="one_decision_per_flip"
            )
        ]

    def __str__(self) -> str:
        return f"{self.decision} {self.image_sha256[:8]}"


class OperatorSetting(models.Model):
    """One value that an operator chose, and why. Rows are only added; the newest of a name counts."""

    name = models.CharField(max_length=60, db_index=True)
    value = models.JSONField()
    reason = models.CharField(max_length=500, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.name} = {self.value}"
