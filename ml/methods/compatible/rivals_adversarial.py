"""AdvBCT (arXiv 2305.02610): new embeddings that cannot be told from old ones, within elastic bounds of their class.

Deviations from its public code: old and new embeddings pass the discriminator's batch norm together (each by itself,
it would take away the very difference of means that is to be seen), both of unit length; epochs count from 1 in the
weight (E - e + 1) / E; the learnable part of every bound begins at one half, not at random.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.methods.compatible.alignment import Logs, Seen, in_old_space
from ml.methods.compatible.old_space import OldSpace
from ml.methods.compatible.rivals import rows_of_known

_HIDDEN = 100
_NEW, _OLD = 0, 1


class Adversary(nn.Module):
    """What AdvBCT trains beside the encoder."""

    def __init__(self, dimension: int, classes: int) -> None:
        super().__init__()
        self.discriminator = nn.Sequential(
            nn.Linear(dimension, _HIDDEN), nn.BatchNorm1d(_HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 2)
        )
        self.looseness = nn.Parameter(torch.zeros(classes))  # w, before the sigmoid

    def domain_loss(self, new: Tensor, old: Tensor, strength: float) -> Tensor:
        """(n, D), (n, D) -> scalar, nats: cross-entropy of telling them apart, of the new ones plus of the old ones.

        The discriminator descends; `new` receives -strength times the gradient, `old` none.
        """
        both = torch.cat([reverse_gradient(new, strength), old.detach()])
        verdicts_new, verdicts_old = self.discriminator(both).split(len(new))
        own = torch.full((len(new),), _NEW)
        return F.cross_entropy(verdicts_new, own) + F.cross_entropy(verdicts_old, torch.full_like(own, _OLD))

    def bounds(self, reaches: Tensor, largest: float) -> Tensor:
        """(C,) distances that old images reach -> (C,) what is allowed: between that and `largest`, learned."""
        return reaches + (largest - reaches) * torch.sigmoid(self.looseness)


class AdvBctAlignment:
    """A domain discriminator behind a reversed gradient, and the elastic boundary."""

    def __init__(
        self,
        old: OldSpace,
        *,
        epochs: int,
        steps_per_epoch: int,
        seed: int,
        largest: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        """epochs, steps_per_epoch: of the whole training, both >= 1. seed: of the discriminator's first weights, drawn
        aside. largest: T_r, a Euclidean distance in (0, 2]. weight >= 0.
        """
        if epochs < 1 or steps_per_epoch < 1 or not 0 < largest <= 2:
            raise ValueError(
                f"epochs are {epochs} and steps_per_epoch {steps_per_epoch} (both >= 1), largest {largest} "
                "(above 0 to 2)"
            )
        self.old, self.epochs, self.steps_per_epoch = old, epochs, steps_per_epoch
        self.largest, self.weight = largest, weight
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.adversary = Adversary(old.dimension, len(old.counts))
        self.reaches = 2 * torch.sin(old.radii / 2)  # chord of the angle
        self.epoch, self.step = 0, 0

    def start_epoch(self, epoch: int) -> None:
        """Epoch `epoch` (from 0) begins."""
        self.epoch, self.step = epoch, 0

    @property
    def strength(self) -> float:
        """Of the reversal, in [0, 1): 2 / (1 + exp(-10 p)) - 1, p being the share of all steps that is done."""
        done = (self.epoch + min(1.0, self.step / self.steps_per_epoch)) / self.epochs
        return math.tanh(5 * done)

    def loss(self, seen: Seen) -> tuple[Tensor, Logs]:
        """The domain loss, less and less of it, plus the boundary. Each call is one step of the epoch."""
        strength = self.strength
        self.step += 1
        kept = rows_of_known(seen.labels, self.old.known)
        if not len(kept):
            return seen.embeddings.sum() * 0, {"adv_domain": 0.0, "adv_boundary": 0.0}
        own = seen.labels[kept]
        new = in_old_space(seen.embeddings[kept], self.old.dimension)
        domain = self.adversary.domain_loss(new, seen.old()[kept], strength)
        bounds = self.adversary.bounds(self.reaches, self.largest)
        boundary = boundary_loss(new, self.old.prototypes[own], bounds[own])
        share = (self.epochs - self.epoch) / self.epochs
        logs = {"adv_domain": float(domain.detach()), "adv_boundary": float(boundary.detach())}
        return self.weight * (share * domain + boundary), logs

    def module(self) -> nn.Module:
        """Discriminator, its running statistics, and how loose each bound is."""
        return self.adversary


def boundary_loss(embeddings: Tensor, prototypes: Tensor, bounds: Tensor) -> Tensor:
    """(n, D), (n, D), (n,) -> scalar: mean distance beyond the bound over those beyond it, 0 when none is.

    Gradient reaches the embeddings and the bounds.
    """
    excess = F.relu((embeddings - prototypes.detach()).norm(dim=1) - bounds)
    return excess.sum() / (excess > 0).sum().clamp(min=1)


def reverse_gradient(values: Tensor, strength: float) -> Tensor:
    """The values as they are; their gradient times -strength."""
    reversed_: Tensor = _Reversal.apply(values, strength)  # type: ignore[no-untyped-call]
    return reversed_


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None
