"""The planted shift: what another camera does to an alarm's statistic and to answers, and from where on each remedy
is due. Knows neither how features are made nor how heads are trained: both are asked for as functions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.intervals import Interval, paired_interval
from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.memory import ClassMemory
from ml.methods.lifelong.shift_alarm import Alarm, Usual, own_residuals

Pixels = NDArray[np.uint8]  # (N, C, S, S)
Features = NDArray[np.float32]  # (N, F)
Values = NDArray[np.float64]
Ids = NDArray[np.int64]
Kind = Literal["darker", "bluish", "blur", "grey", "noise"]

KINDS: tuple[Kind, ...] = ("darker", "bluish", "blur", "grey", "noise")
STRENGTHS = (0.0, 0.15, 0.3, 0.6, 1.0)
BATCH_ITEMS, BATCHES = 32, 100  # small batches, to see how often an alarm fires
LOSS_LIMIT = 0.01  # of mean average precision: what is worth a remedy
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_COLOURED: tuple[Kind, ...] = ("bluish", "grey")
_CHUNK = 512


def shifted(pixels: Pixels, kind: Kind, strength: float, *, seed: int = 0) -> Pixels:
    """Photos (N, C, S, S) as another camera would take them, C of 1 or 3; strength in [0, 1], 0 changes no byte.

    At full strength: darker leaves 15 % of the light; bluish takes 60 % of red and 25 % of green; blur is Gaussian
    with sigma S / 16 pixels; grey has no colour left; noise has a standard deviation of 64 of 255, drawn by `seed`.
    Raises ValueError for another kind or strength, and for a change of colour where there is none.
    """
    if kind not in KINDS or not 0 <= strength <= 1:
        raise ValueError(f"shift is {kind!r} by {strength}, expected one of {', '.join(KINDS)} by 0 to 1")
    if kind in _COLOURED and pixels.shape[1] != 3:
        raise ValueError(f"pixels have {pixels.shape[1]} channels, a {kind} shift needs 3")
    if strength == 0:
        return pixels.copy()
    rng = np.random.default_rng(seed)
    changed = np.empty_like(pixels)
    for start in range(0, len(pixels), _CHUNK):
        light = _changed(pixels[start : start + _CHUNK].astype(np.float32), kind, strength, rng)
        changed[start : start + _CHUNK] = np.clip(np.rint(light), 0, 255)
    return changed


def kinds_for(pixels: Pixels) -> tuple[Kind, ...]:
    """The shifts that pictures (N, C, S, S) can show: grey ones have no colour to lose."""
    return tuple(kind for kind in KINDS if pixels.shape[1] == 3 or kind not in _COLOURED)


def _changed(light: Features, kind: Kind, strength: float, rng: np.random.Generator) -> Features:
    match kind:
        case "darker":
            found = light * (1 - 0.85 * strength)
        case "bluish":
            kept = 1 - strength * np.array([0.6, 0.25, 0.0], np.float32)
            found = light * kept[:, None, None]
        case "blur":
            found = _blurred(light, strength * light.shape[-1] / 16)
        case "grey":
            luma = np.einsum("ncij,c->nij", light, _LUMA)[:, None]
            found = light + strength * (luma - light)
        case "noise":
            found = light + 64 * strength * rng.standard_normal(light.shape, dtype=np.float32)
    return np.asarray(found, np.float32)


def _blurred(light: Features, sigma: float) -> Features:
    """Gaussian of `sigma` pixels along both sides, edges repeated."""
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * np.square(np.arange(-radius, radius + 1) / sigma))
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (2, 3):
        padding = [(radius, radius) if side == axis else (0, 0) for side in range(4)]
        padded = np.pad(light, padding, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis=axis)
        light = windows @ weights
    return light


class Queries(NamedTuple):
    """Photos (Q, C, S, S), their label sets and the item (Q,) each shows; none of them may have set the alarm."""

    pixels: Pixels
    sets: Sequence[LabelSet]
    items: Ids


@dataclass(frozen=True, slots=True)
class ShiftRow:
    """One planted shift. alarm: on all photos; fire_rate: share of small batches of them on which it fires.

    precision (Q,): average precision of each shifted query when nothing is done; loss: interval of what it loses to
    the same queries as they are.
    """

    kind: Kind
    strength: float
    alarm: Alarm
    fire_rate: float
    precision: Values
    loss: Interval

    def as_row(self) -> dict[str, Any]:
        """Plain values for a run's row."""
        return {
            "kind": self.kind,
            "strength": self.strength,
            "statistic": self.alarm.statistic,
            "usual_high": self.alarm.high,
            "has_fired": int(self.alarm.has_fired),
            "fire_rate": self.fire_rate,
            "map_no_action": float(np.nanmean(self.precision)),
            "loss_no_action": self.loss.value,
            "loss_no_action_low": self.loss.low,
            "loss_no_action_high": self.loss.high,
        }


