"""What the verdict page shows beside the report itself: whether it still holds, decisions, the items in its pictures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from searchapp.models import FlipDecision, Item, ItemImage, Job, JobState, ModelVersion, Verdict
from searchapp.services.held_out import held_out_fingerprint, held_out_queries

MEASURING = "evaluate_version"


@dataclass(frozen=True, slots=True)
class VerdictFacts:
    """The newest verdict of a pair; None while there is none."""

    verdict: Verdict | None
    holds: bool  # the held-out photos are still those that were asked
    measuring: Job | None  # a measurement of this version that waits or runs


@dataclass(frozen=True, slots=True)
class PicturedItem:
    item: Item
    image: ItemImage | None


def verdict_facts(version: ModelVersion, against: ModelVersion) -> VerdictFacts:
    """The newest verdict, still holding or not."""
    newest = Verdict.objects.filter(version=version, against=against).first()
    holds = newest is not None and newest.held_out == held_out_fingerprint(held_out_queries())
    return VerdictFacts(newest, holds, measuring_of(version))


def measuring_of(version: ModelVersion) -> Job | None:
    """A measurement of this version that waits or runs now."""
    active = Job.objects.filter(kind=MEASURING, state__in=(JobState.QUEUED, JobState.RUNNING))
    return active.filter(payload__version=version.name).select_related("created_by").first()


def decisions_of(version: ModelVersion, against: ModelVersion) -> Mapping[str, FlipDecision]:
    """What operators said of answers that turned wrong, by the photo that asks."""
    rows = FlipDecision.objects.filter(version=version, against=against).select_related("created_by")
    return {row.image_sha256: row for row in rows}


def pictured_items(skus: Iterable[str]) -> Mapping[str, PicturedItem]:
    """Items by SKU with their first photo, in two queries; one that is gone is left out."""
    items = {item.sku: item for item in Item.objects.filter(sku__in=set(skus)).select_related("category")}
    images: dict[int, ItemImage] = {}
    rows = ItemImage.objects.filter(item__in=[item.pk for item in items.values()], failure="")
    for image in rows.order_by("item_id", "position", "pk"):
        images.setdefault(image.item_id, image)
    return {sku: PicturedItem(item, images.get(item.pk)) for sku, item in items.items()}
