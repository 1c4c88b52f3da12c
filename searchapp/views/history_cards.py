"""The deployment history in words: what served which queries, since when, by whom, why, and what users were told."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from searchapp.models import Deployment
from searchapp.services.arm_choice import scope_words
from searchapp.services.deployment_history import HistoryEntry
from searchapp.views.verdict_words import percent


@dataclass(frozen=True, slots=True)
class HistoryCard:
    version: str
    what: str  # which queries it answers, or answered
    sign: str
    tone: str
    began: datetime
    ended: datetime | None
    who: str
    reason: str
    end_reason: str
    note: str
    digest: str
    corrector: str
    promised: str
    codes: str  # the codes' fingerprint, when the move left it as it was
    seconds: str

    @property
    def is_live(self) -> bool:
        return self.ended is None


def history_card(entry: HistoryEntry) -> HistoryCard:
    row, move = entry.deployment, entry.move
    before, after = move.get("gallery_digest_before", ""), move.get("gallery_digest_after", "")
    return HistoryCard(
        version=row.version.name,
        what=arm_words(row),
        sign="strong" if row.ended_at is None else "later",
        tone="done" if row.ended_at is None else "cancelled",
        began=row.created_at,
        ended=row.ended_at,
        who=row.created_by.get_username() if row.created_by else "",
        reason=row.reason,
        end_reason=row.end_reason,
        note=row.change_note,
        digest=row.version.digest,
        corrector=row.view.corrector_digest,
        promised=_promised(row.measured),
        codes=before if before and before == after else "",
        seconds=f"{move['seconds']:,.1f}" if isinstance(move.get("seconds"), int | float) else "",
    )


def arm_words(row: Deployment) -> str:
    """Which queries a deployment answers: "every query", "25 % of visitors", "in the shadow"."""
    if row.arm == Deployment.Arm.CHAMPION:
        return "every query"
    where = scope_words(row.scope)
    if row.is_shadow:
        return f"in the shadow{f', {where}' if where else ''}"
    share = "every query" if row.share == 100 else f"{row.share} % of visitors"
    return f"{share}{f' in {where}' if where else ''}"


def _promised(cell: Mapping[str, Any]) -> str:
    value = cell.get("map")
    return f"mean average precision {percent(value)} promised" if isinstance(value, int | float) else ""
