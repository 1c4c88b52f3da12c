"""What a version must not be worse in, and the rule by which that is said.

A gate fails when the interval of the loss lies above its limit, passes when it lies at or below it, and otherwise
nobody can tell; nor can they with held-out photos of fewer than LEAST_ITEMS items. Limits are the operators'
(services.operator_settings): what was measured stays, and is judged by the limits of now.
"""

from collections.abc import Sequence
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
# An item that no draw has shown may lose so much; then a loss of nothing passes a limit of 0.01 from 59 items on.
UNSEEN_LOSS = 0.2


def gate_row(name: str, threshold: float, loss: Interval | None, **more: Any) -> Gate:
    """A gate as it is stored; without a loss (there was nothing to measure) nobody can tell."""
    found: Gate = {"name": name, "threshold": threshold, "value": None, "low": None, "high": None, "items": 0}
    if loss is not None:
        found |= {**interval_row(loss), "items": loss.clusters}
    return {**found, "verdict": _word(found, threshold), **more}


def gates_now(verdict: Verdict) -> list[Gate]:
    """The gates of a stored verdict by today's limits, and answers that turned wrong in it though an operator said they
    must not."""
    gates = gates_by_limits(verdict.report["gates"])
    decisions = FlipDecision.objects.filter(
        version=verdict.version_id, against=verdict.against_id, decision=FlipDecision.Decision.BLOCK
    )
    blocking = len(turned_wrong(verdict).intersection(decisions.values_list("image_sha256", flat=True)))
    if blocking:
        asked = verdict.report["flips"]["queries"]
        told = {"threshold": 0, "value": blocking, "low": blocking, "high": blocking, "items": asked}
        gates.append({"name": BLOCKED_FLIPS, **told, "verdict": "fail"})
    return gates


def allowing_for_unseen(loss: Interval | None) -> Interval | None:
    """A mean loss with its upper bound raised by what rare items may lose that none of these happened to be.

    The share of such items is the largest that leaves a chance of 5 % to see none. Where 5 % of items lose 0.6 each, a
    gate of 0.01 passes wrongly in 57 % of draws of 10 items and 24 % of 30 without this, with it in none below 59
    items and in 4 % of draws of 60.
    """
    if loss is None:
        return None
    unseen = 1 - 0.05 ** (1 / loss.clusters)
    return Interval(loss.value, loss.low, loss.high + UNSEEN_LOSS * unseen, loss.clusters)


def gates_by_limits(gates: Sequence[Gate]) -> list[Gate]:
    """As they were measured, by the limits of now."""
    limits = setting_values()
    found = []
    for row in gates:
        threshold = float(limits[f"gate.{row['name']}"])
        found.append({**row, "threshold": threshold, "verdict": _word(row, threshold)})
    return found


def turned_wrong(verdict: Verdict) -> set[str]:
    """The queries of its negative flips, by SHA-256; an older verdict names its examples alone."""
    flips = verdict.report["flips"]
    if "negative_queries" in flips:
        return set(flips["negative_queries"])
    return {example["query"] for example in flips["examples"]["negative"]}


def _word(row: Gate, threshold: float) -> str:
    if row["value"] is None or row.get("items", LEAST_ITEMS) < LEAST_ITEMS:
        return "cannot_tell"
    if row["low"] > threshold:
        return "fail"
    return "pass" if row["high"] <= threshold else "cannot_tell"
