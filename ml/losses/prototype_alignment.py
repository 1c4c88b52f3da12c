"""Losses that hold a new embedding to what an old encoder made of its class."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True, slots=True)
class Targets:
    """What the alignment loss compares with. positives, negatives (C, D) unit rows: where a class's images should go,
    and what they should stay away from. known (C,): whether the class has a prototype.
    """

    positives: Tensor
    negatives: Tensor
    known: Tensor

    @classmethod
    def plain(cls, prototypes: Tensor, known: Tensor) -> Self:
        """Nothing perturbed."""
        return cls(prototypes, prototypes, known)


def prototype_alignment_loss(
    embeddings: Tensor, targets: Targets, labels: Tensor, *, temperature: float
) -> Tensor:
    """Pull each new embedding towards its class's target and away from other classes' old prototypes.

    embeddings: (B, D) unit L2 norm, from the new encoder. labels: (B,) int64 in [0, C), or -1. temperature: > 0,
    cosine units. Returns the mean cross-entropy (nats) of the images whose class has a prototype, 0 when none has.
    Only the new encoder receives a gradient. Source: method file backward_compatible, section 4.
    """
    positives, negatives = targets.positives.detach(), targets.negatives.detach()
    if embeddings.shape[1] != negatives.shape[1]:
        raise ValueError(f"embeddings are {embeddings.shape[1]}-d, prototypes {negatives.shape[1]}-d")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}, it must be above 0")
    kept = torch.nonzero((labels >= 0) & targets.known[labels]).flatten()
    if not len(kept):
        return embeddings.sum() * 0
    own, embeddings = labels[kept], embeddings[kept]
    logits = (embeddings @ negatives.T).masked_fill(~targets.known, -torch.inf)  # (B, C)
    # Also where nothing is perturbed, so that perturbed by nothing is the same bit for bit.
    wanted = (embeddings * positives[own]).sum(dim=1)
    logits = logits.scatter(1, own[:, None], wanted[:, None])
    return F.cross_entropy(logits / temperature, own)


def entry_alignment_loss(
    embeddings: Tensor, entries: Tensor, entry_labels: Tensor, labels: Tensor, *, temperature: float
) -> Tensor:
    """Mean over images of -log of the share that stored entries of the image's class have in softmax(cosine / t).

    embeddings (B, D) unit, from the new encoder; entries (n, D) unit, stored, without gradient; labels (B,) and
    entry_labels (n,), -1 is left out. 0 for a batch whose classes have no entry. Any near entry of the class will do:
    unlike a prototype, that asks nothing of how the class lies. Source: neighbourhood components analysis
    (Goldberger et al., NeurIPS 2004) with the queries of one encoder and the entries of another; ours as an alignment.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}, it must be above 0")
    same = (labels[:, None] == entry_labels) & (labels >= 0)[:, None]
    kept = same.any(dim=1)
    if not bool(kept.any()):
        return embeddings.sum() * 0
    similarities = embeddings[kept] @ entries.detach().T / temperature  # (b, n)
    similarities = similarities.masked_fill(entry_labels < 0, -torch.inf)
    own = similarities.masked_fill(~same[kept], -torch.inf)
    return (torch.logsumexp(similarities, dim=1) - torch.logsumexp(own, dim=1)).mean()
