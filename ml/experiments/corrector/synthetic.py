"""Made-up catalogues whose embeddings drift as if their encoder had been trained on: what is known of them is exact."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ml.methods.corrector.pairs import Pairs, squared_distances
from ml.protocol import Embeddings

Floats = NDArray[np.float64]
_STEP = 0.05  # of time, between two looks at the field


@dataclass(frozen=True, slots=True)
class World:
    """A catalogue and a smooth field on the sphere along which its embeddings move; `seed` draws both.

    Embeddings spread along the i-th direction by 1 / i, as those of a trained encoder roughly do. In one unit of time
    all turn a little (linear) and each is bent by where it is (not linear); what the newer encoder sees of an image
    that the older one did not is noise to any map, its squared length growing by `noise` in a unit of time.
    """

    seed: int
    dimension: int = 32
    noise: float = 0.02
    turn: float = 0.4
    bend: float = 0.6
    _waves: tuple[Floats, Floats, Floats, Floats] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rng, size = np.random.default_rng([self.seed, 0]), self.dimension
        skew = rng.normal(size=(size, size))
        waves = (
            (skew - skew.T) / np.sqrt(2 * size),
            rng.normal(size=(size, 2 * size)),
            rng.uniform(0, 2 * np.pi, 2 * size),
            rng.normal(size=(2 * size, size)) / size,
        )
        object.__setattr__(self, "_waves", waves)

    def stale(self, count: int, *, draw: int) -> Embeddings:
        """(count, D) float32 of unit L2 norm; another `draw`, other items of the same catalogue."""
        rng = np.random.default_rng([self.seed, 1, draw])
        return unit(rng.normal(size=(count, self.dimension)) / np.arange(1, self.dimension + 1))

    def moved(self, stale: Embeddings, time: float) -> Embeddings:
        """Where the field takes (N, D) in `time` >= 0: a function of the stale embedding."""
        turning, inwards, phases, outwards = self._waves
        place = stale.astype(np.float64)
        steps = max(1, round(time / _STEP))
        for _ in range(steps):
            push = self.turn * place @ turning + self.bend * np.cos(place @ inwards + phases) @ outwards
            place += time / steps * push
            place /= np.linalg.norm(place, axis=1, keepdims=True)
        return unit(place)

    def pairs(self, count: int, time: float, *, draw: int) -> Pairs:
        """`count` items before and after."""
        stale = self.stale(count, draw=draw)
        return Pairs(stale, self._noisy(self.moved(stale, time), time, draw))

    def floor(self, count: int, time: float, *, draw: int) -> float:
        """E Var[fresh | stale], below which no map of the stale embedding gets: half the mean squared distance of two
        newer embeddings of one image that differ by noise alone, the first being those of `pairs`.
        """
        moved = self.moved(self.stale(count, draw=draw), time)
        first, second = (self._noisy(moved, time, own) for own in (draw, -1 - draw))
        return float(0.5 * squared_distances(first, second).mean())

    def _noisy(self, moved: Embeddings, time: float, draw: int) -> Embeddings:
        rng = np.random.default_rng([self.seed, 2, draw % 2**32])
        spread = np.sqrt(self.noise * time / self.dimension)
        return unit(moved + spread * rng.normal(size=moved.shape))


def unit(vectors: NDArray[np.floating]) -> Embeddings:
    """Rows of any length but 0 -> float32 of unit L2 norm."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
