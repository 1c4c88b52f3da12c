"""Small colour sketches of pictures, and how alike two of them are: what tells a copy from another photo of its kind.

An embedding says what a picture shows, and photos of one product agree in that; a copy also has the same light and dark
in the same places. Hence the sketch: the picture squeezed to 32 x 32, compared by correlation, which a change of
brightness or contrast leaves alone, and once more with either picture's edges cut away, which a copy may lack.
"""

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
_SQUEEZED = 16
# What a copy may have lost of its left, top, right and bottom, as shares of the picture: evenly all around, at one
# edge, or at one corner.
CUTS = (
    (0.0, 0.0, 0.0, 0.0),
    *((even, even, even, even) for even in (0.025, 0.05, 0.075)),
    *((left, top, right, bottom) for lost in (0.05, 0.1) for left, top, right, bottom in lost * np.eye(4)),
    *((0.05 * x, 0.05 * y, 0.05 * (1 - x), 0.05 * (1 - y)) for x in (0, 1) for y in (0, 1)),
)
# Pictures that agree less than this before anything is cut are not looked at closely.
_WORTH_A_LOOK = 0.5

Sketch = NDArray[np.uint8]


def sketch_of(pixels: NDArray[np.uint8]) -> Sketch:
    """(S, S, 3) uint8, a model input -> (32, 32, 3) uint8."""
    return _squeezed(Image.fromarray(pixels))


def sketch_of_file(data: bytes) -> Sketch:
    """A stored picture or its thumbnail -> (32, 32, 3) uint8. Raises what Pillow raises on a damaged file."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        return _squeezed(image.convert("RGB"))


def likeness(sketch: Sketch, others: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of one sketch with each of `others` (n, 32, 32, 3): the best correlation over the cuts, (n,) in [-1, 1]."""
    whole = _centred(np.concatenate([sketch[None], others]).reshape(len(others) + 1, -1))
    best: NDArray[np.float32] = whole[1:] @ whole[0]
    close = np.flatnonzero(best >= _WORTH_A_LOOK)
    if len(close):
        one, many = _views(sketch[None]), _views(others[close])  # (1, C, V), (n, C, V)
        one_cut, other_cut = np.vecdot(one, many[:, :1]), np.vecdot(one[:, :1], many)
        best[close] = np.maximum(one_cut.max(axis=1), other_cut.max(axis=1))
    return best


def _squeezed(image: Image.Image) -> Sketch:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def _views(sketches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, 32, 32, 3) -> (n, cuts, V): each sketch as each cut leaves it, centred, of unit length."""
    rows, columns = _weights()  # (C, 16, 32) each
    squeezed = rows @ sketches.reshape(len(sketches), 1, SIDE, SIDE * 3).astype(np.float32)
    lying = squeezed.reshape(len(sketches), len(CUTS), _SQUEEZED, SIDE, 3).swapaxes(3, 4)
    lying = lying.reshape(len(sketches), len(CUTS), _SQUEEZED * 3, SIDE)
    return _centred((lying @ columns.swapaxes(1, 2)).reshape(len(sketches), len(CUTS), -1))


def _centred(vectors: NDArray[np.generic]) -> NDArray[np.float32]:
    """Without their mean and of unit length; a picture of one colour becomes nothing, which is like nothing."""
    centred: NDArray[np.float32] = vectors.astype(np.float32)
    centred -= centred.mean(axis=-1, keepdims=True)
    centred /= np.linalg.norm(centred, axis=-1, keepdims=True) + 1e-3
    return centred


@cache
def _weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Per cut what squeezes the rows that it leaves, and the columns, to 16: averages over what each covers."""
    rows = [_box_weights(top, bottom) for _, top, _, bottom in CUTS]
    columns = [_box_weights(left, right) for left, _, right, _ in CUTS]
    return np.stack(rows), np.stack(columns)


def _box_weights(start: float, end: float) -> NDArray[np.float32]:
    """(16, 32), for the shares that are cut away at the start and at the end."""
    edges = np.linspace(SIDE * start, SIDE * (1 - end), _SQUEEZED + 1)
    pixels = np.arange(SIDE)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    covered: NDArray[np.float64] = overlap.clip(min=0)
    weights: NDArray[np.float32] = (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights
