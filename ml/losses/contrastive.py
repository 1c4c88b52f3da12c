"""Supervised contrastive loss (Khosla et al., NeurIPS 2020)."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def supervised_contrastive_loss(vectors: Tensor, labels: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Mean over anchors of the mean over positives of -log softmax(cosine / temperature), in nats.

    vectors: (B, D) unit L2 norm. labels: (B,) int64. temperature > 0. An anchor is never its own pair; anchors
    without a positive do not count; without any the loss is 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}, it must be above 0")
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels[None, :]) & ~own
    logits = (vectors @ vectors.T / temperature).masked_fill(own, -torch.inf)
    log_shares = F.log_softmax(logits, dim=1).masked_fill(own, 0.0)
    counts = positive.sum(dim=1)
    means = -(log_shares * positive).sum(dim=1) / counts.clamp(min=1)
    return means[counts > 0].sum() / (counts > 0).sum().clamp(min=1)
