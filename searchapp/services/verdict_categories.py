"""How each category fares under a new version, and the one that fares worst.

Many categories are looked at, so each one's interval is so wide that with 95 % confidence all of them hold at once
(Bonferroni). It is over items; of a category that is one single item over its photos, so it says what holds of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.intervals import Interval, student_interval
from searchapp.models import Category
from searchapp.services.held_out import HeldOut
from searchapp.services.measured_intervals import DIGITS

LEAST_QUERIES = 5
CONFIDENCE = 0.95


class CategoryChange(NamedTuple):
    """Mean average precision of one category's queries, before and after; loss: before minus after, with its interval
    where there are queries enough."""

    category_id: int
    queries: int
    before: float
    after: float
    loss: Interval | None


def category_changes(
    queries: Sequence[HeldOut], before: NDArray[np.float64], after: NDArray[np.float64]
) -> list[CategoryChange]:
    """Of every category with a query that has both values (Q,), largest loss first."""
    losses = before - after
    answered = ~np.isnan(losses)
    category_ids = np.array([query.category_id for query in queries], np.int64)
    clusters = np.array([query.cluster for query in queries], np.int64)
    present, counts = np.unique(category_ids[answered], return_counts=True)
    level = confidence_each(int((counts >= LEAST_QUERIES).sum()))
    found = []
    for category, count in zip(present.tolist(), counts.tolist()):
        rows = np.flatnonzero(answered & (category_ids == category))
        loss = _loss(losses[rows], clusters[rows], level) if count >= LEAST_QUERIES else None
        means = float(before[rows].mean()), float(after[rows].mean())
        found.append(CategoryChange(category, count, *means, loss))
    return sorted(found, key=lambda one: (one.after - one.before, one.category_id))


def confidence_each(categories: int) -> float:
    """Of one interval among so many that are to hold together."""
    return 1 - (1 - CONFIDENCE) / max(1, categories)


def worst_loss(changes: Sequence[CategoryChange]) -> Interval | None:
    """The largest loss of a category with queries enough; None without one.

    The bounds are the largest of all bounds: as all intervals hold at once, so does this one of the largest loss.
    """
    losses = [change.loss for change in changes if change.loss is not None]
    if not losses:
        return None
    return Interval(
        max(loss.value for loss in losses),
        max(loss.low for loss in losses),
        max(loss.high for loss in losses),
        sum(loss.clusters for loss in losses),
    )


def category_rows(changes: Sequence[CategoryChange]) -> list[dict[str, Any]]:
    """As they are told, the change being positive where the new version is better."""
    known = {
        row.pk: row for row in Category.objects.filter(pk__in=[change.category_id for change in changes])
    }
    rows = []
    for change in changes:
        category, loss = known[change.category_id], change.loss
        rows.append(
            {
                "slug": category.slug,
                "path": category.path,
                "n": change.queries,
                "before": round(change.before, DIGITS),
                "after": round(change.after, DIGITS),
                "change": round(change.after - change.before, DIGITS),
                "low": None if loss is None else round(-loss.high, DIGITS),
                "high": None if loss is None else round(-loss.low, DIGITS),
            }
        )
    return rows


def _loss(losses: NDArray[np.float64], clusters: NDArray[np.int64], confidence: float) -> Interval:
    is_one_item = len(np.unique(clusters)) == 1
    found = student_interval(
        losses, np.arange(len(losses)) if is_one_item else clusters, confidence=confidence
    )
    return Interval(found.value, max(-1.0, found.low), min(1.0, found.high), len(np.unique(clusters)))
