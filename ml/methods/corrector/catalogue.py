"""The items that training draws targets from, and the one way to encode them: it counts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ml.models.encoder import TwoHeaded

Purpose = Literal["extra", "measured"]
_CHUNK = 1_024


@dataclass(slots=True)
class Encodes:
    """Catalogue images encoded so far. trained: for the loss, as every policy must; extra: beyond that, to keep a
    policy's view of the catalogue (the cost that is compared); measured: to evaluate, charged to nobody.
    """

    trained: int = 0
    extra: int = 0
    measured: int = 0


class Catalogue:
    """N items of known labels. Policies get embeddings of them here and nowhere else, and `encodes` counts each."""

    def __init__(self, content: Callable[[Tensor], Tensor], labels: Tensor, encoder: TwoHeaded) -> None:
        """content: (n,) int64 ids -> (n, ...) encoder inputs, not augmented. labels: (N,) int64, negative: not known,
        so alike to nothing. encoder: the one that is being trained.
        """
        self.content, self.labels, self.encoder, self.encodes = content, labels, encoder, Encodes()
        order = torch.argsort(labels, stable=True)
        self._members = order[labels[order] >= 0]
        counts = torch.bincount(labels[labels >= 0])
        self._counts, self._starts = counts, counts.cumsum(0) - counts

    def __len__(self) -> int:
        return len(self.labels)

    def trained(self, ids: Tensor) -> Tensor:
        """(n,) ids -> (n, D) unit embeddings with gradient, by the encoder as it stands. Counts n as trained."""
        self.encodes.trained += len(ids)
        embeddings: Tensor = self.encoder(self.content(ids))[1]
        return embeddings

    @torch.no_grad()
    def fresh(self, ids: Tensor, *, purpose: Purpose = "extra") -> Tensor:
        """(n,) ids -> (n, D) unit embeddings as they would be stored now: eval mode, no gradient. Counts n."""
        setattr(self.encodes, purpose, getattr(self.encodes, purpose) + len(ids))
        was_training = self.encoder.training
        self.encoder.eval()
        try:
            parts = [self.encoder(self.content(part))[1] for part in torch.split(ids, _CHUNK)]
        finally:
            self.encoder.train(was_training)
        return torch.cat(parts)

    def everything(self, *, purpose: Purpose = "extra") -> Tensor:
        """(N, D), every item encoded anew. Counts N."""
        return self.fresh(torch.arange(len(self)), purpose=purpose)

    def settled(self, ids: Tensor, trained: Tensor) -> Tensor:
        """(n, D) what `trained` gave for ids, as it would be stored: free unless the encoder trains with batch
        statistics or dropout; then it is encoded once more, as an extra.
        """
        return trained.detach() if self._is_settled() else self.fresh(ids)

    def _is_settled(self) -> bool:
        """Whether the loss sees what would be stored: no batch statistics, no dropout at work."""
        return not any(
            part.training
            and isinstance(part, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)  # noqa: SLF001
            for part in self.encoder.modules()
        )

    def positives(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """(B,) labels -> (B,) ids, one item of each label, all equally likely; where the queries are pictures of the
        catalogue, a query's own now and then. Raises ValueError without any.
        """
        unknown = (labels < 0) | (labels >= len(self._counts))
        if bool(unknown.any()) or bool((self._counts[labels] == 0).any()):
            raise ValueError(
                f"labels are {sorted(set(labels.tolist()))}, not all have an item in the catalogue"
            )
        drawn = torch.rand(len(labels), generator=generator, dtype=torch.float64)
        return self._members[self._starts[labels] + (drawn * self._counts[labels]).long()]
