"""What a version must not be worse in, and the rule by which that is said.

A gate fails when the interval of the loss lies above its limit, passes when it lies at or below it, and otherwise
nobody can tell; nor can they with held-out photos of fewer than LEAST_ITEMS items. Limits are the operators'
(services.operator_settings): what was measured stays, and is judged by the limits of now.
"""

from typing import Any

from ml.evaluation.intervals import Interval
from searchapp.models import FlipDecision, Verdict
from searchapp.services.measured_intervals import interval_row
from searchapp.services.operator_settings import setting_values

Gate = dict[str, Any]

MAP_GATE = "map_loss"
BLOCKED_FLIPS = "blocked_flips"
# Drawing from fewer items again and again shows far too narrow an interval: of one item, none at all.
LEAST_ITEMS = 10


def gate_row(name: str, threshold: float, loss: Interval | None, **more: Any) -> Gate:
    """A gate as it is stored; without a loss (there was nothing to measure) nobody can tell."""
    found: Gate = {"name": name, "threshold": threshold, "value": None, "low": None, "high": None, "items": 0}
    if loss is not None:
        found |= {**interval_row(loss), "items": loss.clusters}
    return {**found, "verdict": _word(found, threshold), **more}


def gates_now(verdict: Verdict) -> list[Gate]:
    """The gates of a stored verdict by today's limits, and answers that an operator said must not turn wrong."""
    limits = setting_values()
    gates = []
    for row in verdict.report["gates"]:
        threshold = float(limits[f"gate.{row['name']}"])
        gates.append({**row, "threshold": threshold, "verdict": _word(row, threshold)})
    blocking = FlipDecision.objects.filter(
        version=verdict.version_id, against=verdict.against_id, decision=FlipDecision.Decision.BLOCK
    ).count()
    if blocking:
        asked = verdict.report["flips"]["queries"]
        told = {"threshold": 0, "value": blocking, "low": blocking, "high": blocking, "items": asked}
        gates.append({"name": BLOCKED_FLIPS, **told, "verdict": "fail"})
    return gates


def _word(row: Gate, threshold: float) -> str:
    if row["value"] is None or row["items"] < LEAST_ITEMS:
        return "cannot_tell"
    if row["low"] > threshold:
        return "fail"
    return "pass" if row["high"] <= threshold else "cannot_tell"
