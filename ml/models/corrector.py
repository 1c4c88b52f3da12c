"""The small map that takes a stale embedding to where a newer encoder would put it."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

CHUNK = 2_048  # rows at a time: their hidden activations, 2 MB at m = 256, stay in the cache


class Corrector(nn.Module):
    """h(v) = N(v + A v + b + W2 gelu(W1 LN(v) + b1)), N scaling to unit L2 norm. As it is made, the identity.

    Source: method file corrector, section 2.1. LN has no weights of its own, W1 and b1 hold them.
    """

    def __init__(self, dimension: int, *, hidden: int | None = None, seed: int = 0) -> None:
        """dimension: D >= 2. hidden: m >= 1, by default 2 D. seed: of W1, the only part that is drawn."""
        super().__init__()
        hidden = 2 * dimension if hidden is None else hidden
        if dimension < 2 or hidden < 1:
            raise ValueError(f"dimension is {dimension} (at least 2), hidden {hidden} (at least 1)")
        drawn = torch.randn(hidden, dimension, generator=torch.Generator().manual_seed(seed))
        self.affine = nn.Parameter(torch.zeros(dimension, dimension))  # A
        self.offset = nn.Parameter(torch.zeros(dimension))  # b
        self.inner = nn.Parameter(drawn / dimension**0.5)  # W1
        self.inner_offset = nn.Parameter(torch.zeros(hidden))  # b1
        self.outer = nn.Parameter(torch.zeros(dimension, hidden))  # W2

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.offset)

    def forward(self, stale: Tensor) -> Tensor:
        """(B, D) of unit L2 norm -> (B, D) of unit L2 norm."""
        return F.normalize(self._affine(stale) + self._residual(stale), dim=1)

    @torch.no_grad()
    def set_affine(self, weights: NDArray[np.float64]) -> None:
        """Put (D + 1, D) weights, the last row b, into the affine branch: row v goes to v + [v, 1] @ weights."""
        self.affine.copy_(torch.from_numpy(weights[:-1].T.copy()))
        self.offset.copy_(torch.from_numpy(weights[-1]))

    @torch.no_grad()
    def corrected(self, stale: NDArray[Any]) -> NDArray[Any]:
        """(N, D) float16 or float32 rows -> as many of the same type, computed in float32. Without gradient.

        A residual branch that is still zero is not computed. Raises ValueError on another width or type.
        """
        if stale.ndim != 2 or stale.shape[1] != self.dimension or stale.dtype not in (np.float16, np.float32):
            raise ValueError(
                f"embeddings are {stale.dtype} {stale.shape}, expected float16 or float32 (N, {self.dimension})"
            )
        result = np.empty_like(stale)
        has_residual = bool(self.outer.any())
        for start in range(0, len(stale), CHUNK):
            rows = torch.from_numpy(np.ascontiguousarray(stale[start : start + CHUNK])).float()
            moved = self._affine(rows)
            if has_residual:
                moved += self._residual(rows)
            result[start : start + CHUNK] = F.normalize(moved, dim=1).to(_TYPES[stale.dtype.name]).numpy()
        return result

    def _affine(self, stale: Tensor) -> Tensor:
        return stale + F.linear(stale, self.affine, self.offset)

    def _residual(self, stale: Tensor) -> Tensor:
        hidden = F.linear(F.layer_norm(stale, (self.dimension,)), self.inner, self.inner_offset)
        return F.linear(F.gelu(hidden), self.outer)


_TYPES = {"float16": torch.float16, "float32": torch.float32}
