"""What served when, who put it there, and what each move of the pointer did to the stored codes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchapp.models import Deployment, Job, JobState, ModelVersion
from searchapp.services.deploying import PROMOTE, ROLLBACK

_MOVES_LOOKED_AT = 100


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One deployment, and the result of the job that began it; {} for the first one and for increments."""

    deployment: Deployment
    move: Mapping[str, Any]


def history(*, limit: int, version: ModelVersion | None = None) -> Sequence[HistoryEntry]:
    """The newest deployments first, of one version where it is given, in two queries."""
    rows = Deployment.objects.select_related("version", "created_by", "view", "previous__version")
    found = list((rows.filter(version=version) if version else rows)[:limit])
    moves = _moves()
    return [HistoryEntry(row, moves.get(row.pk, {})) for row in found]


def _moves() -> dict[int, Mapping[str, Any]]:
    done = Job.objects.filter(kind__in=(PROMOTE, ROLLBACK), state=JobState.DONE).order_by("-created_at")
    results = [result or {} for result in done.values_list("result", flat=True)[:_MOVES_LOOKED_AT]]
    return {result["deployment"]: result for result in reversed(results) if "deployment" in result}