def shift_rows(
    queries: Queries,
    *,
    encode: Callable[[Pixels], Features],
    precision: Callable[[Features], Values],
    memory: ClassMemory,
    usual: Usual,
    kinds: Sequence[Kind] = KINDS,
    strengths: Sequence[float] = STRENGTHS,
) -> list[ShiftRow]:
    """A row for each kind and strength.

    encode: pixels -> features. precision: features of all Q queries -> average precision (Q,) of their codes against
    the stored ones, NaN where nothing is relevant. memory: of what was learned; usual: of held-out photos.
    """
    plain = precision(encode(queries.pixels))
    rows = []
    for kind in kinds:
        for strength in strengths:
            features = encode(shifted(queries.pixels, kind, strength))
            residuals = own_residuals(features, queries.sets, memory)
            found = precision(features)
            rows.append(
                ShiftRow(
                    kind=kind,
                    strength=strength,
                    alarm=usual.alarm(residuals, queries.sets, queries.items),
                    fire_rate=fire_rate(residuals, queries, usual),
                    precision=found,
                    loss=paired_interval(plain, found, queries.items, seed=0),
                )
            )
    return rows


def fire_rate(residuals: Values, queries: Queries, usual: Usual) -> float:
    """Share of BATCHES random batches of BATCH_ITEMS items on which the alarm fires: its power, or for photos as they
    are its false alarms. residuals (Q, F). Raises ValueError when queries show fewer items.
    """
    names = np.unique(queries.items)
    if len(names) < BATCH_ITEMS:
        raise ValueError(f"there are photos of {len(names)} items, a batch has {BATCH_ITEMS}")
    rng = np.random.default_rng(0)
    fired = 0
    for _ in range(BATCHES):
        chosen = np.flatnonzero(np.isin(queries.items, rng.choice(names, BATCH_ITEMS, replace=False)))
        sets = [queries.sets[row] for row in chosen.tolist()]
        fired += usual.alarm(residuals[chosen], sets, queries.items[chosen]).has_fired
    return fired / BATCHES


class Remedied(NamedTuple):
    """What a shift of this statistic costs in mean average precision: with no action (and the lower bound of its
    interval), after refitting the heads, after a new trunk.
    """

    statistic: float
    loss: float
    loss_low: float
    partial_loss: float
    full_loss: float


class Cut(NamedTuple):
    """A threshold: statistic >= `value` calls for the remedy. None: no row called for it. wrong: rows of `rows` that
    it judges otherwise than their own losses do.
    """

    value: float | None
    wrong: int
    rows: int


class Cuts(NamedTuple):
    """partial: no action loses more than LOSS_LIMIT, by its lower bound. full: the partial remedy gives back less
    than half of what the full one does, and the difference is more than LOSS_LIMIT.
    """

    partial: Cut
    full: Cut


def cuts(rows: Sequence[Remedied]) -> Cuts:
    """Where statistics part the shifts that call for a remedy from those that do not."""
    statistics = np.array([row.statistic for row in rows])
    costs = np.array([row.loss_low > LOSS_LIMIT for row in rows], np.bool_)
    needs_trunk = np.array(
        [
            row.loss - row.partial_loss < (row.loss - row.full_loss) / 2
            and row.partial_loss - row.full_loss > LOSS_LIMIT
            for row in rows
        ],
        np.bool_,
    )
    return Cuts(_cut(statistics, costs), _cut(statistics, needs_trunk & costs))


def _cut(statistics: Values, calls: NDArray[np.bool_]) -> Cut:
    """The threshold with the fewest wrong rows, the smallest of equally good ones."""
    if not calls.any():
        return Cut(None, 0, len(calls))
    candidates = np.unique(statistics[calls])
    wrong = [int(((statistics >= candidate) != calls).sum()) for candidate in candidates]
    best = int(np.argmin(wrong))
    return Cut(float(candidates[best]), wrong[best], len(calls))
