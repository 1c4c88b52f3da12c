"""NDPP: old prototypes pushed away from their neighbours, old and new (method file, section 3.1)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.methods.compatible.old_space import TWINS, OldSpace

_EPSILON = 1e-8


def neighbour_centroids(old: OldSpace, others: Tensor, count: int) -> Tensor:
    """(C, D) unit prototypes of the same classes -> (C, D): each class's mean over the `count` nearest others, weighted
    by their cosine to its old prototype; zero where no other is near (cosine > 0).

    A class is not its own neighbour, nor is a twin: two classes that nearly coincide cannot be told apart by moving
    them, and would only leave their place. others: the old prototypes themselves, or the new encoder's.
    """
    weights = (old.prototypes @ others.T).clamp(min=0)
    weights = weights.masked_fill(~(old.known[:, None] & old.known), 0).fill_diagonal_(0)
    weights = weights.masked_fill(old.cosines() > TWINS, 0)
    nearest = weights.topk(min(count, max(0, len(weights) - 1)), dim=1)
    kept = torch.zeros_like(weights).scatter(1, nearest.indices, nearest.values)
    return kept @ others / (kept.sum(dim=1, keepdim=True) + _EPSILON)


def neighbour_driven(
    old: OldSpace, new: Tensor | None, *, strength: float | Tensor, new_strength: float, count: int
) -> Tensor:
    """(C, D) unit: normalise(p + strength r_o + new_strength r_n), r being p minus the neighbours' centroid.

    new: (C, D) unit prototypes of the new encoder, or None: then there is no second term. strength: >= 0, of all
    classes or (C,). With both strengths 0 the old prototypes themselves, bit for bit. Source: section 3.1.
    """
    strengths = torch.as_tensor(strength, dtype=old.prototypes.dtype)
    if bool((strengths < 0).any()) or new_strength < 0:
        raise ValueError(f"strengths are {strength} and {new_strength}, both must be >= 0")
    if not bool((strengths > 0).any()) and (new is None or new_strength == 0):
        return old.prototypes
    moved = old.prototypes + _away(old, old.prototypes, count) * strengths.reshape(-1, 1)
    if new is not None and new_strength > 0:
        moved = moved + _away(old, new, count) * new_strength
    return F.normalize(moved, dim=1)


def _away(old: OldSpace, others: Tensor, count: int) -> Tensor:
    """(C, D) from the neighbours' centroid to the prototype; zero where there is no neighbour."""
    centroids = neighbour_centroids(old, others, count)
    has_any = centroids.norm(dim=1, keepdim=True) > 0
    return torch.where(has_any, old.prototypes - centroids, 0.0)


def moved_cosines(old: OldSpace, strength: float, count: int) -> Tensor:
    """(C,) cos(p, p~) of the old term alone, by the closed form of section 3.1."""
    along, across = _parts(old, count)
    share = strength / (1 + strength)
    return torch.cos(torch.atan2(share * across, 1 - share * along))


def strengths_for(old: OldSpace, angles: Tensor, count: int) -> Tensor:
    """(C,) radians in [0, pi / 2) -> (C,) the largest strength that moves each prototype no further, by the closed form
    turned round; inf where none moves it so far.
    """
    along, across = _parts(old, count)
    tangents = torch.tan(angles)
    share = tangents / (across + along * tangents).clamp(min=_EPSILON)
    return torch.where(share < 1, share / (1 - share).clamp(min=_EPSILON), math.inf)


def _parts(old: OldSpace, count: int) -> tuple[Tensor, Tensor]:
    """Of each neighbours' centroid the length along its prototype and across it."""
    centroids = neighbour_centroids(old, old.prototypes, count)
    along = (centroids * old.prototypes).sum(dim=1)
    return along, (centroids - along[:, None] * old.prototypes).norm(dim=1)
