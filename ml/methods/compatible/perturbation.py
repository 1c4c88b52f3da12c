"""The alignment of this method: towards old prototypes, perturbed anew as the new encoder learns."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.losses.prototype_alignment import Targets, entry_alignment_loss, prototype_alignment_loss
from ml.methods.compatible.alignment import Logs, Seen, in_old_space
from ml.methods.compatible.config import Compatibility
from ml.methods.compatible.guard import Guard, angles_between
from ml.methods.compatible.neighbours import neighbour_driven, strengths_for
from ml.methods.compatible.old_space import OldSpace, StoredEntries
from ml.methods.compatible.optimised import spread_displacements

BEARABLE = 0.5  # share of classes that the automatic strength leaves within their own limit without the guard
STRONGEST = 3.2


def automatic_strength(old: OldSpace, guard: Guard, count: int) -> float:
    """The strength that half of the classes bear: each half the angle to its nearest neighbour (so it keeps its place,
    by the triangle inequality) and the guard's largest angle at most. By the closed form, without a trial.
    """
    nearest = old.nearest()
    crowded = old.known & torch.isfinite(nearest)
    if not bool(crowded.any()):
        return 0.0
    room = torch.arccos(nearest.clamp(-1, 1)) / 2
    bearable = strengths_for(old, room.clamp(max=math.radians(guard.largest_angle)), count)[crowded]
    return min(STRONGEST, float(torch.quantile(bearable.clamp(max=STRONGEST), 1 - BEARABLE)))


class _State(nn.Module):
    """What a stopped training needs to go on, as buffers: nothing of it is optimised by the encoder's steps."""

    perturbed: Tensor
    displacements: Tensor
    new: Tensor
    moved: Tensor
    furthest: Tensor

    def __init__(self, prototypes: Tensor) -> None:
        super().__init__()
        self.register_buffer("perturbed", prototypes.clone())
        self.register_buffer("displacements", torch.zeros_like(prototypes))  # ODPP's
        self.register_buffer("new", torch.zeros_like(prototypes))  # zero until a class was seen
        self.register_buffer("moved", torch.zeros(()))  # degrees, mean over classes
        self.register_buffer("furthest", torch.zeros(()))  # the same, of the class that moved furthest


