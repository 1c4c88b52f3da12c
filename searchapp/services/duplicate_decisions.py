"""What staff decide about two photos that look alike: keep both, or remove the new one."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import QuerySet

from searchapp.exceptions import Conflict
from searchapp.models import DuplicatePair, EvaluationQuery, Item, ItemImage
from searchapp.services import audit
from searchapp.services.catalogue import ONE_IN_EIGHT, image_delete, item_delete
from searchapp.services.database_clock import database_now


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing the new photo of a pair takes along: the item too, when it is its only photo.

    held_out: photos that quality is measured by and that go with it.
    """

    pair: DuplicatePair
    other_photos: int
    held_out: int

    @property
    def is_whole_item(self) -> bool:
        return not self.other_photos


def pairs_listed(job_id: UUID | None = None) -> QuerySet[DuplicatePair]:
    """Pairs nobody has decided yet, newest first; or every pair that one import found, decided or not."""
    pairs = DuplicatePair.objects.select_related(
        "new_image__item__category", "old_image__item__category", "decided_by"
    )
    if job_id is not None:
        return pairs.filter(job=job_id)
    return pairs.filter(decision=DuplicatePair.Decision.OPEN)


def pair_keep(pair_id: int, user: AbstractBaseUser | None = None) -> bool:
    """Both photos stay and are not asked about again. False when that is settled already; twice is once."""
    with transaction.atomic():
        pair = _locked(pair_id)
        if pair is None:
            return False
        pair.decision, pair.decided_at = DuplicatePair.Decision.KEEP, database_now()
        pair.decided_by_id = None if user is None else user.pk
        pair.save(update_fields=["decision", "decided_at", "decided_by"])
        _record("duplicate.keep", pair, user, {"decision": "keep"})
    return True


def removal_of(pair_id: int) -> Removal | None:
    """What would go; None when there is nothing to decide any more."""
    pair = pairs_listed().filter(pk=pair_id).first()
    return None if pair is None else _removal(pair)


def pair_remove_new(pair_id: int, *, with_item: bool, user: AbstractBaseUser | None = None) -> bool:
    """Delete the new photo, with its item when it is the only photo. False when that is settled; twice is once.

    with_item: what whoever decided was told; raises Conflict, and deletes nothing, when it is otherwise by now.
    """
    with transaction.atomic():
        pair = pairs_listed().filter(pk=pair_id).first()
        if pair is None:
            return False
        # The item first, then the photo and what refers to it, as every deletion does.
        item = Item.objects.select_for_update(of=("self",)).filter(pk=pair.new_image.item_id).first()
        ItemImage.objects.select_for_update(of=("self",)).filter(pk=pair.new_image_id).first()
        pair = _locked(pair_id)
        if item is None or pair is None:
            return False
        is_only = _removal(pair).is_whole_item
        if is_only != with_item:
            now = "it is the item's only photo" if is_only else "the item has other photos"
            raise Conflict(
                f"The item has changed meanwhile: {now}. Nothing was deleted; look again, then decide."
            )
        _record("duplicate.remove", pair, user, {"removed": "item" if is_only else "photo"})
        if is_only:
            item_delete(item=item, user=user)
        else:
            image_delete(image=pair.new_image, user=user)
    return True


def _locked(pair_id: int) -> DuplicatePair | None:
    rows = DuplicatePair.objects.select_for_update(of=("self",)).filter(decision=DuplicatePair.Decision.OPEN)
    return rows.select_related("new_image__item", "old_image__item").filter(pk=pair_id).first()


def _removal(pair: DuplicatePair) -> Removal:
    image = pair.new_image
    others = image.item.images.exclude(pk=image.pk).count()
    held_out = EvaluationQuery.objects.filter(item=image.item_id)
    if others:
        held_out = held_out.filter(split=ONE_IN_EIGHT, upload_sha256=image.upload_sha256)
    return Removal(pair, others, held_out.count())


def _record(action: str, pair: DuplicatePair, user: AbstractBaseUser | None, after: dict[str, Any]) -> None:
    new, old = pair.new_image, pair.old_image
    before = {
        "new": {"sku": new.item.sku, "image_sha256": new.image_sha256},
        "old": {"sku": old.item.sku, "image_sha256": old.image_sha256},
        "same_content": pair.same_content,
        "bits": pair.bits,
        "cosine": pair.cosine,
        "likeness": pair.likeness,
    }
    audit.event_record(action=action, actor=user, subject=new.item.sku, before=before, after=after)
