"""Maps from stale to fresh that one equation gives: ridge regression, a rotation."""

import numpy as np
from numpy.typing import NDArray

from ml.methods.corrector.pairs import Pairs

Floats = NDArray[np.float64]


def ridge_map(pairs: Pairs, *, ridge: float) -> Floats:
    """(D + 1, D) weights W, the last row an offset, that minimise |[v, 1] W - (g - v)|^2 + strength |W|^2.

    strength = ridge * n / D, n / D being the mean eigenvalue of the Gram matrix of n unit vectors; ridge > 0. So the
    map leads from v to v + [v, 1] W, and a strong ridge leaves it the identity. Source: method file corrector,
    section 2.1; with the pairs of few landmarks it is the linear stand-in for a Nystrom update (section 5, 7).
    """
    if ridge <= 0:
        raise ValueError(f"ridge is {ridge}, it must be above 0")
    stale = pairs.stale.astype(np.float64)
    inputs = np.hstack([stale, np.ones((len(stale), 1))])
    strength = ridge * len(stale) / pairs.dimension
    gram = inputs.T @ inputs + strength * np.eye(inputs.shape[1])
    return np.asarray(np.linalg.solve(gram, inputs.T @ (pairs.fresh - stale)), np.float64)


def rotation_map(pairs: Pairs) -> Floats:
    """(D + 1, D) weights as ridge_map's, for the orthogonal R nearest to v R = g: orthogonal Procrustes.

    Source: Schoenemann, 1966. The offset is 0, and angles between corrected vectors are those between raw ones.
    """
    left, _, right = np.linalg.svd(pairs.stale.astype(np.float64).T @ pairs.fresh)
    rotation = left @ right - np.eye(pairs.dimension)
    return np.asarray(np.vstack([rotation, np.zeros(pairs.dimension)]), np.float64)
