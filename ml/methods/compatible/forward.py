"""FCT and FastFill: a map from what is stored of an image to the embedding that an independent new encoder gives it."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.protocol import Embeddings
from ml.training.loop import FitConfig, learning_rate_at

Ids = NDArray[np.int64]
PUBLISHED_WIDTH, PUBLISHED_EPOCHS = 2_048, 80
_CHUNK = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardConfig:
    """How a map is fitted; the defaults are the published ones. Source: method file backward_compatible, section 7."""

    width: int = PUBLISHED_WIDTH  # of the two layers that mix both branches, >= 1
    epochs: int = PUBLISHED_EPOCHS  # >= 1
    batch: int = 1_024  # at most; an epoch's batches are of equal size. >= 2
    learning_rate: float = 5e-4  # of Adam at its peak, > 0
    weight_decay: float = 3e-5  # added to gradients, >= 0
    warmup_epochs: float = 5.0  # linear, then half a cosine to 0; >= 0

    def __post_init__(self) -> None:
        if min(self.width, self.epochs) < 1 or self.batch < 2:
            raise ValueError(
                f"width is {self.width} (>= 1), epochs {self.epochs} (>= 1), batch {self.batch} (>= 2)"
            )
        self.schedule()

    def schedule(self) -> FitConfig:
        """Of the learning rate. Raises ValueError on what that does not allow."""
        return FitConfig(
            epochs=self.epochs, learning_rate=self.learning_rate, final_share=0.0,
            warmup_epochs=self.warmup_epochs, weight_decay=self.weight_decay,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """What is kept of N images: embeddings (N, D) of the old encoder, and side information (N, S) or None, float32."""

    embeddings: Embeddings
    side: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.side is not None and len(self.side) != len(self.embeddings):
            raise ValueError(
                f"{len(self.embeddings)} embeddings with side information of {len(self.side)} images"
            )

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def side_size(self) -> int:
        """S, 0 without side information."""
        return 0 if self.side is None else int(self.side.shape[1])

    def picked(self, rows: Ids) -> Self:
        """Of the images at `rows`, in that order."""
        return type(self)(self.embeddings[rows], None if self.side is None else self.side[rows])

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """As a map reads them."""
        return torch.from_numpy(self.embeddings), None if self.side is None else torch.from_numpy(self.side)


@dataclass(frozen=True, slots=True)
class Classifier:
    """The new encoder's, frozen: its logits are unit embeddings times rows (C, D), a cosine classifier's times its
    scale. labels (n,) int64 of the images that a map is fitted to, -1 for none.
    """

    rows: NDArray[np.float32]
    labels: Ids


class ForwardMap(nn.Module):
    """Two branches D -> 2 D -> 2 D and S -> 2 D -> 2 D, mixed by width -> width -> D_new; without S the second is left
    out. Beside it u, the logarithm of the squared distance to expect, which only FastFill's loss teaches.
    """

    def __init__(self, dimension: int, side_size: int, new_dimension: int, *, width: int, seed: int) -> None:
        super().__init__()
        inner = 2 * dimension
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.old = _layers(dimension, inner, inner)
            self.side = _layers(side_size, inner, inner) if side_size else None
            self.mixed = _layers(inner * (2 if side_size else 1), width, width)
            self.out = nn.Linear(width, new_dimension)
            self.log_error = nn.Linear(width, 1)
        nn.init.zeros_(self.log_error.weight)
        nn.init.zeros_(self.log_error.bias)

    def forward(self, embeddings: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, D) and (B, S) or None -> (B, D_new), not normalised, and (B,) u."""
        if (side is None) != (self.side is None):
            raise ValueError(
                f"side information is {'missing' if side is None else 'given'}, the map was fitted otherwise"
            )
        hidden = self.old(embeddings)
        if self.side is not None:
            hidden = torch.cat([hidden, self.side(side)], dim=1)
        hidden = self.mixed(hidden)
        return self.out(hidden), self.log_error(hidden).squeeze(1)

    @torch.no_grad()
    def applied(self, stored: Stored) -> tuple[Embeddings, NDArray[np.float32]]:
        """Of N images (N, D_new) float32 unit embeddings, and (N,) u."""
        self.eval()
        embeddings, side = stored.tensors()
        found, errors = [], []
        for rows in torch.split(torch.arange(len(stored)), _CHUNK):
            moved, log_errors = self(embeddings[rows], None if side is None else side[rows])
            found.append(F.normalize(moved, dim=1))
            errors.append(log_errors)
        return torch.cat(found).numpy(), torch.cat(errors).numpy()


def fit_forward_map(
    stored: Stored, new: Embeddings, config: ForwardConfig, *, seed: int, classifier: Classifier | None = None
) -> ForwardMap:
    """A map from stored (n) to new (n, D_new), unit. Without a classifier FCT: squared distance; with it FastFill.

    n >= 2. The same input gives the same map.
    """
    if len(stored) != len(new) or len(new) < 2:
        raise ValueError(f"{len(stored)} stored and {len(new)} new embeddings, expected as many, at least 2")
    old, side = stored.tensors()
    wanted = torch.from_numpy(new)
    rows_of = None if classifier is None else torch.from_numpy(classifier.rows)
    labels = None if classifier is None else torch.from_numpy(classifier.labels)
    found = ForwardMap(old.shape[1], stored.side_size, wanted.shape[1], width=config.width, seed=seed).train()
    optimiser = torch.optim.Adam(found.parameters(), weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    batches = min(-(-len(wanted) // config.batch), len(wanted) // 2)  # of two or more: batch norm needs them
    total, warmup = batches * config.epochs, round(batches * config.warmup_epochs)
    for step in range(total):
        if step % batches == 0:
            order = torch.randperm(len(wanted), generator=generator).tensor_split(batches)
        rows = order[step % batches]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(step, total, warmup, config.schedule())
        moved, log_errors = found(old[rows], None if side is None else side[rows])
        if rows_of is None or labels is None:
            loss = squared_distances(moved, wanted[rows]).mean()
        else:
            loss = fastfill_loss(moved, wanted[rows], log_errors, rows_of, labels[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return found


def fastfill_loss(
    moved: Tensor, new: Tensor, log_errors: Tensor, classifier: Tensor, labels: Tensor
) -> Tensor:
    """Mean of (|h - phi|^2 + CE(W h, y)) exp(-u) / 2 + u / 2, least where u is the log of what stands in brackets.

    moved h, new phi (B, D); log_errors u (B,); classifier W (C, D), which reads unit embeddings and so is given h
    normalised; labels y (B,), -1 adds no cross-entropy (nats). Source: method file, section 7, item 11 (ours there).
    """
    logits = F.normalize(moved, dim=1) @ classifier.T
    told = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
    errors = squared_distances(moved, new) + told
    return 0.5 * (errors * torch.exp(-log_errors) + log_errors).mean()


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """(B, D), (B, D) -> (B,)."""
    return (left - right).square().sum(dim=1)


def _layers(size: int, *widths: int) -> nn.Sequential:
    """Linear, batch norm and ReLU, once for each width."""
    parts: list[nn.Module] = []
    for before, after in zip((size, *widths), widths):
        parts += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*parts)
