"""Do people ask with other photos than they did? Kept as sums of at least LEAST photos; no single one is written.

Each process adds up the embeddings of the photos it was asked with, and now and then adds its sum to the row of the
hour (models.QuerySum). Compared are the first REFERENCE_HOURS hours of a version, and its last week: the cosine
distance of the two mean embeddings, with a bootstrap interval over hours, beside what the same hours give when they are
shuffled between both. Whether new photos of the gallery differ is looked at by services.drift_watch.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from django.db import transaction
from django.utils import timezone
from numpy.typing import NDArray

from searchapp.models import ModelVersion, QuerySum

LEAST = 50  # photos in a sum before it may leave the process
REFERENCE_HOURS = 24 * 7
RECENT = timedelta(days=7)
LEAST_HOURS = 6  # of each period
DRAWS, SEED, LEVEL = 400, 0, 0.01

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class QueryDrift:
    """The cosine distance of recent photos from those at the beginning, and how often as much would come by chance."""

    version: str
    photos_then: int
    photos_now: int
    distance: float
    low: float
    high: float
    p_value: float
    best_then: float  # mean score of the best match
    best_now: float

    @property
    def has_drifted(self) -> bool:
        return self.p_value <= LEVEL

    @property
    def words(self) -> str:
        measured = (
            f"cosine distance {self.distance:.3f} ({self.low:.3f} to {self.high:.3f}), {self.photos_now:,} photos of "
            f"the last week beside the first {self.photos_then:,}; the best match scores {self.best_now:.2f} on "
            f"average, {self.best_then:.2f} then"
        )
        if self.has_drifted:
            return f"People ask with other photos than when {self.version} came into use: {measured}."
        return f"People ask with photos like those when {self.version} came into use: {measured}."


@dataclass(slots=True)
class _Sum:
    count: int
    total: Vector
    best: float


class _Sums:
    def __init__(self) -> None:
        self.by_version: dict[str, _Sum] = {}
        self.lock = threading.Lock()


_sums = _Sums()


def photo_note(version: str, embedding: NDArray[np.float32], best: float) -> None:
    """Add one asked photo to this process's sum. Touches no database."""
    with _sums.lock:
        found = _sums.by_version.setdefault(version, _Sum(0, np.zeros(len(embedding)), 0.0))
        found.count += 1
        found.total += embedding
        found.best += best


def sums_write() -> int:
    """Add every sum of LEAST photos or more to the row of this hour; returns of how many photos. The query log calls
    it; a sum that the database does not take is lost."""
    with _sums.lock:
        ready = {name: found for name, found in _sums.by_version.items() if found.count >= LEAST}
        for name in ready:
            del _sums.by_version[name]
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    for name, found in ready.items():
        _added(name, hour, found)
    return sum(found.count for found in ready.values())


def forget() -> None:
    """Drop what was summed and not written."""
    with _sums.lock:
        _sums.by_version.clear()


def drift_of(version: ModelVersion) -> QueryDrift | None:
    """None while there are too few photos to compare: of either period fewer than LEAST_HOURS hours."""
    rows = QuerySum.objects.filter(version=version.name).order_by("hour")
    since = timezone.now() - RECENT
    then = list(rows.filter(hour__lt=since)[:REFERENCE_HOURS])
    now = list(rows.filter(hour__gte=since))
    if min(len(then), len(now)) < LEAST_HOURS:
        return None
    return _compared(version.name, then, now)


def _compared(version: str, then: Sequence[QuerySum], now: Sequence[QuerySum]) -> QueryDrift:
    rows = [*then, *now]
    totals = np.array([row.total for row in rows], np.float64)
    first = len(then)
    distance = _distance(totals[:first], totals[first:])
    rng = np.random.default_rng(SEED)
    drawn, shuffled = np.empty(DRAWS), np.empty(DRAWS)
    for draw in range(DRAWS):
        ours = totals[rng.integers(0, first, first)]
        theirs = totals[first + rng.integers(0, len(now), len(now))]
        drawn[draw] = _distance(ours, theirs)
        order = rng.permutation(len(rows))
        shuffled[draw] = _distance(totals[order[:first]], totals[order[first:]])
    low, high = np.quantile(drawn, [0.025, 0.975])
    photos_then, photos_now = (sum(row.count for row in part) for part in (then, now))
    return QueryDrift(
        version=version,
        photos_then=photos_then,
        photos_now=photos_now,
        distance=distance,
        low=float(low),
        high=float(high),
        p_value=float((1 + (shuffled >= distance).sum()) / (1 + DRAWS)),
        best_then=sum(row.best for row in then) / photos_then,
        best_now=sum(row.best for row in now) / photos_now,
    )


def _distance(then: Vector, now: Vector) -> float:
    """Of the two sums over rows (H, D): a mean points where its sum does."""
    ours, theirs = then.sum(axis=0), now.sum(axis=0)
    length = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return 1.0 - float(ours @ theirs) / length if length else 0.0


@transaction.atomic
def _added(version: str, hour: datetime, found: _Sum) -> None:
    empty = {"count": 0, "total": [0.0] * len(found.total), "best": 0.0}
    QuerySum.objects.get_or_create(version=version, hour=hour, defaults=empty)
    row = QuerySum.objects.select_for_update().get(version=version, hour=hour)
    row.count += found.count
    row.total = [round(value, 6) for value in (np.array(row.total) + found.total).tolist()]
    row.best += found.best
    row.save()


def _after_fork() -> None:
    """The parent writes what it summed."""
    global _sums  # noqa: PLW0603
    _sums = _Sums()


os.register_at_fork(after_in_child=_after_fork)
