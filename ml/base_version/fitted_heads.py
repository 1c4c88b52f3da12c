"""Heads that see what a trunk sees in somebody else's space, solved from stored codes and embeddings.

A trunk that was trained elsewhere is good, its own space is of no use to a stored gallery. Trained there by gradient it
would first unlearn what it knows; two ridge regressions take seconds.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.artifacts import Bundle
from ml.base_version.catalogue_photos import inputs_of
from ml.base_version.recipe import pixel_statistics
from ml.data.images import ImageSet
from ml.methods.lifelong.analytic import RidgeLayer, hidden_of, with_last_layer
from ml.models.encoder import ImageEncoder
from ml.models.export import encoder_from_weights, weights_of

RIDGE = 1e-2  # of the mean square of an input
_CHUNK = 64
Floats = NDArray[np.float64]


def fitted_heads(
    start: Bundle, images: ImageSet, rows: Tensor, signs: NDArray[np.float32], embeddings: NDArray[np.float32]
) -> Mapping[str, NDArray[Any]]:
    """The weights of `start`, its last layers fitted to what is stored of these rows: (n, L) signs, (n, D) embeddings.

    Raises ValueError when these are not of its lengths.
    """
    config = start.manifest.encoder_config
    if (signs.shape[1], embeddings.shape[1]) != (config.code_bits, config.dimension):
        raise ValueError(
            f"codes of {signs.shape[1]} and embeddings of {embeddings.shape[1]} are stored, the encoder gives "
            f"{config.code_bits} and {config.dimension}"
        )
    mean, deviation = pixel_statistics(images)  # as training will have them
    encoder = encoder_from_weights(replace(config, mean=mean, std=deviation), start.weights)
    features = np.concatenate([
        _features(encoder, inputs_of(images, part, config.input_size)) for part in torch.split(rows, _CHUNK)
    ])  # fmt: skip
    seen = np.hstack([features.astype(np.float64), np.ones((len(features), 1))])
    fitted = copy.deepcopy(encoder)
    embedding = _solved(seen, embeddings)
    with torch.no_grad():
        fitted.embedding_head.weight.copy_(torch.from_numpy(embedding[:-1].T))
        fitted.embedding_head.bias.copy_(torch.from_numpy(embedding[-1]))
    fitted.code_head = with_last_layer(
        encoder.code_head, _solved(hidden_of(encoder.code_head, features), signs)
    )
    return weights_of(fitted)


@torch.no_grad()
def _features(encoder: ImageEncoder, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
    pixels = torch.from_numpy(inputs).permute(0, 3, 1, 2).float() / 255.0
    return np.asarray(encoder.features(pixels).numpy(), np.float32)


def _solved(inputs: Floats, targets: NDArray[np.float32]) -> Floats:
    """(n, H + 1), the last a 1, and (n, c) -> (H + 1, c) weights, the last row the bias."""
    empty = RidgeLayer.unfitted(np.zeros((inputs.shape[1], targets.shape[1])))
    ridge = RIDGE * float((inputs**2).sum(axis=0).mean())
    return empty.fitted(inputs, targets.astype(np.float64), np.ones(len(inputs)), ridge=ridge).weights
