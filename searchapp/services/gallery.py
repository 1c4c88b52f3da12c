"""Writing the gallery: entries are appended, and every change gets its number as the transaction's last act."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from django.db import connection, transaction
from django.db.models import F

from searchapp.failpoints import failpoint
from searchapp.models import (
    ChangeKind,
    GalleryChange,
    GalleryCounter,
    GalleryEntry,
    ItemImage,
    ModelVersion,
    Provenance,
)
from searchapp.services.photo_features import features_write


@dataclass(slots=True)
class Changes:
    """What one transaction did to the gallery, collected until its end."""

    rows: list[tuple[ChangeKind, int]] = field(default_factory=list)

    def record(self, kind: ChangeKind, subject_ids: Sequence[int]) -> None:
        self.rows.extend((kind, subject_id) for subject_id in subject_ids)


@contextmanager
def gallery_transaction() -> Iterator[Changes]:
    """One transaction over catalogue and gallery rows. Followers see all of it or nothing, in commit order.

    The counter row is locked by its increment until the commit, so numbers become visible in the order they commit:
    a follower that has read up to `n` never finds a number below `n` later. Hence the increment and the change rows
    that carry it come last; everything slow happens before.
    """
    with transaction.atomic():
        changes = Changes()
        yield changes
        if changes.rows:
            _write(changes.rows)
        failpoint("gallery.before_commit")
    failpoint("gallery.after_commit")


def references_hold() -> None:
    """Check now what new rows refer to, and so hold it until the commit. Called before a lock that everybody takes.

    PostgreSQL would do so at the commit: then one that holds the counter waits for a category that another is just
    deleting or renaming, who waits for the counter.
    """
    if connection.vendor == "postgresql":
        connection.check_constraints()


def _write(rows: list[tuple[ChangeKind, int]]) -> None:
    references_hold()
    GalleryCounter.objects.filter(pk=1).update(value=F("value") + 1)
    sequence = GalleryCounter.objects.values_list("value", flat=True).get(pk=1)
    GalleryChange.objects.bulk_create(
        [GalleryChange(sequence=sequence, kind=kind, subject_id=subject_id) for kind, subject_id in rows],
        batch_size=1000,
    )


@dataclass(frozen=True, slots=True)
class NewEntry:
    """What an encoder made of one stored photo. `embedding` is little-endian float16 bytes, `feature` float32 ones:
    what the trunk saw (services.photo_features), empty when it is known already.
    """

    image_id: int
    image_sha256: str
    code: bytes
    embedding: bytes
    feature: bytes = b""


def entries_add(
    changes: Changes,
    *,
    version: ModelVersion,
    entries: Sequence[NewEntry],
    provenance: Provenance = Provenance.ENCODED,
) -> int:
    """Append entries inside the caller's `gallery_transaction`; returns how many were new.

    A photo that vanished or was replaced since it was read gets none; one that already has an entry by this version
    keeps it. So calling it twice adds nothing twice.
    """
    wanted = {entry.image_id: entry for entry in entries}
    present = dict(
        ItemImage.objects.select_for_update()
        .filter(pk__in=wanted)
        .order_by("pk")
        .values_list("pk", "image_sha256")
    )
    coded = set(
        GalleryEntry.objects.filter(producer=version, image_id__in=wanted).values_list("image_id", flat=True)
    )
    fresh = [
        entry
        for image_id, entry in wanted.items()
        if present.get(image_id) == entry.image_sha256 and image_id not in coded
    ]
    created = GalleryEntry.objects.bulk_create(
        [
            GalleryEntry(
                image_id=entry.image_id,
                image_sha256=entry.image_sha256,
                producer=version,
                provenance=provenance,
                code=entry.code,
                embedding=entry.embedding,
            )
            for entry in fresh
        ],
        batch_size=500,
    )
    features_write(version, {entry.image_sha256: entry.feature for entry in fresh if entry.feature})
    changes.record(ChangeKind.ENTRY_ADDED, [row.pk for row in created])
    return len(created)
