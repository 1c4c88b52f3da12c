"""Multi-Similarity loss and its pair miner (Wang et al., CVPR 2019)."""

import torch
from torch import Tensor


def mine_pairs(similarities: Tensor, labels: Tensor, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """The informative pairs of each anchor: (kept positives, kept negatives), both (B, B) bool.

    similarities: (B, B) cosine. A negative is kept if it is above the anchor's hardest positive minus
    epsilon, a positive if it is below the anchor's hardest negative plus epsilon. An anchor that lacks
    positives or negatives keeps nothing. The diagonal is never a pair. No gradient.
    """
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    negative = ~same
    similarities = similarities.detach()
    hardest_positive = similarities.masked_fill(~positive, torch.inf).amin(dim=1, keepdim=True)
    hardest_negative = similarities.masked_fill(~negative, -torch.inf).amax(dim=1, keepdim=True)
    kept_negative = negative & (similarities > hardest_positive - epsilon)
    kept_positive = positive & (similarities < hardest_negative + epsilon)
    complete = kept_positive.any(dim=1, keepdim=True) & kept_negative.any(dim=1, keepdim=True)
    return kept_positive & complete, kept_negative & complete


def multi_similarity_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 40.0,
    centre: float = 0.5,
    epsilon: float = 0.1,
) -> Tensor:
    """Mean over all B anchors of the Multi-Similarity loss on mined pairs; anchors without pairs count 0.

    embeddings: (B, D) unit L2 norm. labels: (B,) int64. alpha, beta > 0; centre (lambda) and epsilon in
    cosine units. Source: method file compact_involution, section 4; defaults are TensorFlow Similarity's.
    """
    if alpha <= 0 or beta <= 0:
        raise ValueError(f"alpha is {alpha} and beta {beta}, both must be above 0")
    similarities = embeddings @ embeddings.T  # (B, B)
    positive, negative = mine_pairs(similarities, labels, epsilon=epsilon)
    pulls = _log_one_plus_sum_exp(-alpha * (similarities - centre), positive) / alpha
    pushes = _log_one_plus_sum_exp(beta * (similarities - centre), negative) / beta
    return (pulls + pushes).mean()


def _log_one_plus_sum_exp(values: Tensor, kept: Tensor) -> Tensor:
    """(B, B), (B, B) bool -> (B,) log(1 + sum of exp over kept), stable."""
    padded = torch.cat([values.new_zeros(len(values), 1), values.masked_fill(~kept, -torch.inf)], dim=1)
    return torch.logsumexp(padded, dim=1)
