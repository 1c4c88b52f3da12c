"""An increment goes live: version, entries, statistics and pointer in one transaction, or nothing at all."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Max

from ml.artifacts import Bundle
from searchapp.exceptions import LeaseLost
from searchapp.failpoints import failpoint
from searchapp.models import Category, Deployment, GalleryView, ItemImage, ModelVersion
from searchapp.services import code_statistics, versions
from searchapp.services.audit import event_record
from searchapp.services.database_clock import DatabaseNow
from searchapp.services.gallery import Changes, NewEntry, entries_add, gallery_transaction
from searchapp.services.gallery_columns import in_chunks
from searchapp.services.jobs import JobRun
from searchapp.services.learning import MovedMeanwhile
from searchapp.services.learning_gates import NewCodes
from searchapp.services.learning_proof import NotedCodes, old_codes_now


@dataclass(frozen=True, slots=True)
class Published:
    """What is to be said of a publication: what was learned, the codes that must not have changed, the job's state."""

    categories: Sequence[Category]
    noted: NotedCodes
    state: Mapping[str, Any]
    said: Mapping[str, Any]
    started: float


def published(
    run: JobRun, live: Deployment, bundle: Bundle, new: NewCodes, about: Published
) -> dict[str, Any]:
    """Put the increment in use after `live`; returns the job's result, which is in the checkpoint then.

    A photo that was deleted, replaced or given another category meanwhile gets no entry: it waits again. Raises
    MovedMeanwhile when `live` serves no longer.
    """
    run.save({**about.state, "bundle": bundle.digest})  # who comes after a kill knows what to remove
    versions.bundle_store(bundle.path)
    try:
        return _published(run, live, bundle, new, about)
    except LeaseLost:  # the other owner's may be the very same
        raise
    except Exception:
        versions.bundle_drop(bundle.digest)
        raise


def _published(
    run: JobRun, live: Deployment, bundle: Bundle, new: NewCodes, about: Published
) -> dict[str, Any]:
    with gallery_transaction() as changes:
        run.guard()
        _lock(live)
        version = _registered(run, live.version, bundle)
        photos = _unchanged(new, about.categories)
        encoded = _added(changes, version, new, photos)
        code_statistics.entries_count(version=version, image_ids=sorted(photos))
        proof = old_codes_now(about.noted)
        result = {
            "version": version.name, **about.said,
            "old_codes_checked": proof.checked,
            "old_codes_changed": 0,  # any other number was refused, and the code named
            "old_codes_gone": proof.gone,
            "old_digest_before": proof.before,
            "old_digest_after": proof.after,
            "photos": len(photos),
            "encoded": encoded, "seconds": round(time.monotonic() - about.started, 2),
        }  # fmt: skip
        _put_in_use(run, live, version, result)
        run.save({**about.state, "published": result})
        failpoint("learning.before_commit")
    return result


def _lock(live: Deployment) -> None:
    held = Deployment.objects.select_for_update().filter(pk=live.pk, ended_at__isnull=True)
    if not held.exists():
        raise MovedMeanwhile(f"{live.version.name} is in use no longer")


def _registered(run: JobRun, parent: ModelVersion, bundle: Bundle) -> ModelVersion:
    highest = ModelVersion.objects.filter(major=parent.major).aggregate(highest=Max("minor"))["highest"]
    return versions.version_register(
        bundle.manifest,
        number=(parent.major, highest + 1),
        size_bytes=sum(int(entry["bytes"]) for entry in bundle.manifest.files.values()),
        parent=parent,
        labels=bundle.manifest.labels,
        user=run.job.created_by,
    )


def _unchanged(new: NewCodes, categories: Sequence[Category]) -> set[int]:
    """Photos, by id, that still exist with the same content in the same category; locked in the common order."""
    code_statistics.photos_locked(photo.image_id for photo in new.photos)
    rows = Category.objects.select_for_update(no_key=True).order_by("pk")
    present = set(rows.filter(pk__in=[category.pk for category in categories]).values_list("pk", flat=True))
    wanted = {photo.image_id: photo for photo in new.photos if photo.category_id in present}
    kept: set[int] = set()
    for ids in in_chunks(sorted(wanted)):
        fields = ("pk", "image_sha256", "item__category_id")
        found = ItemImage.objects.filter(pk__in=ids, failure="").values_list(*fields)
        kept |= {
            pk
            for pk, sha, category in found
            if (wanted[pk].image_sha256, wanted[pk].category_id) == (sha, category)
        }
    return kept


def _added(changes: Changes, version: ModelVersion, new: NewCodes, photos: set[int]) -> int:
    entries = [
        NewEntry(
            photo.image_id,
            photo.image_sha256,
            new.packed_codes[row].tobytes(),
            new.embeddings[row].astype("<f2").tobytes(),
        )
        for row, photo in enumerate(new.photos)
        if photo.image_id in photos
    ]
    return entries_add(changes, version=version, entries=entries)


def _put_in_use(run: JobRun, live: Deployment, version: ModelVersion, result: Mapping[str, Any]) -> None:
    view = GalleryView.objects.create(version=version)
    Deployment.objects.filter(pk=live.pk).update(ended_at=DatabaseNow())
    reason = f"learned {', '.join(result['categories'])}"[:500]
    Deployment.objects.create(
        version=version, view=view, previous=live, reason=reason, created_by=run.job.created_by
    )
    event_record(
        action="categories.learn",
        actor=run.job.created_by,
        subject=f"version {version.name}",
        before={"version": live.version.name},
        after=dict(result),
        reason=reason,
    )
