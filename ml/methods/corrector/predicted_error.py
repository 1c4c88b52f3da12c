"""Which stored images a correction serves worst, guessed from their stale embeddings alone."""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.methods.corrector.pairs import Ids
from ml.methods.corrector.probe import Values
from ml.protocol import Embeddings

_HIDDEN, _STEPS, _RATE, _DECAY, _CHECK = 32, 300, 3e-3, 1e-2, 10
_HELD_OUT = 0.25
_CHUNK = 16_384


class ErrorHead(nn.Module):
    """u(v) = w . gelu(W1 LN(v) + b1) + c, the logarithm of the squared distance that correcting v leaves."""

    def __init__(self, dimension: int, *, level: float, seed: int = 0) -> None:
        """level: the mean squared distance, > 0, which it says of everything as it is made."""
        super().__init__()
        drawn = torch.randn(_HIDDEN, dimension, generator=torch.Generator().manual_seed(seed))
        self.inner = nn.Parameter(drawn / dimension**0.5)
        self.inner_offset = nn.Parameter(torch.zeros(_HIDDEN))
        self.outer = nn.Parameter(torch.zeros(1, _HIDDEN))
        self.level = nn.Parameter(torch.tensor(level).log())

    def forward(self, stale: Tensor) -> Tensor:
        """(B, D) -> (B,) log squared distance."""
        hidden = F.linear(F.layer_norm(stale, stale.shape[1:]), self.inner, self.inner_offset)
        return F.linear(F.gelu(hidden), self.outer).squeeze(1) + self.level

    @torch.no_grad()
    def predicted(self, stale: Embeddings) -> Values:
        """(N, D) float32 -> (N,) expected squared distances, > 0."""
        parts = [
            self(torch.from_numpy(stale[start : start + _CHUNK])).double().exp().numpy()
            for start in range(0, len(stale), _CHUNK)
        ]
        return np.concatenate([np.empty(0), *parts])


def error_likelihood_loss(log_errors: Tensor, squared_errors: Tensor) -> Tensor:
    """Mean of s exp(-u) / 2 + u / 2 over items, least where u = log E[s]. Both (B,), s >= 0.

    Source: method file corrector, section 2.1. The errors are numbers here: no gradient reaches the map that made them.
    """
    return 0.5 * (squared_errors.detach() * torch.exp(-log_errors) + log_errors).mean()


def fit_error_head(stale: Embeddings, squared_errors: Values, *, seed: int = 0) -> ErrorHead:
    """Fit to stale (n, D) and the squared distances (n,) that the correction left on them, n >= 8.

    These should be errors on pairs that the map was not fitted on (`fitting.out_of_fold_errors`). A quarter of them
    decides when to stop; when nothing is to be learned, every image gets the same. The same input gives the same head.
    """
    if len(stale) != len(squared_errors) or len(stale) < 8:
        raise ValueError(
            f"{len(stale)} embeddings and {len(squared_errors)} errors, expected as many, at least 8"
        )
    inputs, errors = torch.from_numpy(stale), torch.tensor(squared_errors, dtype=torch.float32)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(stale)))
    held_out, seen = order[: round(_HELD_OUT * len(order))], order[round(_HELD_OUT * len(order)) :]
    head = ErrorHead(stale.shape[1], level=max(float(errors[seen].mean()), 1e-12), seed=seed)
    optimiser = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=_DECAY)
    best, best_loss = head, float("inf")
    for step in range(_STEPS + 1):
        if step % _CHECK == 0:
            with torch.no_grad():
                loss = float(error_likelihood_loss(head(inputs[held_out]), errors[held_out]))
            if loss < best_loss:
                best, best_loss = copy.deepcopy(head), loss
        optimiser.zero_grad(set_to_none=True)
        error_likelihood_loss(head(inputs[seen]), errors[seen]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return best


def backfill_order(predicted: Values, ids: Ids) -> Ids:
    """(N,) predicted errors, (N,) ids -> the ids, what is served worst first; of equals the smaller id first."""
    if len(predicted) != len(ids) or np.isnan(predicted).any():
        raise ValueError(f"{len(predicted)} predicted errors for {len(ids)} ids, expected a number for each")
    return ids[np.lexsort((ids, -predicted))]
