"""Whether an increment may go live, by evidence: its old codes, its weights, old queries and new categories.

A gate on a measured difference has a 95 % interval, bootstrapped over items. It fails when the whole interval is
beyond the limit, passes when none of it is, and otherwise nobody can tell: that lets an increment publish, which
changes no stored code and can be taken back, and would hold up a promotion. What the measurement would have caught
is said beside it, for a gate that cannot fail proves nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.intervals import Interval, paired_interval

Values = NDArray[np.float64]
Ids = NDArray[np.int64]
Verdict = Literal["pass", "fail", "cannot_tell"]

OLD_CODES, WEIGHTS = "old_codes_changed", "weights_not_finite"
OLD_QUERIES, NEW_CATEGORIES = "old_query_map_loss", "new_class_gain"
MAP_LOSS_LIMIT = 0.01
# Drawing from fewer items again and again shows far too narrow an interval: of one item, none at all.
LEAST_ITEMS = 10
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GateInput:
    """One version as the gates need it; both versions answer the same queries in the same order.

    old_codes: SHA-256 of the stored codes of categories known before the increment, old_entries: how many those
    are. old_precision (Q,): average precision of each held-out query of those categories. new_precision (P,): of
    each held-out query of the new categories, in the fused two-stage answer. NaN: nothing relevant is stored.
    """

    old_codes: str
    old_entries: int
    old_precision: Values
    new_precision: Values


@dataclass(frozen=True, slots=True)
class Gate:
    """What one gate saw. value, low, high: None where nothing could be measured or there is no interval.

    items: how many independent ones stand behind it. seen_from: the smallest change at which the gate would have
    failed, had the values spread as they did; None where no interval says so.
    """

    name: str
    threshold: float
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    items: int
    note: str
    seen_from: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, rounded to six digits."""
        found = asdict(self)
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in found.items()}


def increment_gates(
    before: GateInput,
    after: GateInput,
    *,
    old_items: Ids,
    new_items: Ids,
    weights: Mapping[str, NDArray[Any]],
    map_loss_limit: float = MAP_LOSS_LIMIT,
) -> list[Gate]:
    """All gates of an increment, in the order they are named above.

    before, after: the parent and the increment. old_items (Q,), new_items (P,): the item each query shows.
    weights: every array of the increment's bundle by name. The same input gives the same gates. Raises ValueError
    when queries and items are not equally many.
    """
    return [
        old_codes_gate(before, after),
        weights_gate(weights),
        loss_gate(_paired(before.old_precision, after.old_precision, old_items), limit=map_loss_limit),
        gain_gate(_paired(after.new_precision, before.new_precision, new_items)),
    ]


def may_publish(gates: Sequence[Gate]) -> bool:
    """Whether no gate fails. Raises ValueError without any gate: nothing was looked at."""
    if not gates:
        raise ValueError("there are no gates, expected those of increment_gates")
    return all(gate.verdict != "fail" for gate in gates)


def old_codes_gate(before: GateInput, after: GateInput) -> Gate:
    """Passes only when digest and count are those of before."""
    same = (before.old_codes, before.old_entries) == (after.old_codes, after.old_entries)
    if same:
        note = f"{before.old_entries:,} old codes checked, 0 changed"
    else:
        note = (
            f"the digest of {before.old_entries:,} old codes was {before.old_codes}, "
            f"that of {after.old_entries:,} now is {after.old_codes}"
        )
    return Gate(
        OLD_CODES, 0.0, None, None, None, "pass" if same else "fail", before.old_entries, note
    )  # value is None: a digest does not say how many


def weights_gate(weights: Mapping[str, NDArray[Any]]) -> Gate:
    """Passes only when every weight is a finite number; value is how many are not."""
    wrong = {name: int((~np.isfinite(array)).sum()) for name, array in weights.items()}
    wrong = {name: count for name, count in wrong.items() if count}
    total = sum(wrong.values())
    count = sum(array.size for array in weights.values())
    where = f" (in {', '.join(sorted(wrong))})" if wrong else ""
    note = f"{total:,} of {count:,} weights are not finite{where}"
    return Gate(WEIGHTS, 0.0, float(total), None, None, "fail" if wrong else "pass", count, note)


def loss_gate(loss: Interval | None, *, name: str = OLD_QUERIES, limit: float = MAP_LOSS_LIMIT) -> Gate:
    """Of before - after, positive when the increment is the worse one: fails when low > limit, passes when
    high <= limit. None: no query has a value in both.
    """
    if loss is None or loss.clusters < LEAST_ITEMS:
        return _untold(name, limit, loss, "old")
    verdict: Verdict = "fail" if loss.low > limit else "pass" if loss.high <= limit else "cannot_tell"
    seen_from = limit + loss.value - loss.low
    note = (
        f"old queries lose {loss.value:.4f} of mean average precision ({loss.low:.4f} to {loss.high:.4f}, at most "
        f"{limit:g} allowed); a loss of more than {seen_from:.4f} would have been seen"
    )
    return Gate(name, limit, loss.value, loss.low, loss.high, verdict, loss.clusters, note, seen_from)


def gain_gate(gain: Interval | None, *, name: str = NEW_CATEGORIES) -> Gate:
    """Of after - before, positive when the increment is the better one: fails when high < 0, passes when low > 0."""
    if gain is None or gain.clusters < LEAST_ITEMS:
        return _untold(name, 0.0, gain, "new")
    verdict: Verdict = "fail" if gain.high < 0 else "pass" if gain.low > 0 else "cannot_tell"
    seen_from = gain.value - gain.high
    note = (
        f"queries of new categories gain {gain.value:.4f} of mean average precision ({gain.low:.4f} to "
        f"{gain.high:.4f}); a fall of more than {-seen_from:.4f} would have been seen"
    )
    return Gate(name, 0.0, gain.value, gain.low, gain.high, verdict, gain.clusters, note, seen_from)


def _untold(name: str, threshold: float, found: Interval | None, which: str) -> Gate:
    if found is None:
        note = f"no held-out photo of {which} categories has anything to be found"
        return Gate(name, threshold, None, None, None, "cannot_tell", 0, note)
    note = f"held-out photos show {found.clusters} items of {which} categories, at least {LEAST_ITEMS} are needed"
    return Gate(name, threshold, found.value, found.low, found.high, "cannot_tell", found.clusters, note)


def _paired(values: Values, baseline: Values, items: Ids) -> Interval | None:
    """Interval of mean(values - baseline); None when no query has both."""
    if not len(values) == len(baseline) == len(items):
        raise ValueError(
            f"{len(baseline)} and {len(values)} values of {len(items)} queries, expected one each"
        )
    if np.isnan(values - baseline).all():
        return None
    return paired_interval(values, baseline, items, seed=SEED)
