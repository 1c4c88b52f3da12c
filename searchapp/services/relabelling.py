"""Giving items another category, or a category another name: labels move, and it is shown that no code does."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Count, F, OuterRef, Subquery

from searchapp.models import EvaluationQuery, Item, ItemImage
from searchapp.services.audit import event_record
from searchapp.services.code_checking import StoredCodes, stored_codes
from searchapp.services.code_statistics import items_relabelled, photos_locked
from searchapp.services.gallery_columns import in_chunks


class CodesTouched(RuntimeError):
    """A stored code changed while only labels may: everything is taken back."""


@dataclass(slots=True)
class Relabelled:
    """What was relabelled: how many photos, and their stored codes, the same before and after."""

    photos: int
    codes: StoredCodes


@contextmanager
def relabelling(
    item_ids: Sequence[int],
    *,
    action: str,
    subject: str,
    user: AbstractBaseUser | None = None,
    more: Mapping[str, Any] | None = None,
) -> Iterator[Relabelled]:
    """Around the writing of other categories, or paths, of these items, inside a `gallery_transaction`.

    Held-out photos and the statistics of stored codes follow, and the audit log is told what was where before and
    after (`more` is put to the latter), with the number and the digest of the items' codes. Raises CodesTouched.
    """
    ids = items_locked(item_ids)
    photos = photos_locked(photos_of(ids))
    found = Relabelled(len(photos), stored_codes(photos))
    before = _told(ids, found.codes)
    yield found
    for part in in_chunks(ids):
        of_item = Item.objects.filter(pk=OuterRef("item_id")).order_by().values("category_id")
        queries = EvaluationQuery.objects.filter(item__in=part).exclude(category=F("item__category"))
        queries.update(category=Subquery(of_item[:1]))
    items_relabelled(ids)
    codes = stored_codes(photos)
    if codes != found.codes:
        raise CodesTouched(
            f"{subject}: stored codes were {found.codes} before and are {codes} after {action}"
        )
    after = {**_told(ids, codes), **(more or {})}
    event_record(action=action, actor=user, subject=subject, before=before, after=after)


def items_locked(item_ids: Sequence[int]) -> list[int]:
    """Those that exist, locked in order of their id: nobody else changes, moves or deletes them meanwhile."""
    return [
        item
        for part in in_chunks(sorted(set(item_ids)))
        for item in Item.objects.select_for_update(of=("self",))
        .filter(pk__in=part)
        .order_by("pk")
        .values_list("pk", flat=True)
    ]


def photos_of(item_ids: Sequence[int]) -> list[int]:
    return [
        photo
        for part in in_chunks(item_ids)
        for photo in ItemImage.objects.filter(item__in=part).order_by().values_list("pk", flat=True)
    ]


def _told(item_ids: Sequence[int], codes: StoredCodes) -> dict[str, Any]:
    """How many of the items each category holds, and their codes."""
    held: dict[str, int] = {}
    for part in in_chunks(item_ids):
        counts = Item.objects.filter(pk__in=part).order_by().values_list("category__path")
        for path, count in counts.annotate(count=Count("pk")):
            held[path] = held.get(path, 0) + count
    return {"items": dict(sorted(held.items())), "codes": codes.count, "codes_digest": codes.digest}
