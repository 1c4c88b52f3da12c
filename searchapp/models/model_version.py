"""Model versions, what they serve, and how they were judged."""

from __future__ import annotations

from typing import Self

from django.conf import settings
from django.db import models
from django.db.models import Q


class ModelVersion(models.Model):
    """An immutable bundle `M.m`, known by its digest. Numbers are allotted at creation and never reused."""

    major = models.PositiveIntegerField()
    minor = models.PositiveIntegerField()
    digest = models.CharField(max_length=64, unique=True)
    parent = models.ForeignKey("self", models.PROTECT, null=True, blank=True, related_name="children")
    lineage = models.UUIDField(help_text="versions of one lineage may be compared; others are refused")
    method = models.CharField(max_length=40)
    architecture = models.CharField(max_length=40)
    code_bits = models.PositiveSmallIntegerField()
    dimension = models.PositiveSmallIntegerField()
    size_bytes = models.PositiveBigIntegerField()
    manifest = models.JSONField(default=dict)
    label_registry = models.JSONField(
        default=list, help_text="category slugs in the order learned, append-only"
    )
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["major", "minor"]
        constraints = [
            models.UniqueConstraint(fields=["major", "minor"], name="version_numbers_are_used_once"),
            models.CheckConstraint(
                condition=Q(code_bits__in=[64, 128, 256]), name="code_bits_is_64_128_or_256"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return f"{self.major}.{self.minor}"


class Deployment(models.Model):
    """One line of the deployment history: a version, its view, and the share or scope of queries it answers."""

    class Arm(models.TextChoices):
        CHAMPION = "champion", "Champion"
        CANDIDATE = "candidate", "Candidate"

    arm = models.CharField(max_length=9, choices=Arm, default=Arm.CHAMPION)
    version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="deployments")
    view = models.ForeignKey("searchapp.GalleryView", models.PROTECT, related_name="deployments")
    share = models.PositiveSmallIntegerField(default=100)
    scope = models.JSONField(default=dict, blank=True)
    is_shadow = models.BooleanField(default=False, help_text="answers beside the champion, and is not shown")
    stop_rule = models.JSONField(default=dict, blank=True, help_text="when a canary ends by itself")
    previous = models.ForeignKey("self", models.PROTECT, null=True, blank=True, related_name="+")
    reason = models.CharField(max_length=500, blank=True)
    change_note = models.TextField(max_length=2000, blank=True, help_text="what users are told of the change")
    measured = models.JSONField(
        default=dict, blank=True, help_text="the cell that was promised when it began"
    )
    end_reason = models.CharField(max_length=500, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(share__gte=0, share__lte=100), name="share_is_a_percentage"),
            models.UniqueConstraint(
                fields=["arm"], condition=Q(ended_at__isnull=True), name="one_live_deployment_per_arm"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.arm} {self.version}"


class Evaluation(models.Model):
    """One cell of the compatibility matrix, as measured."""

    version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="evaluations")
    gallery_state = models.CharField(max_length=40)
    metrics = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.version} on {self.gallery_state}"


class EvaluationSet(models.Model):
    """Held-out queries that an operator brought, or made of shoppers' feedback. Unused ones are kept and not asked."""

    class Origin(models.TextChoices):
        UPLOAD = "upload", "Uploaded"
        FEEDBACK = "feedback", "Shoppers' feedback"

    name = models.CharField(max_length=60, unique=True)
    origin = models.CharField(max_length=8, choices=Origin)
    is_used = models.BooleanField(default=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class EvaluationQueryQuerySet(models.QuerySet["EvaluationQuery"]):
    def public(self) -> Self:
        """Photos that came with the catalogue: anybody may see them. Those of evaluation sets are the operators'."""
        return self.filter(evaluation_set=None)


class EvaluationQuery(models.Model):
    """A held-out labelled photo: never an entry, never trained on. Its file lies beside the catalogue's."""

    class Relevance(models.TextChoices):
        ITEM = "item", "Same item"
        CATEGORY = "category", "Same leaf category"

    source = models.CharField(
        max_length=200, unique=True, help_text="<pack>:<path>, so an import can be repeated"
    )
    split = models.CharField(max_length=20)
    evaluation_set = models.ForeignKey(
        EvaluationSet, models.CASCADE, null=True, blank=True, related_name="queries"
    )
    image_sha256 = models.CharField(max_length=64)
    upload_sha256 = models.CharField(max_length=64)
    extension = models.CharField(max_length=4)
    relevance = models.CharField(max_length=8, choices=Relevance)
    item = models.ForeignKey(
        "searchapp.Item", models.CASCADE, null=True, blank=True, related_name="evaluation_queries"
    )
    category = models.ForeignKey("searchapp.Category", models.CASCADE, related_name="evaluation_queries")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = EvaluationQueryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "evaluation queries"

    def __str__(self) -> str:
        return self.source
