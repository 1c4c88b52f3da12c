"""What the method is compared with: BCT, UniBCT, LCE and hot-refresh, each a loss beside the new encoder's own.

Source: method file backward_compatible, section 7. All leave out images whose class has no row to be held to, and none
lets a gradient into what the old encoder made. `rivals_adversarial` holds AdvBCT.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.losses.arc_face import arc_face_loss
from ml.losses.classification import cosine_cross_entropy
from ml.methods.compatible.alignment import Logs, Seen, in_old_space
from ml.methods.compatible.guard import angles_between
from ml.methods.compatible.old_space import OldSpace


def rows_of_known(labels: Tensor, known: Tensor) -> Tensor:
    """(B,) labels, -1 for none, and (C,) bool -> (n,) rows of the batch whose class is known."""
    return torch.nonzero((labels >= 0) & known[labels]).flatten()


class _Unchanging:
    """An alignment that trains nothing of its own and is the same in every epoch."""

    def start_epoch(self, epoch: int) -> None:
        """Nothing to do."""

    def module(self) -> nn.Module:
        """Empty."""
        return nn.Module()


class _FixedClassifier:
    """The rows that classes have, and which of them belongs to which class."""

    def __init__(self, rows: Tensor, known: Tensor) -> None:
        """rows (C, D), known (C,) bool."""
        self.rows = rows[known].detach().clone()
        self.known = known
        self.positions = torch.cumsum(known, dim=0) - 1

    def of(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """(n, D) unit embeddings of the images whose class has a row, and (n,) which row it is."""
        kept = rows_of_known(seen.labels, self.known)
        embeddings = in_old_space(seen.embeddings[kept], self.rows.shape[1])
        return embeddings, self.positions[seen.labels[kept]]


class BctAlignment(_Unchanging):
    """BCT's influence loss: the old classifier, frozen, must classify the new embeddings (Shen et al., CVPR 2020).

    Classes it lacks get the pseudo old classifier's row: their prototype, as long as its own rows are on average.
    """

    def __init__(
        self, old: OldSpace, rows: Tensor, known: Tensor, *, scale: float | None = 30.0, weight: float = 1.0
    ) -> None:
        """rows: (C, D) without bias, as trained with the old encoder; known: (C,) bool, which of them were.

        scale: of cosines, > 0; None takes inner products with the rows as long as they are. weight >= 0.
        """
        if rows.shape != old.prototypes.shape or known.shape != old.counts.shape:
            raise ValueError(
                f"rows are {tuple(rows.shape)} and known {tuple(known.shape)}, prototypes "
                f"{tuple(old.prototypes.shape)}: rows must be alike, known one per row"
            )
        if not known.any():
            raise ValueError(f"the old classifier knows none of the {len(known)} classes, it must know one")
        if scale is not None and scale <= 0:
            raise ValueError(f"scale is {scale}, it must be above 0 or None")
        synthesised = old.prototypes * rows[known].norm(dim=1).mean()
        self.classifier = _FixedClassifier(torch.where(known[:, None], rows, synthesised), known | old.known)
        self.scale, self.weight = scale, weight

    def loss(self, seen: Seen) -> tuple[Tensor, Logs]:
        """Mean cross-entropy (nats) on the old classifier."""
        embeddings, own = self.classifier.of(seen)
        if not len(own):
            return seen.embeddings.sum() * 0, {"bct": 0.0}
        if self.scale is None:
            found = F.cross_entropy(embeddings @ self.classifier.rows.T, own)
        else:
            found = cosine_cross_entropy(embeddings, self.classifier.rows, own, scale=self.scale)
        return self.weight * found, {"bct": float(found.detach())}


class UniBctAlignment(_Unchanging):
    """ArcFace on the old prototypes as a fixed classifier: UniBCT (arXiv 2203.01583) as the AdvBCT benchmark has it,
    with plain centres instead of ones refined over their graph.
    """

    def __init__(
        self, old: OldSpace, *, scale: float = 30.0, margin: float = 0.3, weight: float = 1.0
    ) -> None:
        """scale > 0, margin in radians, [0, pi / 2], weight >= 0."""
        self.classifier = _FixedClassifier(old.prototypes, old.known)
        self.scale, self.margin, self.weight = scale, margin, weight

    def loss(self, seen: Seen) -> tuple[Tensor, Logs]:
        """Mean cross-entropy (nats) with the margin."""
        embeddings, own = self.classifier.of(seen)
        if not len(own):
            return seen.embeddings.sum() * 0, {"uni_bct": 0.0}
        rows = self.classifier.rows
        found = arc_face_loss(embeddings, rows, own, scale=self.scale, margin=self.margin)
        return self.weight * found, {"uni_bct": float(found.detach())}


class LceAlignment(_Unchanging):
    """LCE: no further from the old prototype than old images are, and the new class centre upon it."""

    def __init__(self, old: OldSpace, centres: nn.Parameter, *, weight: float = 1.0) -> None:
        """centres: (C, D) of the new encoder's own classifier, D >= the old space's; gradient reaches them, but they
        stay the new encoder's to train and save. weight >= 0.
        """
        if len(centres) != len(old.counts):
            raise ValueError(f"there are {len(centres)} centres and {len(old.counts)} old classes")
        self.old, self.centres, self.weight = old, centres, weight

    def loss(self, seen: Seen) -> tuple[Tensor, Logs]:
        """Mean angle (radians) beyond the class's old radius, plus mean 1 - cosine of new centre and prototype, over
        the images.
        """
        kept = rows_of_known(seen.labels, self.old.known)
        if not len(kept):
            return seen.embeddings.sum() * 0, {"lce_boundary": 0.0, "lce_centres": 0.0}
        own = seen.labels[kept]
        prototypes = self.old.prototypes[own].detach()
        embeddings = in_old_space(seen.embeddings[kept], self.old.dimension)
        boundary = (angles_between(embeddings, prototypes) - self.old.radii[own]).clamp(min=0).mean()
        centres = in_old_space(F.normalize(self.centres[own], dim=1), self.old.dimension)
        apart = (1 - (centres * prototypes).sum(dim=1)).mean()
        logs = {"lce_boundary": float(boundary.detach()), "lce_centres": float(apart.detach())}
        return self.weight * (boundary + apart), logs


class HotRefreshAlignment(_Unchanging):
    """RACT's contrast: an image's new embedding finds its old one among old and new ones of other classes
    (arXiv 2201.09724, the regression-alleviating form on embeddings).
    """

    def __init__(
        self, old: OldSpace, *, temperature: float = 0.01, hardest: int | None = None, weight: float = 1.0
    ) -> None:
        """temperature: > 0, cosine units, 0.01 as published. hardest: of the old and of the new negatives, how many
        nearest ones count, >= 1 (10 as published); None: all. weight >= 0.
        """
        if temperature <= 0 or (hardest is not None and hardest < 1):
            raise ValueError(
                f"temperature is {temperature} (above 0), hardest {hardest} (1 at least, or None)"
            )
        self.old, self.temperature, self.hardest, self.weight = old, temperature, hardest, weight

    def loss(self, seen: Seen) -> tuple[Tensor, Logs]:
        """Mean InfoNCE (nats); the new negatives receive gradient too."""
        kept = rows_of_known(seen.labels, self.old.known)
        if not len(kept):
            return seen.embeddings.sum() * 0, {"hot_refresh": 0.0}
        labels = seen.labels[kept]
        new = in_old_space(seen.embeddings[kept], self.old.dimension)
        old = seen.old()[kept].detach()
        same = labels[:, None] == labels
        positive = (new * old).sum(dim=1, keepdim=True)
        negatives = [self._nearest((new @ others.T).masked_fill(same, -torch.inf)) for others in (old, new)]
        logits = torch.cat([positive, *negatives], dim=1) / self.temperature
        found = F.cross_entropy(logits, torch.zeros_like(labels))
        return self.weight * found, {"hot_refresh": float(found.detach())}

    def _nearest(self, cosines: Tensor) -> Tensor:
        """(n, m) -> (n, min(m, hardest)); all when there is no limit."""
        if self.hardest is None:
            return cosines
        return cosines.topk(min(self.hardest, cosines.shape[1]), dim=1).values
