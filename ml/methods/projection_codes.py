"""Binary codes without training labels: random hyperplanes, iterative quantisation, and plain signs.

What a learned code has to beat. Features are scaled to unit length and centred on the mean of those fitted on;
a bit says on which side of a hyperplane through that mean a feature lies.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.protocol import pack_bits

Features = NDArray[np.float32]
Floats = NDArray[np.float64]
Codes = NDArray[np.uint8]

ITERATIONS = 50  # as in the paper
_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class ProjectionCoder:
    """mean: (D,) of the unit features, projection: (D, L), both float32. Bit l of x is 1 where
    (x / |x| - mean) . projection[:, l] >= 0.
    """

    mean: Features
    projection: Features

    @property
    def code_bits(self) -> int:
        """L."""
        return int(self.projection.shape[1])

    def encode(self, features: Features) -> Codes:
        """(N, D) -> packed codes (N, L // 8), as `pack_bits` packs them."""
        width = len(self.mean)
        if features.ndim != 2 or features.shape[1] != width:
            raise ValueError(f"features are {features.shape}, expected (N, {width})")
        chunks = [
            pack_bits(self._sides(features[start : start + _CHUNK]))
            for start in range(0, len(features), _CHUNK)
        ]
        return np.concatenate([np.empty((0, self.code_bits // 8), np.uint8), *chunks])

    def _sides(self, features: Features) -> Features:
        sides = (unit(features) - self.mean) @ self.projection
        return sides.astype(np.float32, copy=False)


def unit(features: Features) -> Features:
    """(N, D) -> rows of L2 norm 1; a row of zeros stays one."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(norms > 0, norms, 1)).astype(np.float32)


def random_hyperplanes(features: Features, bits: int, *, seed: int) -> ProjectionCoder:
    """LSH: `bits` independent Gaussian directions through the mean of features (N, D).

    Two centred features at angle theta differ in a bit with probability theta / pi. Source: Charikar,
    "Similarity estimation techniques from rounding algorithms", STOC 2002.
    """
    _check(features, bits)
    mean = unit(features).mean(axis=0)
    projection = np.random.default_rng(seed).normal(size=(features.shape[1], bits))
    return ProjectionCoder(mean, projection.astype(np.float32))


def iterative_quantisation(
    features: Features, bits: int, *, seed: int, iterations: int = ITERATIONS
) -> ProjectionCoder:
    """ITQ: the first `bits` principal axes of features (N, D), turned so that signs lose least.

    With more bits than D one turn of all D axes gives D bits; further turns, each from a random start of its
    own, give the next ones, the last of the leading axes that are still wanted. Source: Gong and Lazebnik,
    "Iterative quantization: a Procrustean approach to learning binary codes", CVPR 2011.
    """
    _check(features, bits)
    found = unit(features)
    mean = found.mean(axis=0)
    centred = (found - mean).astype(np.float64)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]  # (D, D), widest first
    rng = np.random.default_rng(seed)
    width = axes.shape[1]
    turned = []
    for start in range(0, bits, width):
        leading = axes[:, : min(width, bits - start)]
        rotation = fitted_rotation(centred @ leading, rng, iterations)[0]
        turned.append(leading @ rotation)
    return ProjectionCoder(mean, np.concatenate(turned, axis=1).astype(np.float32))


def fitted_rotation(projected: Floats, rng: np.random.Generator, iterations: int) -> tuple[Floats, Floats]:
    """(N, L) -> the orthogonal R (L, L) that brings projected R near its own signs, and the mean squared error
    |sign(VR) - VR|^2 per item at the random start and after each iteration (iterations + 1,), never rising.
    """
    width = projected.shape[1]
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
    errors = np.empty(iterations + 1)
    for step in range(iterations + 1):
        turned = projected @ rotation
        signs = np.where(turned >= 0, 1.0, -1.0)
        errors[step] = np.square(signs - turned).sum() / len(projected)
        if step < iterations:
            # Orthogonal Procrustes: the turn nearest to these signs (eq. 2 and 3 of the paper).
            left, _, right = np.linalg.svd(projected.T @ signs)
            rotation = left @ right
    return rotation, errors


def sign_bits(width: int) -> ProjectionCoder:
    """The signs of an embedding (N, `width`) as they are, neither centred nor turned."""
    _check_bits(width)
    return ProjectionCoder(np.zeros(width, np.float32), np.eye(width, dtype=np.float32))


def _check(features: Features, bits: int) -> None:
    _check_bits(bits)
    if features.ndim != 2 or not len(features) or not np.isfinite(features).all():
        raise ValueError(f"features are {features.shape}, expected (N, D) with N >= 1 and finite values")


def _check_bits(bits: int) -> None:
    if bits < 8 or bits % 8:
        raise ValueError(f"codes have {bits} bits, they must be a positive multiple of 8")
