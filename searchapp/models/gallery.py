"""The rows that are the truth about what can be found: entries, the change counter, views.

A FAISS index is a cache of these rows. Database triggers (migration 0002) refuse every UPDATE of an entry and every
DELETE whose photo still exists.
"""

from __future__ import annotations

from django.db import models

from searchapp.models.catalogue import ItemImage
from searchapp.models.model_version import ModelVersion


class Provenance(models.TextChoices):
    ENCODED = "encoded", "Encoded by the network"
    SOLVED = "solved", "Solved with the category's labels"


class GalleryEntry(models.Model):
    """One row per (image, producing version): packed code and float16 embedding. Append-only."""

    # DO_NOTHING: the database itself deletes entries after their photo (trigger), never the other way round.
    image = models.ForeignKey(ItemImage, models.DO_NOTHING, related_name="entries")
    image_sha256 = models.CharField(max_length=64)
    producer = models.ForeignKey(ModelVersion, models.PROTECT, related_name="entries")
    provenance = models.CharField(max_length=8, choices=Provenance, default=Provenance.ENCODED)
    code = models.BinaryField()
    embedding = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "gallery entries"
        constraints = [
            models.UniqueConstraint(fields=["image", "producer"], name="one_entry_per_image_and_producer")
        ]

    def __str__(self) -> str:
        return f"entry {self.pk}: photo {self.image_id} by version {self.producer_id}"


class GalleryCounter(models.Model):
    """One row. Incremented last in every gallery transaction, so numbers become visible in the order they commit."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    value = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="one_gallery_counter")]

    def __str__(self) -> str:
        return str(self.value)


class ChangeKind(models.TextChoices):
    ENTRY_ADDED = "entry_added"
    ENTRY_REMOVED = "entry_removed"
    ITEM_CHANGED = "item_changed"
    ITEM_REMOVED = "item_removed"


class GalleryChange(models.Model):
    """What followers read: every add, tombstone and metadata change, numbered by the counter."""

    sequence = models.BigIntegerField()
    kind = models.CharField(max_length=13, choices=ChangeKind)
    subject_id = models.BigIntegerField(help_text="entry id for entry_*, item id for item_*")

    class Meta:
        ordering = ["sequence", "id"]
        indexes = [models.Index(fields=["sequence"], name="gallery_change_sequence")]

    def __str__(self) -> str:
        return f"{self.sequence}: {self.kind} {self.subject_id}"


class GalleryView(models.Model):
    """How a version sees the gallery: which row per photo, and through which corrector, if any."""

    version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="views")
    corrector_digest = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["version", "corrector_digest"], name="one_view_per_version_and_corrector"
            )
        ]

    def __str__(self) -> str:
        return f"view of {self.version}" + (" (corrected)" if self.corrector_digest else "")
