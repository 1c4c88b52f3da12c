"""What an increment proved: that stored codes stayed as they were, and what it changed for the answers.

Read from the result of its job, which holds what was measured (services.learning).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchapp.models import Job


@dataclass(frozen=True, slots=True)
class Quality:
    """Mean average precision on held-out photos, 0 to 1, before the increment and after it."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Gate:
    """value, low, high: None where nothing could be measured; seen_from: the least change that would have failed it."""

    name: str
    threshold: float
    value: float | None
    low: float | None
    high: float | None
    verdict: str  # pass | fail | cannot_tell
    items: int
    note: str
    seen_from: float | None


@dataclass(frozen=True, slots=True)
class Proof:
    version: str
    parent: str
    categories: tuple[str, ...]
    checked: int
    changed: int
    digest_before: str
    digest_after: str
    seconds: float
    training_seconds: float
    old: Quality | None
    new: Quality | None
    gates: tuple[Gate, ...]

    @property
    def is_unchanged(self) -> bool:
        return self.changed == 0 and self.digest_before == self.digest_after


def result_of(job: Job) -> Mapping[str, Any]:
    """What came of it: known from the moment the version is in use, a little before the job has ended."""
    return job.result or job.checkpoint.get("published") or {}


def proof_of(job: Job) -> Proof | None:
    """None when the job ended without a version."""
    result = result_of(job)
    if not result.get("version"):
        return None
    return Proof(
        version=str(result["version"]),
        parent=str(result.get("parent") or ""),
        categories=tuple(map(str, result.get("categories") or ())),
        checked=int(result["old_codes_checked"]),
        changed=int(result["old_codes_changed"]),
        digest_before=str(result["old_digest_before"]),
        digest_after=str(result["old_digest_after"]),
        seconds=float(result["seconds"]),
        training_seconds=float(result["training_seconds"]),
        old=_quality(result, "old"),
        new=_quality(result, "new"),
        gates=gates_of(job),
    )


def gates_of(job: Job | None) -> tuple[Gate, ...]:
    """As they were measured, of an increment that went live or of one that was refused; empty before that."""
    if job is None:
        return ()
    rows = result_of(job).get("gates") or job.checkpoint.get("gates") or []
    return tuple(_gate(row) for row in rows if isinstance(row, Mapping))


def _quality(result: Mapping[str, Any], which: str) -> Quality | None:
    before, after = (
        _number(result.get(f"{which}_query_map_before")),
        _number(result.get(f"{which}_query_map_after")),
    )
    return None if before is None or after is None else Quality(before, after)


def _gate(row: Mapping[str, Any]) -> Gate:
    return Gate(
        name=str(row.get("name", "")),
        threshold=_number(row.get("threshold")) or 0.0,
        value=_number(row.get("value")),
        low=_number(row.get("low")),
        high=_number(row.get("high")),
        verdict=str(row.get("verdict", "")),
        items=int(row.get("items") or 0),
        note=str(row.get("note", "")),
        seen_from=_number(row.get("seen_from")),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
