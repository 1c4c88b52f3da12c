"""What every encoder gives and every index takes: the few shapes the whole of `ml` agrees on.

Dimension letters: B batch, D embedding size, L code bits, N gallery size, Q queries, S input side in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PackedCodes = NDArray[np.uint8]  # (B, L // 8), most significant bit first; bit = 1[h >= 0]
Embeddings = NDArray[np.float32]  # (B, D), unit L2 norm
Pixels = NDArray[np.uint8]  # (B, S, S, 3), RGB


@dataclass(frozen=True, slots=True)
class Encoded:
    """Codes and embeddings of one batch, row i of each belonging to image i."""

    packed_codes: PackedCodes
    embeddings: Embeddings

    def __post_init__(self) -> None:
        if len(self.packed_codes) != len(self.embeddings):
            raise ValueError(f"{len(self.packed_codes)} codes but {len(self.embeddings)} embeddings")


class Encoder(Protocol):
    """A frozen image encoder, ready to serve."""

    @property
    def input_size(self) -> int: ...
    @property
    def code_bits(self) -> int: ...
    @property
    def dimension(self) -> int: ...
    def encode(self, pixels: Pixels) -> Encoded:
        """(B, S, S, 3) uint8 RGB -> codes and unit embeddings. Raises ValueError on other input."""
        ...


@dataclass(frozen=True, slots=True)
class Calibration:
    """Turns two similarities into a probability of relevance, for one (query version, producer) pair.

    p = sigmoid(intercept + code_weight * code_similarity + embedding_weight * cosine), where code_similarity
    = 1 - 2 * hamming / L in [-1, 1] and cosine in [-1, 1]. `strong` and `weak` are probabilities: p >= strong
    is a strong match, p < weak is probably not it, anything between is fair. `pool_size` is how many entries
    of this producer the shortlist holds so that it keeps at least 0.98 of the exact top 10.
    """

    intercept: float
    code_weight: float
    embedding_weight: float
    strong: float
    weak: float
    pool_size: int


def hamming_to_similarity(hamming: NDArray[np.int32], code_bits: int) -> NDArray[np.float32]:
    """Hamming distance in [0, L] -> code similarity in [-1, 1] (the cosine of +-1 codes)."""
    return (1.0 - 2.0 * hamming / code_bits).astype(np.float32)


def pack_bits(logits: NDArray[np.float32]) -> PackedCodes:
    """(B, L) code-head outputs -> (B, L // 8) packed codes. The sign of exactly 0 is +1, only here."""
    if logits.shape[-1] % 8:
        raise ValueError(f"code length is {logits.shape[-1]}, it must be a multiple of 8")
    return np.packbits(logits >= 0, axis=-1)


def checked_batch(pixels: Pixels, input_size: int) -> Pixels:
    """Return `pixels` if it is (B, S, S, 3) uint8 with S = input_size, else raise ValueError."""
    expected: Sequence[int] = (input_size, input_size, 3)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or tuple(pixels.shape[1:]) != tuple(expected):
        wanted = f"uint8 (B, {input_size}, {input_size}, 3)"
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, expected {wanted}")
    return pixels
