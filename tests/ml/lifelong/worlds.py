"""What the tests of lifelong codes share: label sets to count, and classes that are Gaussians in feature space."""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.labels import LabelRegistry, LabelSet
from ml.methods.lifelong.statistics import Signs

# Labels of unequal weight, and items that carry one to three of them.
REGISTRY = LabelRegistry(("bag", "shoe", "red", "blue", "nylon"), (1.0, 1.0, 0.5, 0.5, 2.0))
SETS: list[LabelSet] = [(0,), (1,), (0, 2), (0, 3, 4), (1, 3), (1, 2, 4)]


class Shard(NamedTuple):
    sets: list[LabelSet]
    codes: Signs


def random_signs(count: int, bits: int, rng: np.random.Generator) -> Signs:
    return rng.choice(np.array([-1, 1], np.int8), (count, bits))


def shard(count: int, *, bits: int = 16, seed: int = 0, sets: list[LabelSet] | None = None) -> Shard:
    """Codes without any order in them, under label sets drawn at random."""
    rng, known = np.random.default_rng(seed), sets or SETS
    return Shard([known[one] for one in rng.integers(len(known), size=count)], random_signs(count, bits, rng))


def digest(*arrays: NDArray[np.generic]) -> str:
    """SHA-256 of the arrays' bytes, one behind the other."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
