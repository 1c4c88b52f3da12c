"""Which stored images to encode anew first, when there is not time for all."""

import numpy as np
from numpy.typing import NDArray

from ml.protocol import Embeddings

Ids = NDArray[np.int64]


def largest_first(values: NDArray[np.floating]) -> Ids:
    """(N,) -> (N,) rows, those of the largest value first; of equals the smaller row. FastFill gives it predicted
    errors, the order by classes the distances below.
    """
    if np.isnan(values).any():
        raise ValueError(f"{np.isnan(values).sum()} of {len(values)} values are not a number")
    return np.lexsort((np.arange(len(values)), -values))


def class_mean_distances(embeddings: Embeddings, labels: Ids) -> NDArray[np.float64]:
    """(N, D) unit, (N,) -> (N,) 1 - cosine to the mean of the own class, in [0, 2]; of label -1 to the nearest mean.

    The means are of `embeddings` themselves, such as a map has made them. Source: method file, section 7, item 12.
    """
    known = labels >= 0
    if len(labels) != len(embeddings) or not known.any():
        raise ValueError(
            f"{len(embeddings)} embeddings with {len(labels)} labels, {known.sum()} of them known: expected as many, "
            "one known at least"
        )
    classes, own = np.unique(labels[known], return_inverse=True)
    sums = np.zeros((len(classes), embeddings.shape[1]))
    np.add.at(sums, own, embeddings[known].astype(np.float64))
    means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    cosines = embeddings @ means.T.astype(np.float32)  # (N, C)
    nearest = cosines.max(axis=1)
    nearest[known] = cosines[known, own]
    return 1.0 - np.asarray(nearest, np.float64)
