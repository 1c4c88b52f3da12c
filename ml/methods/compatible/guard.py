"""How far a prototype may move: the gallery stays where it is, so a perturbed prototype must still be nearest to it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.methods.compatible.old_space import OldSpace

_BISECTIONS = 12
_OPPOSITE = math.pi - 1e-3  # radians from which on rounding decides which way leads there
_ALIKE = 1e-4  # radians: between vectors as near as that, all of the way is a straight line


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The limits, applied in this order. Source: method file backward_compatible, section 3.3."""

    largest_angle: float = 20.0  # degrees from the old prototype, (0, 90]
    # A perturbed prototype is nearer (in cosine) to its own old one than to any other by this, or by what the
    # unperturbed one is nearer if that is less; >= 0.
    margin: float = 0.05
    rare: int = 3  # a class of fewer images moves n / (n + rare) of the way; >= 0

    def __post_init__(self) -> None:
        if not 0 < self.largest_angle <= 90 or self.margin < 0 or self.rare < 0:
            raise ValueError(
                f"largest_angle is {self.largest_angle} (above 0 to 90), margin {self.margin} and rare "
                f"{self.rare} (>= 0)"
            )

    def applied(self, old: OldSpace, moved: Tensor) -> Tensor:
        """(C, D) unit, perturbed -> (C, D) unit, no further than allowed. Rows that may stay are left as they are,
        bit for bit; a class without a prototype keeps its old row.
        """
        found = self._capped(old.prototypes, moved)
        found = self._owned(old, found)
        share = old.counts / (old.counts + self.rare)
        is_shrunk = (old.counts < self.rare) & (found != old.prototypes).any(dim=1)
        found = torch.where(is_shrunk[:, None], slerp(old.prototypes, found, share.float()), found)
        return torch.where(old.known[:, None], found, old.prototypes)

    def _capped(self, prototypes: Tensor, moved: Tensor) -> Tensor:
        angles, limit = angles_between(prototypes, moved), math.radians(self.largest_angle)
        nearer = slerp(prototypes, moved, limit / angles.clamp(min=limit))
        return torch.where((angles > limit)[:, None], nearer, moved)

    def _owned(self, old: OldSpace, moved: Tensor) -> Tensor:
        """The margin is concave along the way where it is positive, so halving finds the furthest point that has it."""
        wanted = margins(old, old.prototypes).clamp(max=self.margin)
        fails = margins(old, moved) < wanted
        low, high = torch.zeros(len(moved)), torch.ones(len(moved))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            holds = margins(old, slerp(old.prototypes, moved, middle)) >= wanted
            low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
        return torch.where(fails[:, None], slerp(old.prototypes, moved, low), moved)


def margins(old: OldSpace, moved: Tensor) -> Tensor:
    """(C, D) unit -> (C,) cosine to the own old prototype minus that to the nearest other; inf without another."""
    cosines = moved @ old.prototypes.T
    own = cosines.diagonal()
    others = cosines.masked_fill(~old.known, -torch.inf).fill_diagonal_(-torch.inf)
    return own - others.amax(dim=1)


def angles_between(first: Tensor, second: Tensor) -> Tensor:
    """(C, D), (C, D) unit -> (C,) radians, exact for small angles too."""
    return 2 * torch.atan2((first - second).norm(dim=1), (first + second).norm(dim=1))


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """(C, D) unit rows that lie `share` (C,) in [0, 1] of the angle from start to end; share 0 gives start itself.

    So does an end opposite to start: no way leads there rather than another.
    """
    angles = angles_between(start, end)[:, None]
    share = share[:, None]
    sine = torch.sin(angles).clamp(min=1e-12)
    curved = (torch.sin((1 - share) * angles) * start + torch.sin(share * angles) * end) / sine
    straight = (1 - share) * start + share * end
    found = F.normalize(torch.where(angles > _ALIKE, curved, straight), dim=1)
    return torch.where((share > 0) & (angles < _OPPOSITE), found, start)
