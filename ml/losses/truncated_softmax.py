"""What a step on selected catalogue targets minimises, and what their corrector does."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def truncated_softmax_loss(
    queries: Tensor, targets: Tensor, positives: Tensor, allowed: Tensor, *, inverse_temperature: float
) -> Tensor:
    """Mean over queries of -log of the positive's share among the allowed targets, in nats.

    queries: (B, D) and targets: (U, D), unit L2 norm, both fresh; gradient reaches both. positives: (B,) int64 rows
    of targets. allowed: (B, U) bool, what counts as a negative of each query, and its positive. inverse_temperature
    (beta) > 0. Raises ValueError when a positive is not allowed. Source: method file corrector, section 2 (L_task).
    """
    if inverse_temperature <= 0:
        raise ValueError(f"inverse_temperature is {inverse_temperature}, it must be above 0")
    if not bool(allowed.gather(1, positives[:, None]).all()):
        raise ValueError("a query's own positive is not allowed, its share would be 0")
    logits = inverse_temperature * queries @ targets.T  # (B, U)
    return F.cross_entropy(logits.masked_fill(~allowed, -float("inf")), positives)


def logit_matching_loss(
    queries: Tensor, corrected: Tensor, fresh: Tensor, *, inverse_temperature: float
) -> Tensor:
    """Mean over queries of KL(P || P_corrected), in nats: softmaxes over U targets of beta times inner product.

    queries (B, D), corrected and fresh (U, D), unit L2 norm. Gradient reaches corrected alone. inverse_temperature
    (beta) > 0. Source: section 2, the optional logit-matching term.
    """
    if inverse_temperature <= 0:
        raise ValueError(f"inverse_temperature is {inverse_temperature}, it must be above 0")
    scaled = inverse_temperature * queries.detach()
    wanted = F.log_softmax(scaled @ fresh.detach().T, dim=1)
    found = F.log_softmax(scaled @ corrected.T, dim=1)
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def drift_loss(corrected: Tensor, fresh: Tensor) -> Tensor:
    """Mean squared distance of corrected stale embeddings (U, D) from fresh ones (U, D), in [0, 4].

    Gradient reaches corrected alone: what is chased must not be pulled back. Source: section 2 (L_drift).
    """
    return (corrected - fresh.detach()).square().sum(dim=1).mean()
