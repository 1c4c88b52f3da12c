"""Pairs of photos that look alike as rows: written when a photo came in, gone with either photo."""

from collections.abc import Collection, Sequence
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Prefetch, QuerySet

from searchapp.models import DuplicatePair, GalleryEntry, ItemImage, ModelVersion
from searchapp.services.duplicate_photos import FoundPair, Key, Named, NewPhoto
from searchapp.services.gallery import NewEntry
from searchapp.services.near_duplicates import DuplicateSearch, stored_sketch


@transaction.atomic
def pairs_write(found: Collection[FoundPair], *, job_id: UUID | None = None) -> None:
    """Keep what was found among photos that have rows now.

    Left out are pairs known already, in either order, and those one of whose photos is gone. Of two photos the one
    that has the higher id is the new one.
    """
    if not found:
        return
    ids = _ids_of({pair.new for pair in found} | {pair.old for pair in found})
    wanted = {
        (max(new, old), min(new, old)): pair
        for pair in found
        if (new := ids.get(pair.new.key)) and (old := ids.get(pair.old.key))
    }
    DuplicatePair.objects.bulk_create(
        [
            DuplicatePair(
                new_image_id=new,
                old_image_id=old,
                same_content=pair.is_same_content,
                bits=pair.bits,
                cosine=pair.cosine,
                likeness=pair.likeness,
                job_id=job_id,
            )
            for (new, old), pair in wanted.items()
        ],
        ignore_conflicts=True,
    )


def _ids_of(photos: Collection[Named]) -> dict[Key, int]:
    """Of those that have a row: they cannot be deleted before the transaction ends."""
    uploads = {photo.upload_sha256 for photo in photos}
    wanted = ItemImage.objects.filter(
        upload_sha256__in=uploads, item__sku__in={photo.sku for photo in photos}
    )
    rows = wanted.select_for_update(of=("self",), no_key=True).order_by("pk")
    return {(sku, upload): pk for pk, sku, upload in rows.values_list("pk", "item__sku", "upload_sha256")}


def duplicates_note(search: DuplicateSearch, entries: Sequence[NewEntry], version: ModelVersion) -> None:
    """Look for photos like those that were just encoded, after their commit, and keep the pairs.

    `search` is one for the whole run. A run that is killed before this has a warning less, nothing else.
    """
    photos = photos_first_encoded(entries, version)
    if photos:
        pairs_write(search.found(photos, version))
        search.met(photos, version)


def photos_first_encoded(entries: Sequence[NewEntry], version: ModelVersion) -> list[NewPhoto]:
    """Stored photos that no other version has encoded: those it has came in, and were compared, before."""
    encoded = {entry.image_id: entry for entry in entries}
    others = GalleryEntry.objects.filter(image=OuterRef("pk")).exclude(producer=version)
    rows = ItemImage.objects.filter(~Exists(others), pk__in=encoded).select_related("item").order_by("pk")
    return [
        NewPhoto(
            Named(row.item.sku, row.item.title, row.upload_sha256, row.image_sha256),
            encoded[row.pk].code,
            encoded[row.pk].embedding,
            stored_sketch(row.image_sha256),
            row.item_id,
        )
        for row in rows
    ]


def undecided_count() -> int:
    return DuplicatePair.objects.filter(decision=DuplicatePair.Decision.OPEN).count()


def with_undecided(photos: QuerySet[ItemImage]) -> QuerySet[ItemImage]:
    """`photos` with the pairs to decide that each is the newer or the older of, and the other's item."""
    undecided = DuplicatePair.objects.filter(decision=DuplicatePair.Decision.OPEN)
    return photos.prefetch_related(
        Prefetch("newer_of_pairs", undecided.select_related("old_image__item")),
        Prefetch("older_of_pairs", undecided.select_related("new_image__item")),
    )
