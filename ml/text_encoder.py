"""Serves a text encoder with NumPy alone: no torch in the process that answers a shopper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import erf
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ml.data.words import WordHasher

Floats = NDArray[np.float32]

LAYER_NORM_EPSILON = 1e-5  # PyTorch's default, which ml.models.encoder.CodeHead is trained with

_erf = np.vectorize(erf, otypes=[np.float64])


@dataclass(frozen=True, slots=True)
class TextWeights:
    """The weights of an `ml.models.text.TextEncoder`; threads may share it.

    first: (hidden, buckets) and (hidden,); norm: scale and shift (hidden,); last: (L, hidden) and (L,).
    """

    first: tuple[Floats, Floats]
    norm: tuple[Floats, Floats]
    last: tuple[Floats, Floats]
    _hasher: WordHasher = field(repr=False, compare=False)

    @classmethod
    def of(cls, arrays: Mapping[str, Floats]) -> Self:
        """From `TextEncoder.arrays()`. Raises ValueError on a missing or further name, a shape that does not
        fit or a value that is not finite.
        """
        names = [f"code_head.layers.{layer}.{part}" for layer in (0, 2, 3) for part in ("weight", "bias")]
        if sorted(arrays) != sorted(names):
            raise ValueError(f"the arrays are {sorted(arrays)}, expected {sorted(names)}")
        found = [np.ascontiguousarray(arrays[name], np.float32) for name in names]
        hidden, buckets = found[0].shape if found[0].ndim == 2 else (0, 0)
        bits = len(found[5])
        shapes = [(hidden, buckets), (hidden,), (hidden,), (hidden,), (bits, hidden), (bits,)]
        for name, value, shape in zip(names, found, shapes, strict=True):
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"{name} is {value.shape} or not finite, expected {shape} finite numbers")
        first, scale, last = zip(found[::2], found[1::2], strict=True)
        return cls(first=first, norm=scale, last=last, _hasher=WordHasher(buckets))

    @property
    def code_bits(self) -> int:
        """L."""
        return len(self.last[1])

    def encode(self, texts: Sequence[str]) -> Floats:
        """(N texts) -> code logits (N, L); `ml.protocol.pack_bits` takes the bits. N may be 0.

        A text without any word gets the code of the biases alone, which means nothing.
        """
        hidden = self._hasher(texts) @ self.first[0].T + self.first[1]  # (N, hidden)
        hidden = hidden * (0.5 * (1.0 + _erf(hidden / np.sqrt(2.0))))  # GELU
        centred = hidden - hidden.mean(axis=1, keepdims=True)
        spread = np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + LAYER_NORM_EPSILON)
        normed = centred / spread * self.norm[0] + self.norm[1]
        logits: Floats = (normed @ self.last[0].T + self.last[1]).astype(np.float32)  # (N, L)
        return logits
