"""The measured quality of a version beside that of the version in use, read from their evaluation rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchapp.models import Evaluation
from searchapp.services.measuring import STORED
from searchapp.services.verdict_gates import LEAST_ITEMS

METRICS = ("recall_at_1", "recall_at_10", "map", "mrr")


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean over held-out queries, or a difference of two, with its 95 % interval."""

    value: float
    low: float
    high: float

    def turned(self) -> "Measured":
        return Measured(-self.value, -self.high, -self.low)


@dataclass(frozen=True, slots=True)
class Quality:
    """One metric. `change` is this version minus the one in use, on the same queries."""

    metric: str
    own: Measured
    other: Measured | None
    change: Measured | None
    is_telling: bool = True  # the interval comes from enough items to be believed

    @property
    def verdict(self) -> str:
        """better | worse | cannot_tell; empty when the two were not measured beside each other."""
        if self.change is None:
            return ""
        if self.change.low > 0 and self.is_telling:
            return "better"
        return "worse" if self.change.high < 0 and self.is_telling else "cannot_tell"


@dataclass(frozen=True, slots=True)
class Gate:
    """What a version must not be worse in. `loss` is positive when it is the worse one; None: not measurable."""

    name: str
    threshold: float
    loss: Measured | None
    verdict: str  # pass | fail | cannot_tell
    items: int  # those whose held-out photos were asked

    @property
    def has_enough_items(self) -> bool:
        return self.items >= LEAST_ITEMS


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything measured of one version; without a comparison `gates` is empty and no quality has a change."""

    qualities: tuple[Quality, ...] = ()
    gates: tuple[Gate, ...] = ()
    queries: int = 0
    held_out: str = ""  # fingerprint of the held-out photos of the comparison

    @property
    def is_compared(self) -> bool:
        return any(quality.change is not None for quality in self.qualities)


def judgement_of(
    name: str, own: Sequence[Evaluation], other_name: str = "", other: Sequence[Evaluation] = ()
) -> Judgement:
    """The latest measurement of version `name`, beside that of `other_name` if they were measured together.

    Whichever of the two was the candidate then, changes are told from `name`'s side; gates are those that
    `name` had to pass as a candidate.
    """
    candidate, champion = _latest(own, against=other_name), _latest(other, against=name)
    if candidate is not None:
        mine, theirs = candidate.metrics, _before(other, candidate)
        changes, measured_with = _changes(mine), mine
    elif champion is not None:
        mine, theirs = _before(own, champion), champion.metrics
        changes = {metric: change.turned() for metric, change in _changes(theirs).items()}
        measured_with = theirs
    else:
        newest = _latest(own)
        mine, theirs, changes, measured_with = newest.metrics if newest else {}, {}, {}, {}
    gates = tuple(_gate(row) for row in measured_with.get("gates", []))
    is_telling = all(gate.has_enough_items for gate in gates)
    measured = [(metric, _measured(mine, metric)) for metric in METRICS]
    return Judgement(
        qualities=tuple(
            Quality(metric, value, _measured(theirs, metric), changes.get(metric), is_telling)
            for metric, value in measured
            if value is not None
        ),
        gates=gates if candidate else (),
        queries=int(mine.get("n", 0)),
        held_out=str(measured_with.get("held_out", "")),
    )


def _latest(evaluations: Sequence[Evaluation], against: str | None = None) -> Evaluation | None:
    rows = [row for row in evaluations if row.gallery_state == STORED]
    if against is not None:
        rows = [row for row in rows if row.metrics.get("against") == against]
    return max(rows, key=lambda row: row.pk, default=None)


def _before(evaluations: Sequence[Evaluation], candidate: Evaluation) -> Mapping[str, Any]:
    """What was stored of the other version in the same comparison: its row is written just before."""
    earlier = [row for row in evaluations if row.pk < candidate.pk]
    partner = _latest(earlier)
    return partner.metrics if partner else {}


def _measured(metrics: Mapping[str, Any], name: str) -> Measured | None:
    return _triple(*(metrics.get(f"{name}{end}") for end in ("", "_low", "_high")))


def _changes(metrics: Mapping[str, Any]) -> dict[str, Measured]:
    found = {
        name: _triple(row.get("value"), row.get("low"), row.get("high"))
        for name, row in metrics.get("differences", {}).items()
    }
    return {name: change for name, change in found.items() if change is not None}


def _gate(row: Mapping[str, Any]) -> Gate:
    loss = _triple(row.get("value"), row.get("low"), row.get("high"))
    items = int(row.get("items", LEAST_ITEMS))
    return Gate(str(row["name"]), float(row["threshold"]), loss, str(row["verdict"]), items)


def _triple(value: object, low: object, high: object) -> Measured | None:
    if isinstance(value, int | float) and isinstance(low, int | float) and isinstance(high, int | float):
        return Measured(float(value), float(low), float(high))
    return None
