"""The parts of a twin bottleneck that exist in training only: stochastic bits, code-driven graph, decoder, critics.

Source: TBH (Shen et al., CVPR 2020) in its released form, and the method file twin_bottleneck, sections 3 and 8.
Dimension letters as in ml.protocol; F is the width of the trunk's pooled feature.
"""

from typing import Any

import torch
from torch import Tensor, nn

MAX_LOGIT = 6.0  # beyond it a bit's slope is under 0.3 %: it would never turn again
_NO_DEGREE = 1e-8


class _Thresholded(torch.autograd.Function):
    """Bits of probabilities, with the slope of the sigmoid in place of the step's, which is zero."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = torch.sigmoid(logits)
        ctx.save_for_backward(probabilities)
        return (probabilities >= thresholds).to(logits.dtype), probabilities

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (probabilities,) = ctx.saved_tensors
        of_bits, of_probabilities = gradients
        return probabilities * (1 - probabilities) * (of_bits + of_probabilities), None


def binary_bottleneck(logits: Tensor, thresholds: Tensor | float = 0.5) -> tuple[Tensor, Tensor]:
    """(B, L) logits h -> (bits in {0, 1}, probabilities pi = sigmoid h), both (B, L).

    bit = 1[pi >= threshold]; thresholds: 0.5 (then the bit is the exported one, 1[h >= 0]) or (B, L) drawn
    from [0, 1]. Gradient: dLoss/dh = pi (1 - pi) (dLoss/dbit + dLoss/dpi). h is cut at +-MAX_LOGIT first.
    """
    cut = logits.clamp(-MAX_LOGIT, MAX_LOGIT)
    levels = torch.as_tensor(thresholds, dtype=logits.dtype, device=logits.device)
    bits, probabilities = _Thresholded.apply(cut, levels)  # type: ignore[no-untyped-call]
    return bits, probabilities


def code_distances(bits: Tensor) -> Tensor:
    """(B, L) in {0, 1} -> (B, B) Hamming distances, differentiable in the bits."""
    return bits @ (1 - bits).T + (1 - bits) @ bits.T


def code_adjacency(bits: Tensor, *, exponent: float = 1.4, nearest: int = 0) -> Tensor:
    """(B, L) bits -> (B, B) adjacency (1 - distance / L) ** exponent: symmetric, diagonal 1, in [0, 1].

    nearest > 0 keeps an edge only where one end is among the other's `nearest`, itself included.
    """
    weights = (1 - code_distances(bits) / bits.shape[1]).clamp(min=0).pow(exponent)
    if not 0 < nearest < len(bits):
        return weights
    kept = torch.zeros_like(weights, dtype=torch.bool)
    kept.scatter_(1, weights.detach().topk(nearest, dim=1).indices, value=True)
    kept.fill_diagonal_(fill_value=True)  # of several equal codes topk may leave out the item itself
    return weights * (kept | kept.T)


def normalised(adjacency: Tensor) -> Tensor:
    """(B, B) -> Deg^-1/2 A Deg^-1/2: symmetric where A is, eigenvalues in [-1, 1], the largest 1."""
    scale = (adjacency.sum(dim=1) + _NO_DEGREE).rsqrt()
    return scale[:, None] * adjacency * scale[None, :]


class GraphConvolution(nn.Module):
    """One graph convolution over a batch: (B, D) and a normalised adjacency (B, B) -> (B, D)."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dimension, dimension)

    def forward(self, values: Tensor, adjacency: Tensor) -> Tensor:
        """adjacency @ (values W + w0), before any activation."""
        spread: Tensor = adjacency @ self.linear(values)
        return spread


def decoder(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """(B, inputs) -> (B, outputs): Linear, ReLU, Linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def critic(inputs: int, hidden: int) -> nn.Sequential:
    """(B, inputs) -> (B, 1) logit of "this was drawn from the prior"."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1))
