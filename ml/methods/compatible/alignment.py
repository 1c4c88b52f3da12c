"""What holds a new encoder to an old space: one shape for this method and for the ones it is compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

Logs = dict[str, float]


@dataclass(frozen=True, slots=True)
class Seen:
    """One batch as the new encoder saw it. embeddings (B, D) unit, with gradient; labels (B,) int64, -1 for none.

    old: makes the (B, D_o) unit embeddings that the frozen old encoder gives the same pictures, when it is called.
    """

    embeddings: Tensor
    labels: Tensor
    old: Callable[[], Tensor]


class Alignment(Protocol):
    """A loss beside the new encoder's own."""

    def start_epoch(self, epoch: int) -> None:
        """Epoch `epoch` (from 0) begins; called again after a resume."""
        ...

    def loss(self, seen: Seen) -> tuple[Tensor, Logs]:
        """A scalar, already weighted, and what to log of it."""
        ...

    def module(self) -> nn.Module:
        """What it trains of its own, and as buffers whatever else a stopped training needs to go on; may be empty."""
        ...


def in_old_space(embeddings: Tensor, dimension: int) -> Tensor:
    """(B, D) unit embeddings -> (B, dimension) unit: their first coordinates, where the old space has fewer.

    Source: method file, section 4 (as in the public BCT code). Raises ValueError where the old space has more.
    """
    if embeddings.shape[1] == dimension:
        return embeddings
    if embeddings.shape[1] < dimension:
        raise ValueError(
            f"new embeddings are {embeddings.shape[1]}-d, the old space {dimension}-d: a new encoder needs as many"
        )
    return nn.functional.normalize(embeddings[:, :dimension], dim=1)
