"""How near a view of the catalogue is to the fresh one where it matters: what is selected, and with which chances."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.methods.corrector.config import Selection
from ml.methods.corrector.selection import selected

Values = NDArray[np.float64]
_BLOCK = 32  # queries at a time


@dataclass(frozen=True, slots=True)
class Agreement:
    """Per query (Q,), fresh embeddings being the truth.

    overlap: share of the k fresh targets that the view selects too, in [0, 1]; NaN for a query that has none.
    total_variation in [0, 1] and divergence KL(P || P_view) in nats: of the softmax over the whole catalogue.
    logit_error: eps = beta * the largest distance of a view's vector from the fresh one, what the bounds go by.
    """

    overlap: Values
    total_variation: Values
    divergence: Values
    logit_error: float


@torch.no_grad()
def agreement(
    queries: Tensor,
    query_labels: Tensor,
    view: Tensor,
    fresh: Tensor,
    labels: Tensor,
    *,
    count: int,
    inverse_temperature: float,
) -> Agreement:
    """Compare view (N, D) with fresh (N, D) for queries (Q, D), all of unit L2 norm; labels as `selected` takes them.

    count: k >= 1. inverse_temperature: beta > 0. Computed in float64. Source: method file corrector, section 6.
    """
    selection, unused = Selection(count=count), torch.Generator()
    view, fresh = view.double(), fresh.double()
    overlap, distance, divergence = [], [], []
    for start in range(0, len(queries), _BLOCK):
        asked, asked_labels = queries[start : start + _BLOCK].double(), query_labels[start : start + _BLOCK]
        ours = selected(asked, asked_labels, view, labels, selection=selection, generator=unused)
        truth = selected(asked, asked_labels, fresh, labels, selection=selection, generator=unused)
        both = ((truth[:, :, None] == ours[:, None, :]) & (truth >= 0)[:, :, None]).any(dim=2).sum(dim=1)
        overlap.append(both / (truth >= 0).sum(dim=1))
        log_p = F.log_softmax(inverse_temperature * asked @ fresh.T, dim=1)
        log_view = F.log_softmax(inverse_temperature * asked @ view.T, dim=1)
        distance.append(0.5 * (log_p.exp() - log_view.exp()).abs().sum(dim=1))
        divergence.append((log_p.exp() * (log_p - log_view)).sum(dim=1))
    error = inverse_temperature * float((view - fresh).norm(dim=1).max())
    return Agreement(_joined(overlap), _joined(distance), _joined(divergence), error)


def _joined(parts: list[Tensor]) -> Values:
    return np.asarray(torch.cat(parts).double().numpy(), np.float64)


def total_variation_bound(logit_error: float) -> float:
    """TV(P, P_view) <= tanh(eps / 2): the log-odds of any event move by 2 eps at most. Source: section 6, theory 1."""
    return float(np.tanh(logit_error / 2))


def divergence_bound(logit_error: float) -> float:
    """KL(P || P_view) <= eps^2 / 2 nats, by Hoeffding's lemma. Source: section 6, theory 1."""
    return logit_error**2 / 2


def is_top_safe(fresh_logits: Values, count: int, logit_error: float) -> bool:
    """Whether the first `count` of (N,) fresh logits, 1 <= count < N, must be the view's too: the gap behind them is
    above 2 eps. Source: section 6, theory 2.
    """
    falling = -np.sort(-fresh_logits)
    return bool(falling[count - 1] - falling[count] > 2 * logit_error)
