"""A new category in a small shop, and the rows that learning it leaves behind, without the learning."""

from typing import Any

from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from searchapp.models import Category, Deployment, GalleryEntry, Job, JobState, ModelVersion
from searchapp.services import versions
from searchapp.services.category_adding import NamedPhoto, PhotoBatch, category_add
from searchapp.services.gallery import gallery_transaction
from tests.searchapp.galleries import encode_missing, shop

CATEGORIES = "/admin/searchapp/category/"
GATES = [
    {"name": "old_codes_changed", "threshold": 0.0, "value": None, "low": None, "high": None, "verdict": "pass",
     "items": 6, "note": "6 old codes checked, 0 changed", "seen_from": None},
    {"name": "old_query_map_loss", "threshold": 0.01, "value": 0.05, "low": 0.02, "high": 0.08, "verdict": "fail",
     "items": 40, "note": "old queries lose 0.0500; a loss of more than 0.0400 would have been seen",
     "seen_from": 0.04},
]  # fmt: skip
RESULT = {
    "version": "1.1", "parent": "1.0", "categories": ["papaya", "plum"], "seconds": 12.7,
    "training_seconds": 11.6, "old_codes_checked": 4752, "old_codes_changed": 0, "old_digest_before": "a91f" * 16,
    "old_digest_after": "a91f" * 16, "old_query_map_before": 0.612, "old_query_map_after": 0.611,
    "new_query_map_before": 0.31, "new_query_map_after": 0.78, "gates": GATES[:1],
}  # fmt: skip


def papaya_added(photos: list[bytes], user: User) -> Category:
    """A new category of three photos in a shop of six; its jobs wait."""
    shop(photos)
    Job.objects.all().delete()
    batch = PhotoBatch(photos=[NamedPhoto("p.jpg", data) for data in photos[6:9]])
    return category_add(name="Papaya", batch=batch, user=user)


def upload(data: bytes, name: str = "photo.jpg") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, data, content_type="image/jpeg")


def page_of(category: Category) -> str:
    return f"{CATEGORIES}{category.pk}/progress/"


def learning_job() -> Job:
    return Job.objects.get(kind="learn_categories")


def job_change(**fields: Any) -> Job:
    Job.objects.filter(pk=learning_job().pk).update(**fields)
    return learning_job()


def learned(category: Category) -> ModelVersion:
    """What the end of a learning job leaves behind: version 1.1 in use, an entry by it for every photo, the result."""
    encode_missing()
    first = versions.champion().version
    version = ModelVersion.objects.create(
        major=1, minor=1, digest="d" * 64, parent=first, lineage=first.lineage, method="lifelong",
        architecture=first.architecture, code_bits=first.code_bits, dimension=first.dimension, size_bytes=1,
        manifest=first.manifest, label_registry=[category.slug],
    )  # fmt: skip
    for entry in GalleryEntry.objects.filter(image__item__category=category):
        GalleryEntry.objects.create(
            image_id=entry.image_id, image_sha256=entry.image_sha256, producer=version, provenance="solved",
            code=entry.code, embedding=entry.embedding,
        )  # fmt: skip
    in_use(version)
    job_change(state=JobState.DONE, result=RESULT, finished_at=timezone.now())
    return version


def in_use(version: ModelVersion) -> None:
    with gallery_transaction():
        before = Deployment.objects.get(arm="champion", ended_at=None)
        Deployment.objects.filter(pk=before.pk).update(ended_at=timezone.now())
        view = before.view.__class__.objects.get_or_create(version=version)[0]
        Deployment.objects.create(version=version, view=view, previous=before)
