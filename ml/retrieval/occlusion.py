"""Which part of a query a stored entry was matched by: cover one part after another, and see how much is lost.

What falls is the log-odds that ranks the answer (`scoring.log_odds`), not the probability: that one saturates, so a
sure match would seem to hang on nothing. A patch is a third of a side, moves by a twelfth, and is filled with the
picture's mean colour. Chosen with version 1.0 on 60 pairs of its own classes, the product on one half (in one corner)
of a picture of something else: share of the heat that lay on the product, 1/3 side 0.84 (0.77), 1/4 side 0.80 (0.76),
1/6 side 0.73 (0.73), blurred instead of covered 0.84, soft edges 0.85 (0.77), twice the positions 0.83 (0.77).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ml.protocol import Calibration, Encoder, Pixels, checked_batch
from ml.retrieval.scoring import log_odds

GRID = 12  # cells a side of the map
PATCH = 4  # cells a side of what is covered at once
COVERS = (GRID - PATCH + 1) ** 2
# Covered pictures encoded at a time: more outgrow the processor's cache and take a quarter longer each.
BATCH = 16
# A map whose best cell loses less than this decides nothing: the odds of a match fall by less than a fifth.
LEAST_PEAK = 0.2


@dataclass(frozen=True, slots=True)
class OcclusionMap:
    """drops: (GRID, GRID) float64, rows from the top: log-odds lost when the cell is covered, the mean over all
    patches that cover it; negative where covering makes the match better. log_odds: those of the whole picture.
    """

    drops: NDArray[np.float64]
    log_odds: float

    @property
    def is_flat(self) -> bool:
        """True when no part matters enough to be shown: scaling such a map up would show noise."""
        return bool(self.drops.max() < LEAST_PEAK)

    @property
    def heat(self) -> NDArray[np.float64]:
        """(GRID, GRID) in [0, 1], 1 where the match hangs most; all 0 when the map is flat."""
        if self.is_flat:
            return np.zeros_like(self.drops)
        heat: NDArray[np.float64] = np.clip(self.drops / self.drops.max(), 0.0, 1.0)
        return heat


def occlusion_map(
    encoder: Encoder,
    pixels: Pixels,
    *,
    packed_code: NDArray[np.uint8],
    embedding: NDArray[np.float32],
    calibration: Calibration,
) -> OcclusionMap:
    """What of one query (S, S, 3) uint8 matches one entry: packed_code (L // 8,) uint8, embedding (D,) of unit norm,
    and the calibration of its producer. Deterministic; encodes COVERS + 1 pictures.

    Raises ValueError on another shape, or an input side below GRID pixels.
    """
    _check(encoder, pixels, packed_code, embedding)
    patches = _patches(encoder.input_size)
    mean = np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8)
    odds = np.empty(COVERS + 1)
    for start in range(0, COVERS + 1, BATCH):
        part = slice(start, start + BATCH)
        covered = np.where(patches[part, :, :, None], mean, pixels)
        encoded = encoder.encode(covered)
        hamming = np.bitwise_count(encoded.packed_codes ^ packed_code).sum(axis=1, dtype=np.int32)
        # Row by row, as in the search, so that a value never depends on its batch.
        cosines = np.vecdot(encoded.embeddings, embedding)
        odds[part] = log_odds(hamming, cosines, calibration, encoder.code_bits)
    lost = (odds[0] - odds[1:]).reshape(GRID - PATCH + 1, -1)
    return OcclusionMap(_spread(lost), float(odds[0]))


def _check(
    encoder: Encoder, pixels: Pixels, packed_code: NDArray[np.uint8], embedding: NDArray[np.float32]
) -> None:
    checked_batch(pixels[None], encoder.input_size)
    if encoder.input_size < GRID:
        raise ValueError(f"the input side is {encoder.input_size} pixels, a map needs at least {GRID}")
    code_shape, shape = (encoder.code_bits // 8,), (encoder.dimension,)
    if packed_code.dtype != np.uint8 or packed_code.shape != code_shape:
        raise ValueError(f"the code is {packed_code.dtype} {packed_code.shape}, expected uint8 {code_shape}")
    if embedding.shape != shape:
        raise ValueError(f"the embedding is {embedding.shape}, expected {shape}")


@lru_cache(maxsize=4)
def _patches(side: int) -> NDArray[np.bool_]:
    """(COVERS + 1, S, S): what each picture has covered; nothing first, then row by row."""
    edges = np.rint(np.linspace(0, side, GRID + 1)).astype(int)
    patches = np.zeros((COVERS + 1, side, side), np.bool_)
    corners = [(row, column) for row in range(GRID - PATCH + 1) for column in range(GRID - PATCH + 1)]
    for patch, (row, column) in zip(patches[1:], corners):
        patch[edges[row] : edges[row + PATCH], edges[column] : edges[column + PATCH]] = True
    return patches


def _spread(lost: NDArray[np.float64]) -> NDArray[np.float64]:
    """One value per patch position -> the mean, per cell, over the patches that cover it."""
    total, count = np.zeros((GRID, GRID)), np.zeros((GRID, GRID))
    for row, column in np.ndindex(lost.shape):
        cells = (slice(row, row + PATCH), slice(column, column + PATCH))
        total[cells] += lost[row, column]
        count[cells] += 1
    mean: NDArray[np.float64] = total / count
    return mean
