"""What the verdict page shows beside the report itself: whether it still holds, and whether it is measured again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from searchapp.models import Item, Job, JobState, ModelVersion, Verdict
from searchapp.services import evaluating
from searchapp.services.held_out import held_out_fingerprint, held_out_queries


@dataclass(frozen=True, slots=True)
class VerdictFacts:
    """The newest verdict of a pair; None while there is none."""

    verdict: Verdict | None
    holds: bool  # the held-out photos are still those that were asked
    measuring: Job | None  # a measurement of this version that waits or runs


def verdict_facts(version: ModelVersion, against: ModelVersion) -> VerdictFacts:
    """The newest verdict, still holding or not."""
    newest = Verdict.objects.filter(version=version, against=against).first()
    holds = newest is not None and newest.held_out == held_out_fingerprint(held_out_queries())
    return VerdictFacts(newest, holds, measuring_of(version))


def newest_verdict(version: ModelVersion) -> Verdict | None:
    """Beside whatever other version."""
    return Verdict.objects.filter(version=version).first()


def measuring_of(version: ModelVersion) -> Job | None:
    """A measurement of this version that waits or runs now."""
    active = Job.objects.filter(kind=evaluating.KIND, state__in=(JobState.QUEUED, JobState.RUNNING))
    return active.filter(payload__version=version.name).select_related("created_by").first()


def judged_beside(against: ModelVersion) -> set[int]:
    """The ids of the versions that have a verdict beside this one, still holding or not."""
    return set(Verdict.objects.filter(against=against).order_by().values_list("version_id", flat=True))


def titles_of(skus: Iterable[str]) -> Mapping[str, str]:
    """The titles of items by their SKU; one that is gone is left out."""
    rows = Item.objects.filter(sku__in=set(skus)).values_list("sku", "title")
    return {sku: title or sku for sku, title in rows}
