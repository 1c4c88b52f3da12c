"""Losses that turn code logits into short binary codes."""

import math

import torch
from torch import Tensor

from ml.losses.classification import cosine_cross_entropy


def quantisation_loss(logits: Tensor) -> Tensor:
    """(B, L) logits h -> mean of (|tanh h| - 1)^2, in [0, 1]: 0 when every bit is decided."""
    return (torch.tanh(logits).abs() - 1).square().mean()


def balance_loss(logits: Tensor) -> Tensor:
    """(B, L) logits h -> mean over bits of (batch mean of tanh h)^2: 0 when each bit splits the batch."""
    return torch.tanh(logits).mean(dim=0).square().mean()


def probability_balance_loss(probabilities: Tensor) -> Tensor:
    """(B, L) in [0, 1] -> mean over bits of (2 * batch mean - 1)^2: 0 when each bit splits the batch."""
    return (2 * probabilities.mean(dim=0) - 1).square().mean()


def decorrelation_loss(probabilities: Tensor) -> Tensor:
    """(B, L) in [0, 1] -> sum of squared correlations between different bits / L^2; B >= 2.

    Source: method file twin_bottleneck, section 4, the deterministic stand-in for the critic on the bits.
    """
    centred = probabilities - probabilities.mean(dim=0)
    scaled = centred / (centred.square().sum(dim=0).sqrt() + 1e-6)
    correlations = scaled.T @ scaled
    off_diagonal = correlations - torch.diag_embed(torch.diagonal(correlations))
    return off_diagonal.square().sum() / probabilities.shape[1] ** 2


def bernoulli_divergence(probabilities: Tensor) -> Tensor:
    """(B, L) in (0, 1) -> mean of KL(Bernoulli(pi) || Bernoulli(0.5)) in nats, in [0, log 2]. Source: JMLH."""
    pi = probabilities.clamp(1e-6, 1 - 1e-6)
    return (pi * pi.log() + (1 - pi) * (1 - pi).log()).mean() + math.log(2)


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
