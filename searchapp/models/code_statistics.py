"""What an increment needs to know of all stored codes, kept as integers beside the entries they were counted from.

Design 4.6: per category (its label set is itself and its ancestors) the number of codes and their sum, and the Gram
matrix of all. Which category an entry is counted under stands in a table of its own, changed in the transaction that
changes the statistics; counting the rows anew is the test's oracle.
"""

from __future__ import annotations

from django.db import models

from searchapp.models.catalogue import Category, ItemImage
from searchapp.models.gallery import GalleryEntry
from searchapp.models.model_version import ModelVersion


class PhotoFeature(models.Model):
    """What a frozen trunk made of one picture: little-endian float32 (F,), the same for every increment of its M.

    Known by content, so held-out queries have theirs too. A cache: each can be had again from the stored file.
    """

    image_sha256 = models.CharField(max_length=64)
    trunk = models.ForeignKey(
        ModelVersion, models.CASCADE, related_name="+", help_text="the M.0 it came with"
    )
    feature = models.BinaryField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["image_sha256", "trunk"], name="one_feature_per_picture_and_trunk"
            )
        ]

    def __str__(self) -> str:
        return f"{self.image_sha256[:8]} by the trunk of {self.trunk_id}"


class CountedEntry(models.Model):
    """An entry that is in the statistics of its lineage: the category it is counted under, and what its code was."""

    # DO_NOTHING: the database deletes an entry after its photo; this row goes with the photo, before both.
    entry = models.OneToOneField(GalleryEntry, models.DO_NOTHING, primary_key=True, related_name="counted")
    image = models.ForeignKey(ItemImage, models.CASCADE, related_name="+")
    lineage = models.UUIDField()
    category = models.ForeignKey(Category, models.PROTECT, related_name="+")
    # What the item was when its code was first counted: kept as labels move away from codes. Empty once that
    # category is gone.
    made_as = models.ForeignKey(Category, models.SET_NULL, null=True, blank=True, related_name="+")
    code_digest = models.BinaryField(help_text="BLAKE2b-64 of the packed code when it was counted")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["image", "lineage"], name="one_counted_entry_per_photo_and_lineage"
            )
        ]
        indexes = [models.Index(fields=["lineage", "category"], name="counted_by_category")]

    def __str__(self) -> str:
        return f"entry {self.entry_id} under category {self.category_id}"


class CodeTally(models.Model):
    """Of one category in one lineage: how many codes are counted, and their sum: little-endian int64 (L,)."""

    lineage = models.UUIDField()
    category = models.ForeignKey(Category, models.CASCADE, related_name="+")
    items = models.PositiveBigIntegerField()
    code_sum = models.BinaryField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["lineage", "category"], name="one_tally_per_lineage_and_category")
        ]

    def __str__(self) -> str:
        return f"{self.items} codes of category {self.category_id}"


class CodeGram(models.Model):
    """Of one lineage: the Gram matrix of all counted codes, little-endian int64 (L, L)."""

    lineage = models.UUIDField(primary_key=True)
    gram = models.BinaryField()

    def __str__(self) -> str:
        return f"Gram matrix of {self.lineage}"
