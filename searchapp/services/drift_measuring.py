"""The job that looks whether small updates still do: it reads features and counts, and writes nothing but its result.

Photos that came later are held against held-out ones of the same categories, by what the trunk saw in them; the
categories of stored codes against those the codes were first counted under. The limits from which that calls for a
candidate are those of ml.methods.lifelong.drift.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.drift import Limits, due
from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.memory import fitted_gaussians
from ml.methods.lifelong.shift_alarm import Alarm, own_residuals, usual
from searchapp.models import ModelVersion
from searchapp.services import versions
from searchapp.services.code_drift import codes_crowded, labels_moved
from searchapp.services.drift_photos import (
    Cuts,
    Photo,
    cuts_as_rows,
    cuts_from,
    cuts_now,
    having,
    held_out_photos,
    new_photos,
    usual_photos,
)
from searchapp.services.drift_watch import result_of
from searchapp.services.gallery_views import counter_value
from searchapp.services.jobs import JobRun
from searchapp.services.photo_features import Feature, features_ensure

LEAST_NEW = 32  # photos; the smallest batch whose alarms were measured (ml.experiments.lifelong.shifts)

Heard = Callable[[str], None]
Features = Mapping[str, Feature]


@dataclass(frozen=True, slots=True)
class Shift:
    """alarm: None when nobody can tell yet, and `untold` says why."""

    alarm: Alarm | None
    held_out: int
    untold: str = ""

    def as_row(self) -> dict[str, Any] | None:
        if self.alarm is None:
            return None
        return {**asdict(self.alarm), "has_fired": self.alarm.has_fired, "held_out": self.held_out}


def watch_run(run: JobRun) -> dict[str, Any]:
    """Handler of "watch_drift"; what it returns is described in services.drift_watch."""
    started = time.monotonic()
    version = versions.default_version_ensure()
    gallery = counter_value()
    cuts = cuts_now(version, cuts_from(result_of(version).get("usual", [])))
    shift = shift_of(version, cuts, heard=lambda message: run.progress(0, 1, message))
    run.progress(0, 1, "comparing labels with codes")
    labels, space = labels_moved(version.lineage), codes_crowded(version)
    parts: dict[str, Any] = {"shift": shift.alarm, "labels": labels, "space": space and space.crowding}
    whole = due(limits=Limits(), **parts)
    return {
        "version": version.name,
        "lineage": str(version.lineage),
        "gallery": gallery,
        "shift": shift.as_row(),
        "shift_untold": shift.untold,
        "labels": None if labels is None else asdict(labels),
        "space": None if space is None else {**asdict(space.crowding), "categories": space.categories},
        "limits": asdict(Limits()),
        "remedy": whole.value,
        "due": [name for name in parts if _asks(parts, name)],
        "reasons": list(whole.reasons),
        "usual": cuts_as_rows(cuts),
        "seconds": round(time.monotonic() - started, 3),
    }


def _asks(parts: Mapping[str, Any], name: str) -> bool:
    """Whether this part alone calls for something."""
    alone: dict[str, Any] = {**dict.fromkeys(parts), name: parts[name]}
    return due(limits=Limits(), **alone).value != "none"


def shift_of(version: ModelVersion, cuts: Cuts, *, heard: Heard = lambda _message: None) -> Shift:
    """Whether the newest photos look to the trunk as held-out ones of their categories do."""
    new, held = new_photos(cuts), held_out_photos(cuts)
    if len(new) < LEAST_NEW:
        return _too_few(new, held)
    remembered = usual_photos(cuts, {photo.category for photo in (*new, *held)})

    def reading(done: int, total: int) -> None:
        heard(f"reading photo {done + 1:,} of {total:,}")

    pictures = [(photo.image_sha256, photo.path) for photo in (*remembered, *held, *new)]
    features = features_ensure(version, pictures, heard=reading)
    remembered = having(remembered, features, cuts)
    known = {photo.category for photo in remembered}
    return _judged(remembered, having(held, features, known), having(new, features, known), features)


def _judged(
    remembered: Sequence[Photo], held: Sequence[Photo], new: Sequence[Photo], features: Features
) -> Shift:
    """By the means of the remembered photos; the others are of their categories."""
    if len(new) < LEAST_NEW:
        return _too_few(new, held)
    memory = fitted_gaussians(
        _stacked(remembered, features), _sets(remembered), per_set=1, from_items=1, seed=0
    )
    try:
        residuals = own_residuals(_stacked(held, features), _sets(held), memory)
        before = usual(residuals, _sets(held), _items(held))
    except ValueError as error:  # held-out photos of too few items
        return Shift(None, len(held), str(error))
    residuals = own_residuals(_stacked(new, features), _sets(new), memory)
    return Shift(before.alarm(residuals, _sets(new), _items(new)), len(held))


def _too_few(new: Sequence[Photo], held: Sequence[Photo]) -> Shift:
    return Shift(None, len(held), f"not enough new photos to tell ({len(new)} of {LEAST_NEW} needed)")


def _stacked(photos: Sequence[Photo], features: Features) -> NDArray[np.float32]:
    """(N, F)"""
    size = next(iter(features.values())).size
    return np.array([features[photo.image_sha256] for photo in photos], np.float32).reshape(-1, size)


def _sets(photos: Sequence[Photo]) -> list[LabelSet]:
    return [(photo.category,) for photo in photos]


def _items(photos: Sequence[Photo]) -> NDArray[np.int64]:
    return np.array([photo.item for photo in photos], np.int64)
