"""ODPP: displacements of old prototypes found by gradient descent (method file, section 3.2, with its mends)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.methods.compatible.old_space import LOWEST_THRESHOLD, TWINS, OldSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Spreading:
    """How displacements are sought. Weights >= 0."""

    old_weight: float = 1.0  # of perturbed prototypes too near to each other
    new_weight: float = 1.0  # of perturbed prototypes too near to other classes' new ones
    stay_weight: float = 0.5  # of 1 - cosine to the old prototype
    threshold: float | None = None  # cosine from which on two are too near; None: from the old space
    passes: int = 100  # of Adam over all prototypes, the first time
    further_passes: int = 20  # at a later refresh, from where the last one ended
    learning_rate: float = 1e-3
    batch: int = 1_024  # prototypes looked at together

    def __post_init__(self) -> None:
        if min(self.old_weight, self.new_weight, self.stay_weight) < 0 or self.learning_rate <= 0:
            raise ValueError(
                f"weights {(self.old_weight, self.new_weight, self.stay_weight)} must be >= 0, learning_rate "
                f"{self.learning_rate} above 0"
            )
        if min(self.passes, self.further_passes) < 0 or self.batch < 2:
            raise ValueError(
                f"passes are {self.passes} and {self.further_passes} (>= 0), batch {self.batch} (>= 2)"
            )


def spread_displacements(
    old: OldSpace, new: Tensor | None, start: Tensor, config: Spreading, *, passes: int, seed: int
) -> Tensor:
    """(C, D) displacements after `passes` over the prototypes, begun at `start` (C, D); 0 passes give `start`.

    new: (C, D) unit prototypes of the new encoder, or None: then there is no second term. The hinges are of normalised
    vectors: else shorter vectors would satisfy them.
    """
    known = torch.nonzero(old.known).flatten()
    if passes == 0 or len(known) < 2:
        return start
    threshold = old.threshold() if config.threshold is None else config.threshold
    generator = torch.Generator().manual_seed(seed)
    moved = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([moved], lr=config.learning_rate)
    with torch.enable_grad():
        for _ in range(passes):
            order = known[torch.randperm(len(known), generator=generator)]
            for rows in torch.split(order, config.batch):
                others = None if new is None else new[rows]
                loss = spreading_loss(old.prototypes[rows], others, moved[rows], config, threshold)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return moved.detach()


def spreading_loss(
    prototypes: Tensor, new: Tensor | None, moved: Tensor, config: Spreading, threshold: float
) -> Tensor:
    """Of m classes, (m, D) each: hinges among each other and to new prototypes, and how far they have gone."""
    perturbed = F.normalize(prototypes + moved, dim=1)
    twins = (prototypes @ prototypes.T > TWINS).fill_diagonal_(fill_value=True)  # each class is its own twin
    loss = config.old_weight * _hinge(perturbed @ perturbed.T, threshold, twins)
    if new is not None:
        near = _threshold_to_new(prototypes, new, twins) if config.threshold is None else threshold
        loss = loss + config.new_weight * _hinge(perturbed @ new.T, near, twins)
    # 1 - cosine as half a squared distance: exactly flat where nothing has moved, which Adam would else make much of.
    gone = (perturbed - F.normalize(prototypes, dim=1)).square().sum(dim=1) / 2
    return loss + config.stay_weight * gone.mean()


def _threshold_to_new(prototypes: Tensor, new: Tensor, left_out: Tensor) -> float:
    """As `OldSpace.threshold`, between old prototypes and other classes' new ones; classes not seen yet have none."""
    seen = (new != 0).any(dim=1)
    cosines = (prototypes @ new.T)[~left_out & seen]
    if not len(cosines):
        return LOWEST_THRESHOLD
    return max(LOWEST_THRESHOLD, float(torch.quantile(cosines, 0.99)))


def _hinge(cosines: Tensor, threshold: float, left_out: Tensor) -> Tensor:
    """Mean over classes of the mean excess of their pairs above the threshold; a class without such a pair gives 0."""
    excess = F.relu((cosines - threshold).masked_fill(left_out, 0))  # a clamp has a gradient at the threshold
    active = (excess > 0).sum(dim=1).clamp(min=1)
    return (excess.sum(dim=1) / active).mean()
