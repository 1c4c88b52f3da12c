"""A heat map drawn to lie over a photo: a veil that is clear where the match is, and a line around that place.

Light and line say the same, so nothing hangs on telling colours apart. Both are small and stretch to any photo.
"""

import base64
import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from searchapp.services.explanations import LIT

# Points a side of the smooth map; a browser smooths what it stretches, so more would not be seen.
SIDE = 64
PREFIX = "data:image/png;base64,"
# Heat, red, green, blue, opacity: night over what did not matter, clear at the line, a breath of amber at the peak.
_SHADES = np.array([
    [0.0, 10, 16, 20, 178],
    [0.25, 10, 16, 20, 150],
    [0.5, 20, 20, 18, 56],
    [0.65, 255, 190, 70, 18],
    [1.0, 255, 176, 40, 84],
])  # fmt: skip

Grid = NDArray[np.float64]


def veil_url(heat: Grid) -> str:
    """(rows, columns) in [0, 1] to a `data:` address of a SIDE x SIDE PNG with transparency."""
    values = smooth(heat)
    layers = [np.interp(values, _SHADES[:, 0], _SHADES[:, channel]) for channel in range(1, 5)]
    veil = Image.fromarray(np.rint(np.stack(layers, axis=-1)).astype(np.uint8))
    buffer = io.BytesIO()
    veil.save(buffer, "PNG")
    return PREFIX + base64.b64encode(buffer.getvalue()).decode("ascii")


def legend_url() -> str:
    """The shades from none to most as a strip, for the words beside it."""
    return veil_url(np.linspace(0, 1, SIDE)[None].repeat(2, axis=0))


def outline_path(heat: Grid, *, at: float = LIT) -> str:
    """The line around all that is at least `at`, as an SVG path in a 0-100 square; "" when nothing is."""
    values = np.pad(smooth(heat), 1, mode="constant")  # so that the line closes at the edge of the photo
    places = np.clip((np.arange(SIDE + 2) - 0.5) / SIDE * 100, 0, 100)
    pieces = []
    for row, column in _crossed(values >= at):
        ends = list(_crossings(values[row : row + 2, column : column + 2] - at))
        for (y1, x1), (y2, x2) in zip(ends[::2], ends[1::2]):
            start, end = _at(places, row + y1, column + x1), _at(places, row + y2, column + x2)
            pieces.append(f"M{start}L{end}")
    return "".join(pieces)


def smooth(heat: Grid) -> Grid:
    """The map at SIDE x SIDE points in [0, 1], each cell first mixed with its neighbours: one at the edge was covered
    by few patches and stands out by chance."""
    rows = np.pad(heat, 1, mode="edge")
    mixed = rows[:-2] / 4 + rows[1:-1] / 2 + rows[2:] / 4
    mixed = mixed[:, :-2] / 4 + mixed[:, 1:-1] / 2 + mixed[:, 2:] / 4
    small = Image.fromarray(mixed.astype(np.float32))
    large = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float64)
    clipped: Grid = np.clip(large, 0, 1)
    return clipped


def _crossed(inside: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Squares of four neighbouring points that the line passes through."""
    count = inside[:-1, :-1].astype(int) + inside[:-1, 1:] + inside[1:, :-1] + inside[1:, 1:]
    yield from ((int(row), int(column)) for row, column in np.argwhere((count > 0) & (count < 4)))


def _crossings(square: Grid) -> Iterator[tuple[float, float]]:
    """Where the line crosses the four sides, as (row, column) in 0-1, going round: two points, or four at a saddle."""
    corners = [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0)]
    heights = [square[0, 0], square[0, 1], square[1, 1], square[1, 0]]
    for start in range(4):
        end = (start + 1) % 4
        if (heights[start] >= 0) != (heights[end] >= 0):
            share = heights[start] / (heights[start] - heights[end])
            (y1, x1), (y2, x2) = corners[start], corners[end]
            yield y1 + share * (y2 - y1), x1 + share * (x2 - x1)


def _at(places: Grid, row: float, column: float) -> str:
    y, x = (np.interp(place, np.arange(len(places)), places) for place in (row, column))
    return f"{x:.1f} {y:.1f}"
