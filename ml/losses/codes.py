"""Losses that turn code logits into short binary codes."""

import torch
from torch import Tensor

from ml.losses.classification import cosine_cross_entropy


def quantisation_loss(logits: Tensor) -> Tensor:
    """(B, L) logits h -> mean of (|tanh h| - 1)^2, in [0, 1]: 0 when every bit is decided."""
    return (torch.tanh(logits).abs() - 1).square().mean()


def balance_loss(logits: Tensor) -> Tensor:
    """(B, L) logits h -> mean over bits of (batch mean of tanh h)^2: 0 when each bit splits the batch."""
    return torch.tanh(logits).mean(dim=0).square().mean()


def code_loss(
    logits: Tensor,
    class_weights: Tensor,
    labels: Tensor,
    *,
    scale: float,
    label_smoothing: float,
    quantisation_weight: float,
    balance_weight: float,
) -> Tensor:
    """Cosine cross-entropy on tanh(h), plus weighted quantisation and balance.

    logits: (B, L) code-head output h. class_weights: (C, L), the learned centre of each class in code space.
    labels: (B,) int64 in [0, C). Weights >= 0. Gradient reaches logits and class_weights.
    """
    if quantisation_weight < 0 or balance_weight < 0:
        raise ValueError(
            f"quantisation_weight {quantisation_weight} and balance_weight {balance_weight} must be >= 0"
        )
    matching = cosine_cross_entropy(
        torch.tanh(logits), class_weights, labels, scale=scale, label_smoothing=label_smoothing
    )
    return matching + quantisation_weight * quantisation_loss(logits) + balance_weight * balance_loss(logits)
