"""Curves of a training as geometry: what a template needs to draw one in SVG, and to say it in words.

The drawing is stretched to the width of the page and its strokes are not, so labels stand outside it, as text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 600, 200
MARGIN = 6  # room for the last dot and for half a stroke
MOST_STEPS = 5
NICE = (1, 2, 5, 10, 20)

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line in a box of `width` x `height`; empty when there is nothing to draw."""

    points: tuple[Point, ...]  # in the box, left to right
    values: tuple[Point, ...]  # (epoch, value) of each point
    y_labels: tuple[str, ...]  # top to bottom, evenly spaced
    rules: tuple[float, ...]  # height of each label's line in the box
    x_labels: tuple[str, str]
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def line(self) -> str:
        """The `points` of an SVG polyline."""
        return " ".join(f"{x:g},{y:g}" for x, y in self.points)


def curve_of(values: Sequence[Point], *, within: Point | None = None) -> Curve:
    """The curve through (x, value) pairs, x rising; values that are not finite are left out.

    The box covers the x from `within` at least: a running training grows into it.
    """
    kept = sorted((x, y) for x, y in values if math.isfinite(x) and math.isfinite(y))
    if not kept:
        return Curve((), (), (), (), ("", ""))
    low, high, step = _scale(min(y for _, y in kept), max(y for _, y in kept))
    first, last = kept[0][0], kept[-1][0]
    left, right = (min(first, within[0]), max(last, within[1])) if within else (first, last)

    def placed(point: Point) -> Point:
        across = (point[0] - left) / (right - left) if right > left else 0.5
        up = (point[1] - low) / (high - low)
        return (
            round(MARGIN + across * (WIDTH - 2 * MARGIN), 2),
            round(HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN), 2),
        )

    ticks = [low + number * step for number in range(round((high - low) / step), -1, -1)]
    return Curve(
        points=tuple(placed(point) for point in kept),
        values=tuple(kept),
        y_labels=tuple(_label(tick, step) for tick in ticks),
        rules=tuple(placed((left, tick))[1] for tick in ticks),
        x_labels=(f"{left:g}", f"{right:g}" if right > left else ""),
    )


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Round bounds around the values and a round step between them, with MOST_STEPS steps at most."""
    if low == high:
        low, high = low - (abs(low) * 0.1 or 0.1), high + (abs(high) * 0.1 or 0.1)
    power = 10.0 ** math.floor(math.log10((high - low) / MOST_STEPS))
    for nice in NICE:
        step = nice * power
        bottom, top = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if top - bottom <= MOST_STEPS:
            break
    return bottom * step, top * step, step


def _label(value: float, step: float) -> str:
    """As many decimals as the step has, and no minus before a zero."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    text = f"{value:,.{decimals}f}"
    return text.removeprefix("-") if abs(value) < step / 2 else text
