"""Exports an encoder to the one ONNX file that serves it, and rebuilds it from its weights."""

import logging
import warnings
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from ml.models.config import EncoderConfig
from ml.models.encoder import ImageEncoder, ServingGraph

OPSET = 20  # the first with Gelu as one operator
Weights = Mapping[str, NDArray[np.float32] | NDArray[np.int64]]


def export_onnx(encoder: ImageEncoder) -> bytes:
    """The serving graph: `pixels` (B, S, S, 3) uint8 -> `code_logits` (B, L), `embeddings` (B, D); B is free.

    Leaves the encoder in eval mode. Debug names and metadata are stripped: the file's size is limited.
    """
    encoder.eval()
    size = encoder.config.input_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            ServingGraph(encoder).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["code_logits", "embeddings"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1, max=4096)}},
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString()
    return serialised


def weights_of(encoder: ImageEncoder) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    """Every persistent tensor of the encoder as contiguous NumPy arrays."""
    return {
        name: value.detach().cpu().contiguous().numpy().copy() for name, value in encoder.state_dict().items()
    }


def encoder_from_weights(config: EncoderConfig, weights: Weights) -> ImageEncoder:
    """The encoder in eval mode, frozen. Raises ValueError when names or shapes do not fit the config."""
    encoder = ImageEncoder(config)
    load_weights(encoder, weights)
    return encoder.eval().requires_grad_(requires_grad=False)


def load_weights(encoder: nn.Module, weights: Weights) -> None:
    """Put the weights into the encoder. Raises ValueError when names or shapes do not fit it."""
    try:
        encoder.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    except RuntimeError as error:
        raise ValueError(f"weights do not fit the architecture: {error}") from error


def _strip(model: onnx.ModelProto) -> None:
    """Drop what serving does not read: node metadata, doc strings, intermediate shapes."""
    model.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
