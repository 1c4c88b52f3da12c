"""What the tests of correctors share: vectors on the sphere, ways to drift, and a catalogue small enough to count."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.methods.corrector.catalogue import Catalogue
from ml.methods.corrector.config import JointConfig, Selection
from ml.methods.corrector.pairs import Pairs
from ml.models.encoder import FeatureEncoder

Floats = NDArray[np.float32]


def unit(vectors: NDArray[np.floating]) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def directions(count: int, dimension: int, *, seed: int = 0) -> Floats:
    """Uniform on the sphere."""
    return unit(np.random.default_rng(seed).normal(size=(count, dimension)))


def rotation(dimension: int, *, seed: int = 7) -> NDArray[np.float64]:
    """A random orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, dimension)))[0]


def rotated(count: int, dimension: int, *, seed: int = 0) -> Pairs:
    """Fresh is stale turned: an affine map mends it wholly."""
    stale = directions(count, dimension, seed=seed)
    return Pairs(stale, unit(stale @ rotation(dimension)))


def bent(count: int, dimension: int, *, seed: int = 0) -> Pairs:
    """Fresh is a smooth function of stale that no affine map is."""
    stale = directions(count, dimension, seed=seed)
    weights = np.random.default_rng(8).normal(size=(dimension, dimension))
    return Pairs(stale, unit(stale @ rotation(dimension) + 0.3 * np.cos(2 * stale @ weights)))


def unrelated(count: int, dimension: int, *, seed: int = 0) -> Pairs:
    """Nothing of fresh can be told from stale."""
    return Pairs(directions(count, dimension, seed=seed), directions(count, dimension, seed=seed + 1_000))


WIDTH, DIMENSION = 6, 8


def encoder(*, seed: int = 0) -> FeatureEncoder:
    torch.manual_seed(seed)
    return FeatureEncoder(WIDTH, code_hidden=4, code_bits=8, dimension=DIMENSION)


def catalogue(
    labels: list[int], model: FeatureEncoder | None = None, *, seed: int = 0, spread: float = 1.0
) -> tuple[Catalogue, Tensor]:
    """Items whose features lie about their label's mean; and those features (N, WIDTH)."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(size=(max(labels) + 1, WIDTH))
    features = torch.tensor(
        means[labels] + spread * rng.normal(size=(len(labels), WIDTH)), dtype=torch.float32
    )
    return Catalogue(features.__getitem__, torch.tensor(labels), model or encoder()), features


FOUR = Selection(count=4)
JOINT = JointConfig(uniform_share=0.5, probe=2, check_every=2)
LABELS = [label for label in range(10) for _ in range(20)]


def encoder_of(items: Catalogue) -> FeatureEncoder:
    assert isinstance(items.encoder, FeatureEncoder)
    return items.encoder


def turned(model: FeatureEncoder, angle: float) -> None:
    """Turn all embeddings a little further in the plane of each two neighbouring dimensions."""
    turn = torch.eye(DIMENSION)
    for first in range(0, DIMENSION, 2):
        turn[first : first + 2, first : first + 2] = torch.tensor(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
    with torch.no_grad():
        model.embedding_head.weight.copy_(turn @ model.embedding_head.weight)
        model.embedding_head.bias.copy_(turn @ model.embedding_head.bias)
