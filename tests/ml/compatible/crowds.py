"""Old spaces whose prototypes stand in groups, and the same ones turned or in another order."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.methods.compatible.old_space import OldSpace


def space_of(prototypes: Tensor, counts: list[int] | None = None) -> OldSpace:
    """Rows are normalised; a class of 0 images has no prototype. Nine images a class where nothing else is said."""
    found = torch.tensor(counts) if counts is not None else torch.full((len(prototypes),), 9)
    rows = torch.where(found[:, None] > 0, F.normalize(prototypes, dim=1), 0.0)
    return OldSpace(rows, found, torch.ones(len(rows)), torch.zeros(len(rows)))


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def units(count: int, dimension: int, *, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(normal(count, dimension, seed=seed, dtype=dtype), dim=1)


def crowded(
    *, groups: int = 6, of: int = 4, dimension: int = 16, spread: float = 0.6,
    seed: int = 0, dtype: torch.dtype = torch.float64,
) -> OldSpace:  # fmt: skip
    """groups * of classes; those of a group are `spread` (length of noise) from its middle."""
    middles = units(groups, dimension, seed=seed).repeat_interleave(of, dim=0)
    noise = units(groups * of, dimension, seed=seed + 1_000)
    return space_of(F.normalize(middles + spread * noise, dim=1).to(dtype))


def rotation(dimension: int, *, seed: int = 7) -> Tensor:
    """(D, D) orthogonal."""
    found: Tensor = torch.linalg.qr(normal(dimension, dimension, seed=seed)).Q
    return found


def turned(old: OldSpace, by: Tensor) -> OldSpace:
    return replace(old, prototypes=old.prototypes @ by)


def reordered(old: OldSpace, order: Tensor) -> OldSpace:
    return OldSpace(old.prototypes[order], old.counts[order], old.concentrations[order], old.radii[order])
