"""Corrects stored embeddings, and says how far off that leaves them, with NumPy alone: no torch where it is served."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CHUNK = 2_048  # rows at a time: their hidden activations stay in the processor's cache
PADDED = 64
LAYER_NORM_EPSILON = 1e-5  # PyTorch's default, which ml.models.corrector is trained with
TENSORS = ("affine", "offset", "inner", "inner_offset", "outer")
ERROR_TENSORS = ("inner", "inner_offset", "outer", "level")
# erf x = 1 - (a1 t + … + a5 t^5) exp(-x^2), t = 1 / (1 + p x), to 1.5e-7. Abramowitz and Stegun, 7.1.26.
_P, _A = 0.3275911, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


@dataclass(frozen=True, slots=True)
class CorrectorMap:
    """The weights of an `ml.models.corrector.Corrector`; threads may share it.

    affine (D, D), offset (D,), inner (m, D), inner_offset (m,), outer (D, m); a zero outer is not computed.
    """

    affine: Floats
    offset: Floats
    inner: Floats
    inner_offset: Floats
    outer: Floats

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From the five arrays by name. Raises ValueError on other names or shapes, or values that are not finite."""
        _check_names(arrays, TENSORS)
        dimension = arrays["offset"].size
        hidden = arrays["inner_offset"].size
        shapes = ((dimension, dimension), (dimension,), (hidden, dimension), (hidden,), (dimension, hidden))
        return cls(*_checked(arrays, dict(zip(TENSORS, shapes, strict=True))))

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.offset)

    def arrays(self) -> dict[str, Floats]:
        """What `of` takes."""
        return {name: getattr(self, name) for name in TENSORS}

    def corrected(self, stale: NDArray[Any]) -> NDArray[Any]:
        """(N, D) float16 or float32 rows -> as many of the same type and unit L2 norm, computed in float32.

        A row comes out the same to the last bit whichever others stand beside it, so that a view kept up with its rows
        equals one built anew. Raises ValueError on another width or type.
        """
        _check_rows(stale, self.dimension)
        result = np.empty_like(stale)
        has_residual = bool(self.outer.any())
        for part in _parts(len(stale)):
            rows = _padded(stale[part])
            moved = rows + rows @ self.affine.T + self.offset
            if has_residual:
                moved += _gelu(_normed(rows) @ self.inner.T + self.inner_offset) @ self.outer.T
            moved = moved[: len(stale[part])]
            result[part] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        return result


@dataclass(frozen=True, slots=True)
class ErrorMap:
    """The weights of an `ErrorHead`: inner (h, D), inner_offset (h,), outer (1, h), level ()."""

    inner: Floats
    inner_offset: Floats
    outer: Floats
    level: Floats

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """As CorrectorMap.of, from four arrays."""
        _check_names(arrays, ERROR_TENSORS)
        hidden = arrays["inner_offset"].size
        dimension = arrays["inner"].size // max(1, hidden)
        shapes: tuple[tuple[int, ...], ...] = ((hidden, dimension), (hidden,), (1, hidden), ())
        return cls(*_checked(arrays, dict(zip(ERROR_TENSORS, shapes, strict=True))))

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.inner.shape[1])

    def arrays(self) -> dict[str, Floats]:
        """What `of` takes."""
        return {name: getattr(self, name) for name in ERROR_TENSORS}

    def predicted(self, stale: NDArray[Any]) -> NDArray[np.float64]:
        """(N, D) float16 or float32 -> (N,) squared distances that the correction is expected to leave, > 0."""
        _check_rows(stale, self.dimension)
        found = np.empty(len(stale))
        for part in _parts(len(stale)):
            hidden = _gelu(_normed(stale[part].astype(np.float32)) @ self.inner.T + self.inner_offset)
            found[part] = np.exp((hidden @ self.outer[0] + self.level).astype(np.float64))
        return found


def _padded(rows: NDArray[Any]) -> Floats:
    """In float32, with rows of zeros up to a multiple of PADDED: a matrix product rounds the rest otherwise."""
    padded = np.zeros((-(-len(rows) // PADDED) * PADDED, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    return padded


def _gelu(x: Floats) -> Floats:
    """x Phi(x), by erf."""
    size = np.abs(x) * np.float32(0.5**0.5)
    t = np.float32(1) / (np.float32(1) + np.float32(_P) * size)
    total = np.full_like(t, _A[-1])
    for term in reversed(_A[:-1]):
        total *= t
        total += np.float32(term)
    tail = total * t * np.exp(-size * size)  # 1 - erf |x / sqrt 2|
    found: Floats = np.float32(0.5) * x * np.where(x >= 0, np.float32(2) - tail, tail)
    return found


def _normed(rows: Floats) -> Floats:
    centred = rows - rows.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + np.float32(LAYER_NORM_EPSILON))
    normed: Floats = centred / spread
    return normed


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))


def _check_rows(stale: NDArray[Any], dimension: int) -> None:
    if stale.ndim != 2 or stale.shape[1] != dimension or stale.dtype not in (np.float16, np.float32):
        raise ValueError(
            f"embeddings are {stale.dtype} {stale.shape}, expected float16 or float32 (N, {dimension})"
        )


def _check_names(arrays: Mapping[str, NDArray[Any]], names: tuple[str, ...]) -> None:
    if sorted(arrays) != sorted(names):
        raise ValueError(f"the arrays are {sorted(arrays)}, expected {sorted(names)}")


def _checked(arrays: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> list[Floats]:
    for name, shape in shapes.items():
        found = arrays[name]
        if found.shape != shape or found.dtype != np.float32 or not np.isfinite(found).all():
            raise ValueError(
                f"{name} is {found.dtype} {found.shape} or not finite, expected float32 {shape} of finite numbers"
            )
    return [np.array(arrays[name], order="C") for name in shapes]
