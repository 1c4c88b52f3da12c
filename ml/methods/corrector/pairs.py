"""Stale embeddings with what the newer encoder gives for the same images, and which images those are."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ml.protocol import Embeddings

Ids = NDArray[np.int64]
_UNIT = 1e-2  # float16 storage moves a norm by less


@dataclass(frozen=True, slots=True)
class Pairs:
    """stale (n, D) and fresh (n, D), float32 of unit L2 norm; row i of both shows one image; n >= 1."""

    stale: Embeddings
    fresh: Embeddings

    def __post_init__(self) -> None:
        if self.stale.ndim != 2 or self.stale.shape != self.fresh.shape or not len(self.stale):
            raise ValueError(
                f"stale is {self.stale.shape} and fresh {self.fresh.shape}, expected both (n, D), n >= 1"
            )
        for name in ("stale", "fresh"):
            vectors: Embeddings = getattr(self, name)
            norms = np.linalg.norm(vectors, axis=1)
            if vectors.dtype != np.float32 or not (np.abs(norms - 1) <= _UNIT).all():
                raise ValueError(
                    f"{name} is {vectors.dtype} with norms {norms.min():.3g} to {norms.max():.3g}, "
                    "expected float32 of norm 1"
                )

    def __len__(self) -> int:
        return len(self.stale)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.stale.shape[1])

    def picked(self, rows: Ids) -> Self:
        """The pairs at `rows`, in that order."""
        return type(self)(self.stale[rows], self.fresh[rows])

    def identity_errors(self) -> NDArray[np.float64]:
        """(n,) squared distances that no correction at all leaves, in [0, 4]: the staleness."""
        return squared_distances(self.stale, self.fresh)


def squared_distances(left: Embeddings, right: Embeddings) -> NDArray[np.float64]:
    """(n, D), (n, D) -> (n,) squared L2 distances, summed in float64."""
    return np.asarray(np.square(left.astype(np.float64) - right).sum(axis=1), np.float64)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Rows to encode anew, ascending and disjoint: fit (n,) is learned from, probe (p,) only judged by."""

    fit: Ids
    probe: Ids


def rows_to_encode(
    producers: Ids, categories: Ids, *, count: int, probe_share: float = 0.2, seed: int = 0
) -> Chosen:
    """`count` rows of N: first the probe, uniform over all, then the rest spread over (producer, category).

    producers, categories: (N,). count: 2 to N, probe included. The part to fit goes to the strata in proportion to
    what is left of each, every one getting at least one row; where rows are fewer than strata, large ones get their
    share and small ones none. Raises ValueError when that leaves nothing to fit or to judge by.
    """
    if len(producers) != len(categories):
        raise ValueError(f"{len(producers)} producers but {len(categories)} categories")
    probed = round(count * probe_share)
    if not count <= len(producers) or not 0 < probed < count:
        raise ValueError(
            f"count is {count} with a probe of {probed}, expected 2 to {len(producers)} and a part for both"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(producers))
    probe, rest = order[:probed], order[probed:]
    _, stratum = np.unique(np.stack([producers, categories])[:, rest], axis=1, return_inverse=True)
    return Chosen(np.sort(rest[_spread(stratum.reshape(-1), count - probed)]), np.sort(probe))


def _spread(stratum: Ids, count: int) -> Ids:
    """Positions of `count` of (n,) strata, in proportion, the first of each stratum first."""
    sizes = np.bincount(stratum)
    base = np.zeros(len(sizes), np.int64)
    if count >= len(sizes):
        base[:] = 1
    left = count - int(base.sum())
    spare = sizes - base
    wanted = left * spare / max(1, int(spare.sum()))
    quota = base + np.floor(wanted).astype(np.int64)
    # The largest remainders get what rounding left over; of equal ones the larger stratum, then the first.
    remaining = np.lexsort((np.arange(len(sizes)), -sizes, np.floor(wanted) - wanted))
    quota[remaining[: count - int(quota.sum())]] += 1
    by_stratum = np.argsort(stratum, kind="stable")
    place = np.arange(len(stratum)) - (np.cumsum(sizes) - sizes)[stratum[by_stratum]]
    return by_stratum[place < quota[stratum[by_stratum]]]
