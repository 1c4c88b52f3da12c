"""What is kept of an old encoder's embeddings of training images: one prototype per class, and how far it reaches."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

CROWDED_QUANTILE = 0.99  # of the cosines between prototypes: what ODPP calls too near
LOWEST_THRESHOLD = 0.3
TWINS = 0.97  # cosine above which two classes are one thing under two names: they are not pushed apart
_OUTLIER = 1.5  # times the distance between quartiles


@dataclass(frozen=True, slots=True)
class StoredEntries:
    """Entries that an old encoder made: embeddings (n, D) unit, labels (n,) int64, -1 for none."""

    embeddings: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class OldSpace:
    """Of C classes in the D dimensions of the old encoder. prototypes (C, D) unit, zero for a class without images.

    counts (C,) int64 images. concentrations (C,) in [0, 1]: length of the mean of unit embeddings. radii (C,): largest
    angle (radians) of an image to its prototype, outliers left out; 0 without images.
    """

    prototypes: Tensor
    counts: Tensor
    concentrations: Tensor
    radii: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, labels: Tensor, classes: int) -> Self:
        """embeddings (n, D) of the old encoder in eval mode, not augmented; labels (n,) int64 in [0, classes), -1 is
        left out. Source: method file backward_compatible, section 2 (normalise, average, normalise).
        """
        kept = labels >= 0
        vectors, own = F.normalize(embeddings[kept], dim=1), labels[kept]
        counts = torch.bincount(own, minlength=classes)
        sums = torch.zeros(classes, vectors.shape[1]).index_add_(0, own, vectors)
        means = sums / counts.clamp(min=1)[:, None]
        prototypes = F.normalize(means, dim=1)
        angles = torch.arccos((vectors * prototypes[own]).sum(dim=1).clamp(-1, 1))
        return cls(prototypes, counts, means.norm(dim=1), _radii(angles, own, classes))

    @property
    def known(self) -> Tensor:
        """(C,) bool: classes that have a prototype."""
        return self.counts > 0

    @property
    def dimension(self) -> int:
        """D of the old encoder."""
        return int(self.prototypes.shape[1])

    def cosines(self) -> Tensor:
        """(C, C) between prototypes; -inf on the diagonal and wherever one is missing."""
        found = self.prototypes @ self.prototypes.T
        present = self.known[:, None] & self.known
        present.fill_diagonal_(fill_value=False)
        return found.masked_fill(~present, -torch.inf)

    def nearest(self) -> Tensor:
        """(C,) cosine to the nearest other prototype: how crowded it is there. -inf where there is none."""
        if len(self.counts) < 2:
            return torch.full((len(self.counts),), -torch.inf)
        return self.cosines().amax(dim=1)

    def neighbours(self) -> int:
        """k of section 5: one in forty classes, 5 at least, 100 at most; never more than there are others."""
        count = int(self.known.sum())
        return max(0, min(100, max(5, count // 40), count - 1))

    def threshold(self) -> float:
        """tau of section 3.2: what one pair in a hundred exceeds, but 0.3 at least. Twins are not counted, for they are
        not pushed apart: where there are many, nothing else would exceed it.
        """
        found = self.cosines()
        present = found[torch.isfinite(found) & (found <= TWINS)]
        if not len(present):
            return LOWEST_THRESHOLD
        # torch.quantile refuses more than 2^24 numbers, which 4,097 classes give.
        return max(LOWEST_THRESHOLD, float(np.quantile(present.numpy(), CROWDED_QUANTILE)))

    def summary(self) -> dict[str, float]:
        """How crowded it is, for logs and reports."""
        nearest = self.nearest()[self.known]
        shown = nearest[torch.isfinite(nearest)]
        mean = float(shown.mean()) if len(shown) else math.nan
        return {"classes": float(self.known.sum()), "nearest_cosine": mean, "threshold": self.threshold()}


def _radii(angles: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(n,) angles -> (C,) the largest of each class that is not above the upper quartile by 1.5 quartile distances."""
    radii = torch.zeros(classes)
    for label in torch.unique(labels).tolist():
        own = angles[labels == label]
        low, high = torch.quantile(own, torch.tensor([0.25, 0.75])).tolist()
        radii[label] = own[own <= high + _OUTLIER * (high - low) + 1e-6].max()
    return radii
