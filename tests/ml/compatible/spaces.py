"""What the tests of rivals share: old spaces small enough for a hand, and batches seen in them."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.methods.compatible.alignment import Seen
from ml.methods.compatible.old_space import OldSpace

CLASSES, DIMENSION = 4, 5  # the last class has no prototype


def at(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def plane(*degrees: float, radii: tuple[float, ...] = ()) -> OldSpace:
    """An old space of one unit prototype per angle, with radii in degrees."""
    prototypes = torch.tensor([at(angle) for angle in degrees])
    count = len(degrees)
    reached = torch.deg2rad(torch.tensor(radii or (0.0,) * count))
    return OldSpace(prototypes, torch.full((count,), 9), torch.ones(count), reached)


def seen(new: Tensor, labels: list[int], old: Tensor | None = None) -> Seen:
    def unasked() -> Tensor:
        raise AssertionError("the old encoder was asked")

    return Seen(new, torch.tensor(labels), unasked if old is None else lambda: old)


def images(*degrees: float) -> Tensor:
    return torch.tensor([at(angle) for angle in degrees], requires_grad=True)


def random_space(*, seed: int = 0) -> OldSpace:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES - 1).repeat(6)
    vectors = torch.randn(CLASSES, DIMENSION, generator=generator)[labels]
    vectors = vectors + 0.3 * torch.randn(len(labels), DIMENSION, generator=generator)
    return OldSpace.of(vectors, labels, CLASSES)


def random_units(count: int, dimension: int, *, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dimension, generator=generator), dim=1)
