"""Losses for images that carry several labels at once, rare ones weighing more."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def label_weights(counts: Tensor, *, beta: float = 0.999, ceiling: float = 10.0) -> Tensor:
    """(C,) images per label -> (C,) weights min((1 - beta) / (1 - beta^n) over its mean, ceiling); > 0.

    Labels without an image weigh as one with one. Source: Cui et al., CVPR 2019 (effective numbers).
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}, allowed 0 to below 1")
    effective = (1 - beta) / (1 - torch.pow(torch.tensor(beta), counts.clamp(min=1).float()))
    return (effective / effective.mean()).clamp(max=ceiling)


def weighted_binary_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean over images of the mean over labels, positives of label c weighing weights[c]; in nats.

    logits, targets: (B, C), targets in [0, 1]. weights: (C,).
    """
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
