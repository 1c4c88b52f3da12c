"""Photos of two items that look like one: found when the newer came in, decided by staff."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from searchapp.models.catalogue import ItemImage
from searchapp.models.job import Job


class DuplicatePair(models.Model):
    """It goes when either photo goes: then there is nothing to decide. What was decided stays in the audit log too."""

    class Decision(models.TextChoices):
        OPEN = "", "Not decided yet"
        KEEP = "keep", "Both are kept"

    new_image = models.ForeignKey(ItemImage, models.CASCADE, related_name="newer_of_pairs")
    old_image = models.ForeignKey(ItemImage, models.CASCADE, related_name="older_of_pairs")
    same_content = models.BooleanField()
    # What was measured when the pair was found; none of it for the same content.
    bits = models.PositiveSmallIntegerField(null=True, help_text="bits in which the two codes differ")
    cosine = models.FloatField(null=True, help_text="of the two embeddings")
    likeness = models.FloatField(
        null=True, help_text="correlation of the two pictures, the better of a few cuts"
    )
    job = models.ForeignKey(Job, models.SET_NULL, null=True, blank=True, related_name="duplicate_pairs")
    found_at = models.DateTimeField(auto_now_add=True)
    decision = models.CharField(max_length=4, choices=Decision, default=Decision.OPEN, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["new_image", "old_image"], name="one_pair_per_two_photos"),
        ]
        indexes = [
            models.Index(fields=["id"], condition=models.Q(decision=""), name="duplicates_not_decided"),
        ]

    def __str__(self) -> str:
        return f"photo {self.new_image_id} like photo {self.old_image_id}"
