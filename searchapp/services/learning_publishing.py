"""An increment is published: version, entries and, if it goes live, statistics and pointer, in one transaction.

One on a candidate leaves the statistics alone. A lineage has one set of them, and what they count is the entries that
stand for photos where it serves: until a promotion moves the pointer that is the champion's view, in which a newer M
comes last. The first increment after the promotion counts anew what stands differently then (learning_increment), so
neither the promotion nor a rollback costs more in a larger gallery.
"""

import time
from collections.abc import Mapping
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
from searchapp.services.learning import MovedMeanwhile
from searchapp.services.learning_gates import NewCodes
from searchapp.services.learning_plan import Notes, Plan
from searchapp.services.learning_proof import NotedCodes, old_codes_now


@dataclass(frozen=True, slots=True)
class Published:
    """What is to be said of a publication, and the codes that must not have changed."""

    noted: NotedCodes
    said: Mapping[str, Any]
    started: float


def published(notes: Notes, plan: Plan, bundle: Bundle, new: NewCodes, about: Published) -> dict[str, Any]:
    """Register the increment, and put it in use if it goes live; returns the result, which is in the notes then.

    A photo that was deleted, replaced or given another category meanwhile gets no entry: it waits again. Raises
    MovedMeanwhile when what served at the beginning does no longer.
    """
    notes.put({**notes.state, "bundle": bundle.digest})  # who comes after a kill knows what to remove
    versions.bundle_store(bundle.path)
    try:
        return _published(notes, plan, bundle, new, about)
    except LeaseLost:  # the other owner's may be the very same
        raise
    except Exception:
        versions.bundle_drop(bundle.digest)
        raise


def _published(notes: Notes, plan: Plan, bundle: Bundle, new: NewCodes, about: Published) -> dict[str, Any]:
    with gallery_transaction() as changes:
        notes.run.guard()
        _lock(plan.live)
        version = _registered(notes, plan.parent, bundle)
        photos = _unchanged(new, plan.categories)
        encoded = _added(changes, version, new, photos)
        if plan.goes_live:
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
        view = GalleryView.objects.create(version=version, corrector_digest=plan.corrector_digest)
        if plan.goes_live:
            _put_in_use(notes, plan.live, view, result)
        _told(notes, plan, version, result)
        notes.put({**notes.state, "published": result})
        failpoint("learning.before_commit")
    return result


def _lock(live: Deployment) -> None:
    held = Deployment.objects.select_for_update().filter(pk=live.pk, ended_at__isnull=True)
    if not held.exists():
        raise MovedMeanwhile(
            f"{live.version.name} is in use no longer: somebody moved the pointer; look again"
        )


def _registered(notes: Notes, parent: ModelVersion, bundle: Bundle) -> ModelVersion:
    highest = ModelVersion.objects.filter(major=parent.major).aggregate(highest=Max("minor"))["highest"]
    return versions.version_register(
        bundle.manifest,
        number=(parent.major, highest + 1),
        size_bytes=versions.size_bytes_of(bundle.manifest),
        parent=parent,
        labels=bundle.manifest.labels,
        user=notes.run.job.created_by,
    )


def _unchanged(new: NewCodes, categories: tuple[Category, ...]) -> set[int]:
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


def _put_in_use(notes: Notes, live: Deployment, view: GalleryView, result: Mapping[str, Any]) -> None:
    Deployment.objects.filter(pk=live.pk).update(ended_at=DatabaseNow())
    Deployment.objects.create(
        version=view.version,
        view=view,
        previous=live,
        reason=_reason(result),
        created_by=notes.run.job.created_by,
    )


def _told(notes: Notes, plan: Plan, version: ModelVersion, result: Mapping[str, Any]) -> None:
    """What changed: of an increment that goes live the version in use, else the candidate that now knows more."""
    event_record(
        action="categories.learn" if plan.goes_live else "categories.catch_up",
        actor=notes.run.job.created_by,
        subject=f"version {version.name}",
        before={"version": plan.parent.name},
        after=dict(result),
        reason=_reason(result),
    )


def _reason(result: Mapping[str, Any]) -> str:
    return f"learned {', '.join(result['categories'])}"[:500]