class PrototypeAlignment:
    """Fits ml.methods.compatible.alignment.Alignment. Labels are those of the old space's classes."""

    def __init__(
        self, old: OldSpace, config: Compatibility, *, entries: StoredEntries | None = None, seed: int = 0
    ) -> None:
        """entries: those of the same classes, where config.entry_weight is above 0. seed: of the order in which ODPP
        looks at prototypes.
        """
        if config.entry_weight > 0 and entries is None:
            raise ValueError(f"entry_weight is {config.entry_weight}, but no stored entries are given")
        self.old, self.config, self.seed = old, config, seed
        self.entries = entries if config.entry_weight > 0 else None
        self.neighbours = config.neighbours or old.neighbours()
        self.strength = (
            automatic_strength(old, config.guard, self.neighbours)
            if isinstance(config.strength, str)
            else config.strength
        )
        self.state = _State(old.prototypes)
        self._targets = Targets.plain(old.prototypes, old.known)

    def module(self) -> nn.Module:
        """Perturbed and new prototypes."""
        return self.state

    @property
    def perturbed(self) -> Tensor:
        """(C, D) as they stand."""
        return self.state.perturbed

    @torch.no_grad()
    def start_epoch(self, epoch: int) -> None:
        """Perturb anew where it is time. From the state alone, so a training taken up again goes on alike."""
        config = self.config
        since = epoch - config.warmup_epochs
        if config.kind != "none" and (epoch == 0 or (since >= 0 and since % config.period == 0)):
            self._refresh(epoch, new=self.state.new if since >= 0 else None)
        negatives = self.state.perturbed if config.perturbs_negatives else self.old.prototypes
        positives = self.old.prototypes if config.kind == "none" else self.state.perturbed
        self._targets = Targets(positives, negatives, self.old.known)

    def loss(self, seen: Seen) -> tuple[Tensor, Logs]:
        """The prototype-contrastive loss and that towards stored entries, weighted; new prototypes follow the batch."""
        embeddings = in_old_space(seen.embeddings, self.old.dimension)
        self._follow(embeddings.detach(), seen.labels)
        loss = prototype_alignment_loss(
            embeddings, self._targets, seen.labels, temperature=self.config.temperature
        )
        logs = {
            "alignment": float(loss.detach()), "perturbed_degrees": float(self.state.moved),
            "furthest_degrees": float(self.state.furthest),
        }  # fmt: skip
        loss = self.config.weight * loss
        if self.entries is not None:
            towards = entry_alignment_loss(
                embeddings, self._moved_entries(self.entries), self.entries.labels, seen.labels,
                temperature=self.config.entry_temperature,
            )  # fmt: skip
            loss = loss + self.config.entry_weight * towards
            logs["entries"] = float(towards.detach())
        return loss, logs

    def _moved_entries(self, entries: StoredEntries) -> Tensor:
        """(n, D) unit: each moved as its class's prototype is."""
        gone = self.state.perturbed - self.old.prototypes
        if not bool(gone.any()):
            return entries.embeddings
        moved = entries.embeddings + gone[entries.labels.clamp(min=0)]
        return F.normalize(torch.where((entries.labels >= 0)[:, None], moved, entries.embeddings), dim=1)

    def _refresh(self, epoch: int, new: Tensor | None) -> None:
        state, config = self.state, self.config
        if config.kind == "ndpp":
            moved = neighbour_driven(
                self.old, new,
                strength=self.strength, new_strength=config.new_strength, count=self.neighbours,
            )  # fmt: skip
        else:
            moved = self._spread(epoch, new)
        moved = config.guard.applied(self.old, moved)
        is_unsteady = float(self._degrees(state.perturbed, moved).mean()) > config.steady_degrees
        if epoch > config.warmup_epochs and is_unsteady:
            moved = F.normalize(state.perturbed + moved, dim=1)  # between two that are allowed: allowed
        state.perturbed.copy_(moved)
        degrees = self._degrees(self.old.prototypes, moved)
        state.moved.copy_(degrees.mean())
        state.furthest.copy_(degrees.max())

    def _degrees(self, first: Tensor, second: Tensor) -> Tensor:
        """(n,) of the classes that have a prototype; a single 0 when none has."""
        angles = torch.rad2deg(angles_between(first, second)[self.old.known])
        return angles if len(angles) else torch.zeros(1)

    def _spread(self, epoch: int, new: Tensor | None) -> Tensor:
        """Displacements go on from where the last refresh left them."""
        state, spreading = self.state, self.config.spreading
        found = spread_displacements(
            self.old, new, state.displacements, spreading,
            passes=spreading.further_passes if epoch else spreading.passes, seed=self.seed * 1_000_003 + epoch,
        )  # fmt: skip
        state.displacements.copy_(found)
        if not bool(found.any()):
            return self.old.prototypes
        return F.normalize(self.old.prototypes + found, dim=1)

    @torch.no_grad()
    def _follow(self, embeddings: Tensor, labels: Tensor) -> None:
        """New prototypes: a moving average of each class's mean embedding, begun at the first one."""
        new = self.state.new
        kept = labels >= 0
        present, place = torch.unique(labels[kept], return_inverse=True)
        sums = torch.zeros(len(present), embeddings.shape[1]).index_add_(0, place, embeddings[kept])
        means = F.normalize(sums, dim=1)
        before = new[present]
        is_first = (before == 0).all(dim=1, keepdim=True)
        after = torch.where(
            is_first, means, self.config.momentum * before + (1 - self.config.momentum) * means
        )
        new[present] = F.normalize(after, dim=1)
