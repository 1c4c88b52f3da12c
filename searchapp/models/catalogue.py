"""What the shop or museum has: categories, tags, items and their photos."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Case, Exists, OuterRef, Q, Value, When

PATH_SEPARATOR = " > "


class Vertical(models.TextChoices):
    PRODUCT = "product", "Product"
    LANDMARK = "landmark", "Landmark"


class SearchState(models.TextChoices):
    SEARCHABLE = "searchable", "Searchable"
    PENDING = "pending", "Pending"
    FAILED = "failed", "Failed"


class CategoryQuerySet(models.QuerySet["Category"]):
    def subtree(self, category: Category) -> CategoryQuerySet:
        """The category itself and everything beneath it."""
        return self.filter(Q(pk=category.pk) | Q(path__startswith=category.path + PATH_SEPARATOR))


class Category(models.Model):
    """A node of the category tree. `path` repeats the names from the root down, so a subtree is one prefix."""

    name = models.CharField(max_length=120)
    slug = models.SlugField(max_length=200, unique=True)
    parent = models.ForeignKey("self", models.PROTECT, null=True, blank=True, related_name="children")
    path = models.CharField(max_length=500, unique=True, editable=False)
    vertical = models.CharField(max_length=10, choices=Vertical, default=Vertical.PRODUCT)
    # Set for a category that came to a gallery already in use: it waits to be learned by an increment. One without
    # is known since the gallery was stocked.
    learn_asked_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = CategoryQuerySet.as_manager()

    class Meta:
        ordering = ["path"]
        verbose_name_plural = "categories"
        constraints = [
            models.CheckConstraint(
                condition=~Q(name__contains=">") & ~Q(name=""), name="category_name_is_one_step"
            ),
        ]

    def __str__(self) -> str:
        return self.path


class Tag(models.Model):
    name = models.CharField(max_length=80, unique=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class ItemQuerySet(models.QuerySet["Item"]):
    def with_state(self) -> ItemQuerySet:
        """Annotate `state`: failed if any photo failed, else pending if the version in use cannot find one of them,
        else searchable."""
        photos = ItemImage.objects.filter(item=OuterRef("pk"))
        return self.annotate(
            state=Case(
                When(Exists(photos.exclude(failure="")), then=Value(SearchState.FAILED.value)),
                When(
                    Exists(photos.filter(~Exists(_entries_of_image()))), then=Value(SearchState.PENDING.value)
                ),
                When(Exists(photos), then=Value(SearchState.SEARCHABLE.value)),
                default=Value(SearchState.PENDING.value),
                output_field=models.CharField(),
            )
        )


class Item(models.Model):
    """One product or place, found by any of its photos."""

    sku = models.CharField("SKU", max_length=120, unique=True)
    title = models.CharField(max_length=300, blank=True)
    description = models.TextField(blank=True)
    category = models.ForeignKey(Category, models.PROTECT, related_name="items")
    tags = models.ManyToManyField(Tag, blank=True, related_name="items")
    price = models.DecimalField(
        max_digits=12, decimal_places=2, null=True, blank=True, validators=[MinValueValidator(Decimal(0))]
    )
    currency = models.CharField(max_length=3, blank=True)
    url = models.URLField(max_length=500, blank=True)
    address = models.CharField(max_length=300, blank=True)
    latitude = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(-90.0), MaxValueValidator(90.0)]
    )
    longitude = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(-180.0), MaxValueValidator(180.0)]
    )
    # Title, description, category path and tags in one column: what the database's text search reads.
    search_text = models.TextField(blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ItemQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "sku"]
        constraints = [
            models.CheckConstraint(condition=~Q(sku=""), name="item_has_a_sku"),
            models.CheckConstraint(
                condition=Q(price__isnull=True) | Q(price__gte=0), name="item_price_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return self.title or self.sku


class ItemImageQuerySet(models.QuerySet["ItemImage"]):
    def missing_entry(self, lineage: UUID | None = None) -> ItemImageQuerySet:
        """Photos with no entry that the version in use (or `lineage`) can be compared with, and not marked failed."""
        return self.filter(~Exists(_entries_of_image(lineage)), failure="")

    def with_state(self) -> ItemImageQuerySet:
        return self.annotate(
            state=Case(
                When(~Q(failure=""), then=Value(SearchState.FAILED.value)),
                When(Exists(_entries_of_image()), then=Value(SearchState.SEARCHABLE.value)),
                default=Value(SearchState.PENDING.value),
                output_field=models.CharField(),
            )
        )


def stored_path(sha256: str, extension: str) -> str:
    """Where a stored picture lies under MEDIA_ROOT: its own SHA-256 is its name."""
    return f"images/{sha256[:2]}/{sha256}.{extension}"


def thumbnail_path(sha256: str) -> str:
    return f"thumbs/{sha256[:2]}/{sha256}.jpg"


class ItemImage(models.Model):
    """A photo of an item, cleaned by intake and stored under the SHA-256 of the stored file."""

    item = models.ForeignKey(Item, models.CASCADE, related_name="images")
    image_sha256 = models.CharField(max_length=64, db_index=True, editable=False)
    upload_sha256 = models.CharField(max_length=64, db_index=True, editable=False)
    extension = models.CharField(max_length=4, editable=False)
    width = models.PositiveIntegerField(editable=False)
    height = models.PositiveIntegerField(editable=False)
    size_bytes = models.PositiveIntegerField(editable=False)
    colour = models.CharField(
        max_length=7, editable=False, help_text="mean colour, shown while the photo loads"
    )
    position = models.PositiveIntegerField(default=0)
    alt = models.CharField("description for people who cannot see it", max_length=300, blank=True)
    failure = models.CharField(max_length=500, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ItemImageQuerySet.as_manager()

    class Meta:
        ordering = ["item_id", "position", "id"]
        constraints = [
            models.UniqueConstraint(fields=["item", "upload_sha256"], name="one_photo_once_per_item"),
        ]

    def __str__(self) -> str:
        return f"photo {self.pk} of {self.item_id}"

    @property
    def path(self) -> str:
        return stored_path(self.image_sha256, self.extension)

    @property
    def thumbnail(self) -> str:
        return thumbnail_path(self.image_sha256)


def _entries_of_image(lineage: UUID | None = None) -> models.QuerySet[models.Model]:
    """Entries of a photo in one lineage, by default that of the version in use: others cannot find it."""
    from searchapp.models.gallery import GalleryEntry  # noqa: PLC0415  the two rooms refer to each other
    from searchapp.models.model_version import Deployment, ModelVersion  # noqa: PLC0415

    live = Deployment.objects.filter(arm=Deployment.Arm.CHAMPION, ended_at__isnull=True)
    versions = ModelVersion.objects.order_by()
    producers = (
        versions.filter(lineage=lineage)
        if lineage
        else versions.filter(lineage__in=live.values("version__lineage"))
    )
    return GalleryEntry.objects.filter(image=OuterRef("pk"), producer__in=producers.values("pk"))
