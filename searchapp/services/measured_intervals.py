"""Values of held-out queries as they are stored: a mean or a difference of two, with its 95 % interval over items."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.intervals import Interval, clustered_interval, paired_interval
from ml.evaluation.two_stage import METRICS
from searchapp.services.held_out_answers import Values

SEED = 0
DIGITS = 6
ENDS = {"": "value", "_low": "low", "_high": "high"}

Items = NDArray[np.int64]  # (Q,): photos of one item are not independent


def metrics_row(values: Values, items: Items) -> dict[str, Any]:
    """n, and each of METRICS with `_low` and `_high`; without a value n alone."""
    found: dict[str, Any] = {"n": int((~np.isnan(values["map"])).sum())}
    for name in METRICS if found["n"] else ():
        told = interval_row(clustered_interval(values[name], items, seed=SEED))
        found |= {f"{name}{end}": told[part] for end, part in ENDS.items()}
    return found


def difference_of(own: NDArray[np.float64], other: NDArray[np.float64], items: Items) -> Interval | None:
    """The mean of own - other, of queries that have both; None when none has."""
    if np.isnan(own - other).all():
        return None
    return paired_interval(own, other, items, seed=SEED)


def change_row(own: Values, other: Values, items: Items) -> dict[str, Any] | None:
    """By metric {value, low, high} of own - other, on the same queries."""
    found = {name: difference_of(own[name], other[name], items) for name in METRICS}
    changes = {name: interval_row(interval) for name, interval in found.items() if interval is not None}
    return changes or None


def interval_row(interval: Interval) -> dict[str, float]:
    return {name: round(getattr(interval, name), DIGITS) for name in ("value", "low", "high")}


def turned(interval: Interval | None) -> Interval | None:
    """The loss where the interval is a gain, and the other way."""
    if interval is None:
        return None
    return Interval(-interval.value, -interval.high, -interval.low, interval.clusters)
