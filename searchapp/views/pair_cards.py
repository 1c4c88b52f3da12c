"""View models of two photos side by side: every word a template shows, ready made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.db.models import F

from searchapp.addresses import item_url
from searchapp.models import DuplicatePair, ItemImage, Job
from searchapp.services.duplicate_decisions import pairs_listed
from searchapp.views.cards import Photo, category_of, thumbnail_of

SHOWN_OF_JOB = 24


@dataclass(frozen=True, slots=True)
class PairSide:
    photo: Photo
    title: str
    sku: str
    url: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True)
class PairCard:
    """`pk` is None in a trial run: nothing is stored, so there is nothing to decide."""

    pk: int | None
    new: PairSide
    old: PairSide
    verdict: str
    measured: str
    settled: str = ""
    line: str = ""
    can_keep: bool = False
    can_remove: bool = False


@dataclass(frozen=True, slots=True)
class JobPairs:
    """What an import found: `found` at first; of these `gone` lost a photo since, and `cards` are shown."""

    found: int
    cards: tuple[PairCard, ...]
    gone: int
    is_dry_run: bool

    @property
    def words(self) -> str:
        one = self.found == 1
        said = [f"{self.found:,} new photo{' equals' if one else 's equal'} a photo of another item."]
        if self.is_dry_run:
            said.append("The import takes them in all the same; afterwards you decide.")
        else:
            said.append("They came in all the same: keep both, or remove the new one.")
        if self.gone:
            said.append(
                f"{self.gone:,} of them {'is' if self.gone == 1 else 'are'} settled: a photo is gone."
            )
        if 0 < len(self.cards) < self.found - self.gone:
            said.append(f"{len(self.cards)} are shown here.")
        return " ".join(said)


def pair_card(pair: DuplicatePair, user: User | AnonymousUser) -> PairCard:
    is_open = pair.decision == DuplicatePair.Decision.OPEN
    who = f" (decided by {pair.decided_by.get_username()})" if pair.decided_by else ""
    return PairCard(
        pk=pair.pk,
        new=_side(pair.new_image),
        old=_side(pair.old_image),
        verdict=_verdict(is_same_content=pair.same_content),
        measured=_measured(pair.likeness, pair.bits),
        settled="" if is_open else f"Both are kept{who}.",
        can_keep=is_open and user.has_perm("searchapp.change_item"),
        can_remove=is_open and user.has_perms(["searchapp.delete_item", "searchapp.delete_itemimage"]),
    )


def pairs_of_job(job: Job, user: User | AnonymousUser) -> JobPairs | None:
    """None for jobs that look for no pairs, or found none."""
    result = job.result or {}
    found = result.get("duplicates_found")
    if not isinstance(found, int) or not found:
        return None
    if result.get("dry_run"):
        return JobPairs(found, tuple(map(_told_card, result.get("duplicates") or [])), 0, is_dry_run=True)
    stored = pairs_listed(job.pk)
    shown = stored.order_by(F("decided_at").asc(nulls_first=True), "pk")[:SHOWN_OF_JOB]
    cards = tuple(pair_card(pair, user) for pair in shown)
    return JobPairs(found, cards, max(0, found - stored.count()), is_dry_run=False)


def _side(image: ItemImage) -> PairSide:
    item = image.item
    photo = thumbnail_of(image, item)
    return PairSide(photo, item.title or item.sku, item.sku, item_url(item.sku), category_of(item))


def _told_card(told: Mapping[str, Any]) -> PairCard:
    """As a trial run's report tells of it."""
    old = told["equals"]
    return PairCard(
        pk=None,
        new=_told_side(told),
        old=_told_side(old, url=item_url(old["sku"]) if old["thumbnail"] else ""),
        verdict=_verdict(is_same_content=told["same_content"]),
        measured=_measured(told["likeness"], told["bits"]),
        line=str(told["row"]),
    )


def _told_side(told: Mapping[str, Any], url: str = "") -> PairSide:
    title = told["title"] or told["sku"]
    alt = title if told["thumbnail"] else "Also new in this file"
    return PairSide(Photo(told["thumbnail"], alt), title, told["sku"], url)


def _verdict(*, is_same_content: bool) -> str:
    return "The same picture" if is_same_content else "Looks the same"


def _measured(likeness: float | None, bits: int | None) -> str:
    if likeness is None:
        return "the same content"
    return f"pictures {100 * likeness:.0f} % alike, codes differ in {bits} bits"
