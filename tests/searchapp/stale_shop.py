"""A shop whose gallery is of 1.0, and a version 2.0 of its lineage that sees every photo turned by some degrees."""

from pathlib import Path

from searchapp.models import Deployment, EvaluationQuery, GalleryView, ItemImage, ModelVersion
from searchapp.services import versions
from tests.searchapp.trainings import small_shop
from tests.searchapp.turned import turned_version

CLASSES, PHOTOS = 12, 5


def stale_shop(packs: Path, *, degrees: float = 60.0, in_use: bool = True) -> ModelVersion:
    """Sixty photos of twelve items, encoded by 1.0, one of each item held out; 2.0 is put in use, or a candidate."""
    small_shop(packs, classes=CLASSES, count=PHOTOS)
    hold_out_one_of_each()
    version = turned_version(versions.champion().version, degrees=degrees)
    if in_use:
        put_in_use(version)
    return version


def put_in_use(version: ModelVersion) -> Deployment:
    live = versions.champion()
    live.ended_at = live.created_at
    live.save(update_fields=["ended_at"])
    view = GalleryView.objects.get(version=version, corrector_digest="")
    return Deployment.objects.create(version=version, view=view, previous=live)


def hold_out_one_of_each() -> None:
    """The first photo of each item asks; it stays in the gallery and leaves itself out of its answer."""
    photos = ItemImage.objects.filter(position=0).select_related("item")
    EvaluationQuery.objects.bulk_create(
        EvaluationQuery(
            source=f"test:{photo.pk}",
            split="test",
            image_sha256=photo.image_sha256,
            upload_sha256=photo.upload_sha256,
            extension=photo.extension,
            relevance=EvaluationQuery.Relevance.ITEM,
            item=photo.item,
            category=photo.item.category,
        )
        for photo in photos
    )
