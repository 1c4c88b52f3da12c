"""The measured quality of a version beside that of the version in use, from their evaluation rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchapp.models import Evaluation

METRICS = ("recall_at_1", "recall_at_10", "map", "mrr")
OWN_GALLERY = "stored"


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean over held-out queries and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Quality:
    """One metric of a version; `in_use` is that of the version it would replace, on the same queries."""

    metric: str
    own: Measured
    in_use: Measured | None
    verdict: str  # better | worse | cannot_tell; empty without anything to compare with
    queries: int


def qualities_of(own: Sequence[Evaluation], in_use: Sequence[Evaluation]) -> tuple[Quality, ...]:
    """The latest measurement of each metric; empty when none was made."""
    mine, theirs = _latest(own), _latest(in_use)
    found = []
    for metric in METRICS:
        measured = _measured(mine, metric)
        if measured is not None:
            other = _measured(theirs, metric) if in_use is not own else None
            found.append(Quality(metric, measured, other, _verdict(measured, other), int(mine.get("n", 0))))
    return tuple(found)


def _latest(evaluations: Sequence[Evaluation]) -> Mapping[str, Any]:
    rows = [row for row in evaluations if row.gallery_state == OWN_GALLERY]
    newest = max(rows, key=lambda row: row.created_at, default=None)
    return newest.metrics if newest else {}


def _measured(metrics: Mapping[str, Any], name: str) -> Measured | None:
    numbers = [metrics.get(f"{name}{end}") for end in ("", "_low", "_high")]
    if not all(isinstance(number, int | float) for number in numbers):
        return None
    value, low, high = (float(number) for number in numbers if number is not None)
    return Measured(value, low, high)


def _verdict(own: Measured, other: Measured | None) -> str:
    """Two separate intervals say which is better; overlapping ones do not."""
    if other is None:
        return ""
    if own.low > other.high:
        return "better"
    return "worse" if own.high < other.low else "cannot_tell"
