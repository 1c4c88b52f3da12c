"""When increments no longer do: labels that left their codes, codewords that crowd, and the rule for what is due.

An increment keeps trunk and stored codes. That is right while new photos look to the trunk as those it learned from
did (`shift_alarm`), while stored codes mean the labels their entries have, and while there is room between codewords.
Method file, section 8.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.shift_alarm import Alarm

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Remedy = Literal["none", "partial", "full"]

_REMEDIES: tuple[Remedy, ...] = ("none", "partial", "full")


@dataclass(frozen=True, slots=True)
class LabelDrift:
    """Stored entries whose label set was changed since their code was made.

    lost: by how much code similarity [-1, 1] between an entry's codeword and that of its present label set is below
    1, mean over all stored entries.
    """

    entries: int
    moved: int
    lost: float

    @property
    def share(self) -> float:
        return self.moved / self.entries


def label_drift(made_as: Ids, now: Ids, entries: Ids, codewords: NDArray[np.int8]) -> LabelDrift:
    """Count by groups of entries, (K,) each: the label set their codes were made for, the one they have now, and how
    many they are. codewords: (U, L) of -1 / +1, which label sets index. Raises ValueError without any entry.
    """
    total = int(entries.sum())
    if total < 1:
        raise ValueError("there are 0 stored entries, expected at least 1")
    signs = codewords.astype(np.float64)
    similarity = (signs[made_as] * signs[now]).mean(axis=1)
    lost = float(entries @ (1 - similarity)) / total
    return LabelDrift(total, int(entries[made_as != now].sum()), lost)


@dataclass(frozen=True, slots=True)
class Crowding:
    """How near codewords of different label sets stand. smallest, mean: Hamming distance over the one that their
    labels ask for, over pairs; 1 means as asked. nearest: the smallest distance itself, in bits.
    """

    smallest: float
    mean: float
    nearest: int


def crowding(codewords: NDArray[np.int8], target: Floats) -> Crowding:
    """Of codewords (U, L) of -1 / +1 and the similarity (U, U) <= 1 their label sets ask for; U >= 2.

    Pairs whose target is 1 ask for no distance and are left out. Raises ValueError when no pair is left.
    """
    count, bits = codewords.shape
    if target.shape != (count, count):
        raise ValueError(f"target is {target.shape}, expected ({count}, {count}) for {count} codewords")
    signs = codewords.astype(np.float64)
    pairs = np.triu_indices(count, 1)
    distance = ((bits - signs @ signs.T) / 2)[pairs]
    asked = (bits * (1 - target) / 2)[pairs]
    apart = asked > 0
    if not apart.any():
        raise ValueError(f"none of the {len(asked)} pairs of label sets asks for a distance")
    shares = distance[apart] / asked[apart]
    return Crowding(float(shares.min()), float(shares.mean()), int(distance[apart].min()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """From where on each remedy is due. Defaults: measured on `grocery` by the lifelong experiment (its tables "When a
    remedy is due" and "From where on moved labels call for new codes"); another catalogue's may differ.

    partial_from, full_from: statistic of an alarm that has fired. full_from stands on one shift alone that called for a
    new trunk. lost_from: `LabelDrift.lost`. crowded_below: `Crowding.smallest`; None, for no value was found: down to
    codes of 8 bits, whose nearest codewords are one, new codes of the same length answered no better.
    """

    partial_from: float = 0.137
    full_from: float = 1.98
    lost_from: float = 0.0142
    crowded_below: float | None = None


@dataclass(frozen=True, slots=True)
class Retrain:
    """partial: refit the heads by an increment that learns the new photos as items of known categories, a new M.m whose
    codes replace none. full: a new trunk and new codes, a new M. reasons: one sentence for each thing measured, those
    that ask for nothing included.
    """

    value: Remedy
    reasons: tuple[str, ...]


def due(*, limits: Limits, shift: Alarm | None, labels: LabelDrift | None, space: Crowding | None) -> Retrain:
    """The strongest remedy that one of the three asks for; None: not measured, asks for nothing.

    Stored codes that no longer fit their labels, or each other, are cured by new codes alone: that is a full one.
    """
    found = [
        *([] if shift is None else [_of_shift(shift, limits)]),
        *([] if labels is None else [_of_labels(labels, limits)]),
        *([] if space is None else [_of_space(space, limits)]),
    ]
    strongest = max((value for value, _ in found), key=_REMEDIES.index, default=_REMEDIES[0])
    return Retrain(strongest, tuple(reason for _, reason in found))


def _of_shift(shift: Alarm, limits: Limits) -> tuple[Remedy, str]:
    seen = (
        f"new photos are displaced by {shift.statistic:.3f} standard deviations from where held-out ones of their "
        f"label sets lie ({shift.photos} photos of {shift.items} items; chance: up to {shift.high:.3f})"
    )
    if not shift.has_fired:
        return "none", f"{seen}: as usual"
    if shift.statistic >= limits.full_from:
        return "full", f"{seen}: from {limits.full_from:g} on a new trunk gives back far more than new heads"
    if shift.statistic >= limits.partial_from:
        return (
            "partial",
            f"{seen}: from {limits.partial_from:g} on it costs quality, of which new heads give back a part",
        )
    return "none", f"{seen}: unusual, but only from {limits.partial_from:g} on it costs quality"


def _of_labels(labels: LabelDrift, limits: Limits) -> tuple[Remedy, str]:
    seen = (
        f"{labels.moved:,} of {labels.entries:,} stored entries have other labels than their codes were made for, "
        f"{labels.lost:.4f} of code similarity is lost (new codes from {limits.lost_from:g} on)"
    )
    return ("full" if labels.lost >= limits.lost_from else "none"), seen


def _of_space(space: Crowding, limits: Limits) -> tuple[Remedy, str]:
    seen = (
        f"two label sets are {space.smallest:.2f} times as far apart as their labels ask for, the nearest two "
        f"{space.nearest} bits"
    )
    if limits.crowded_below is None:
        return "none", f"{seen} (no distance is known below which new codes answer better)"
    asks = space.smallest < limits.crowded_below
    return ("full" if asks else "none"), f"{seen} (new codes below {limits.crowded_below:g})"
