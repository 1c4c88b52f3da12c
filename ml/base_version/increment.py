"""A lifelong increment as a bundle: its parent's trunk and embedding head, another code head, other words."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml.artifacts import Bundle, Weights, write_bundle
from ml.base_version.candidate import NOTE
from ml.methods.lifelong.heads import CrossModalHeads
from ml.models.encoder import CodeHead, FeatureEncoder
from ml.models.export import load_weights
from ml.models.graph import CODE_HEAD, graph_with_code_head
from ml.models.text import text_encoder_from
from ml.protocol import Calibration, Encoded, pack_bits

METHOD = "lifelong"
PARENT = "parent"  # in a manifest's `training`: the digest of the version it was learned from
_HEADS = ("code_head.", "embedding_head.")
_CHUNK = 8_192


def parent_heads(bundle: Bundle) -> CrossModalHeads:
    """The bundle's code head and, if it knows words, its text encoder: frozen, in eval mode, float32.

    Raises ValueError when its weights are not those of its architecture.
    """
    config = bundle.manifest.encoder_config
    heads = CrossModalHeads(_width(bundle), hidden=config.code_hidden, code_bits=config.code_bits)
    heads.image = _heads_of(bundle).code_head
    if bundle.text is not None:
        heads.text = text_encoder_from(bundle.text)
    return heads.eval().requires_grad_(requires_grad=False)


@torch.no_grad()
def stored_outputs(bundle: Bundle, heads: CrossModalHeads | None, features: NDArray[np.float32]) -> Encoded:
    """Trunk features (N, F) -> packed codes by `heads`, or by the bundle's own when None, and unit embeddings by its
    embedding head, which no increment changes. N may be 0. No image is opened.

    It is what the serving encoder gives but for rounding: embeddings differ by less than 1e-5, and a bit only where
    its logit is as near to 0. Raises ValueError when the features or heads are not of this bundle's shape.
    """
    if features.ndim != 2 or features.shape[1] != _width(bundle):
        raise ValueError(f"features are {features.shape}, expected (N, {_width(bundle)})")
    encoder = _heads_of(bundle)
    if heads is not None:
        _check_fit(bundle, heads)
        encoder.code_head = copy.deepcopy(heads.image)  # eval mode would be the caller's too
    encoder.eval()
    codes = np.empty((len(features), encoder.code_bits // 8), np.uint8)
    embeddings = np.empty((len(features), encoder.dimension), np.float32)
    for start in range(0, len(features), _CHUNK):
        part = slice(start, start + _CHUNK)
        logits, found = encoder(torch.from_numpy(np.ascontiguousarray(features[part], np.float32)))
        codes[part], embeddings[part] = pack_bits(logits.numpy()), found.numpy()
    return Encoded(packed_codes=codes, embeddings=embeddings)


def write_increment(
    target: Path,
    parent: Bundle,
    heads: CrossModalHeads,
    *,
    labels: Sequence[str],
    calibration: Mapping[str, Calibration],
    metrics: Mapping[str, Any],
    training: Mapping[str, Any],
) -> Bundle:
    """Write the bundle whose image and text heads are `heads`; trunk, embedding head, preprocessing and the rest of
    the serving graph are the parent's bytes.

    calibration: "self" for its own entries, and for those of other producers by their digest. training: what there is
    to say about how it came about; the parent's digest and how far earlier upgrades moved embeddings are added.
    Raises ValueError when the heads are not of the parent's shape, and what write_bundle raises.
    """
    _check_fit(parent, heads)
    head = {f"code_head.{name}": values for name, values in _arrays(heads.image).items()}
    moved = {NOTE: parent.manifest.training[NOTE]} if NOTE in parent.manifest.training else {}
    return write_bundle(
        target,
        method=METHOD,
        config=parent.manifest.encoder_config,
        weights={**parent.weights, **head},
        graph=graph_with_code_head(parent.graph, head),
        labels=tuple(labels),
        calibration=calibration,
        preprocessing=parent.manifest.preprocessing,
        metrics=metrics,
        training={**moved, **training, PARENT: parent.digest},
        text=None if heads.text is None else heads.text.arrays(),
    )


def _width(bundle: Bundle) -> int:
    """F, the size of its trunk's features."""
    return int(bundle.weights["embedding_head.weight"].shape[1])


def _heads_of(bundle: Bundle) -> FeatureEncoder:
    config = bundle.manifest.encoder_config
    encoder = FeatureEncoder(
        _width(bundle), code_hidden=config.code_hidden, code_bits=config.code_bits, dimension=config.dimension
    )
    load_weights(encoder, {name: bundle.weights[name] for name in bundle.weights if name.startswith(_HEADS)})
    return encoder


def _arrays(head: CodeHead) -> Weights:
    return {name: value.detach().float().cpu().numpy().copy() for name, value in head.state_dict().items()}


def _check_fit(parent: Bundle, heads: CrossModalHeads) -> None:
    given = {f"code_head.{name}": tuple(value.shape) for name, value in heads.image.state_dict().items()}
    expected = {name: parent.weights[name].shape for name in CODE_HEAD}
    if given != expected:
        raise ValueError(f"the image head's weights are {given}, the parent's are {expected}")
    bits = parent.manifest.code_bits
    if heads.text is not None and heads.text.config.code_bits != bits:
        raise ValueError(
            f"the text head's codes have {heads.text.config.code_bits} bits, images' have {bits}"
        )
