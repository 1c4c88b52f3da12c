"""The planted shift: what another camera does to photos, and how often an alarm sees it in a few of them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.shift_alarm import Usual

Pixels = NDArray[np.uint8]  # (N, C, S, S)
Light = NDArray[np.float32]
Values = NDArray[np.float64]
Ids = NDArray[np.int64]
Kind = Literal["darker", "bluish", "blur", "grey", "noise"]

KINDS: tuple[Kind, ...] = ("darker", "bluish", "blur", "grey", "noise")
BATCH_PHOTOS, BATCHES = 32, 100  # small batches, to see how often an alarm fires
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


def _changed(light: Light, kind: Kind, strength: float, rng: np.random.Generator) -> Light:
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


def _blurred(light: Light, sigma: float) -> Light:
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


def fire_rate(values: Values, sets: Sequence[LabelSet], items: Ids, usual: Usual) -> float:
    """Share of BATCHES random batches of BATCH_PHOTOS photos on which the alarm fires: its power, or for photos as
    they are its false alarms. values (N, K), label sets and items (N,). Raises ValueError for fewer photos.
    """
    if len(items) < BATCH_PHOTOS:
        raise ValueError(f"there are {len(items)} photos, a batch has {BATCH_PHOTOS}")
    rng = np.random.default_rng(0)
    fired = 0
    for _ in range(BATCHES):
        chosen = rng.choice(len(items), BATCH_PHOTOS, replace=False)
        fired += usual.alarm(values[chosen], [sets[row] for row in chosen], items[chosen]).has_fired
    return fired / BATCHES
