"""What going back would mean, before anybody does: which items only the version in use has encoded, and how the version
before would find those."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, Q

from searchapp.models import Deployment, GalleryEntry, ItemImage, ModelVersion, Verdict
from searchapp.services import versions
from searchapp.services.deploying import candidate_live, rollback_target
from searchapp.services.verdict_matrix import ADDED
from searchapp.services.verdicts import verdict_of


@dataclass(frozen=True, slots=True)
class RollbackOutlook:
    """photos and items: whose entries are all by the trunk that is left. cell: how `target` finds such, as measured
    before; None where nobody measured it, or where it cannot read them at all. measured_at: when that was, if it was on
    other held-out photos than today's or on other increments of the two."""

    leaving: Deployment
    target: ModelVersion
    photos: int
    items: int
    is_readable: bool  # whether the target can search those entries; else they are encoded again first
    cell: Mapping[str, Any] | None
    measured_at: datetime | None = None


def rollback_outlook() -> RollbackOutlook | None:
    """None when there is nothing to go back to. While a candidate is tried nothing was added under it."""
    target = rollback_target()
    if target is None:
        return None
    leaving = candidate_live()
    if leaving is not None:
        return RollbackOutlook(leaving, target, 0, 0, is_readable=True, cell=None)
    leaving = versions.champion()
    added = _only_by_what_is_left(leaving.version, target)
    is_readable = versions.lineage_compatible(target, leaving.version)
    verdict = _verdict(leaving.version, target) if is_readable else None
    is_exact = verdict is not None and verdict == verdict_of(leaving.version, target)
    return RollbackOutlook(
        leaving,
        target,
        photos=added.count(),
        items=added.values("item").distinct().count(),
        is_readable=is_readable,
        cell=None if verdict is None else _cell(verdict),
        measured_at=None if verdict is None or is_exact else verdict.created_at,
    )


def _verdict(leaving: ModelVersion, target: ModelVersion) -> Verdict | None:
    """The one of just these two that holds; else the newest of any increment of the one beside one of the other."""
    exact = verdict_of(leaving, target)
    if exact is not None:
        return exact
    rows = Verdict.objects.filter(
        version__lineage=leaving.lineage,
        version__major=leaving.major,
        against__lineage=target.lineage,
        against__major=target.major,
    )
    if leaving.major == target.major:
        rows = rows.filter(version__minor__gt=target.minor, against__minor__lte=target.minor)
    whole = (row for row in rows.select_related("against") if not row.report.get("set"))
    return next((row for row in whole if _cell(row) is not None), None)


def _cell(verdict: Verdict) -> Mapping[str, Any] | None:
    wanted = (verdict.against.name, ADDED)
    rows = verdict.report["matrix"]
    return next((row for row in rows if (row["query_version"], row["gallery_state"]) == wanted), None)


def _only_by_what_is_left(leaving: ModelVersion, target: ModelVersion) -> Any:
    """Readable photos with an entry by the version that is left, none by what the target reads as its own or older."""
    left = Q(producer__lineage=leaving.lineage, producer__major=leaving.major)
    if (leaving.lineage, leaving.major) == (target.lineage, target.major):
        left &= Q(producer__minor__gt=target.minor)
    entries = GalleryEntry.objects.filter(image=OuterRef("pk"))
    readable = (
        entries.filter(producer__lineage=target.lineage) if leaving.lineage != target.lineage else entries
    )
    return ItemImage.objects.filter(
        Exists(entries.filter(left)), ~Exists(readable.exclude(left)), failure=""
    ).order_by()
