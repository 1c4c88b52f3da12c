"""Whether a serving graph and weights that came from outside are one encoder. Nothing of either is run to find out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from ml.models.config import EncoderConfig
from ml.models.encoder import ImageEncoder
from ml.models.export import encoder_from_weights, export_onnx
from ml.models.graph import parsed_graph

# What another processor's rounding may leave between two exports of the same weights.
RELATIVE, ABSOLUTE = 1e-4, 1e-6
_TOLD = 200  # characters of a difference that are told

Arrays = dict[str, NDArray[Any]]


def check_weights(config: EncoderConfig, weights: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError unless names, shapes and types are those of this architecture; takes no memory for it."""
    with torch.device("meta"):
        expected = {name: _kind_of(value) for name, value in ImageEncoder(config).state_dict().items()}
    found = {name: (values.dtype.name, values.shape) for name, values in weights.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{len(wrong)} weights do not fit the architecture; {name[:_TOLD]!r} is "
            f"{found.get(name, 'missing')}, expected {expected.get(name, 'none of this name')}"
        )


def check_graph(graph: bytes, config: EncoderConfig, weights: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError unless `graph` is the program that `export_onnx` makes of these weights, number for number.

    Names of tools and notes may differ, and weights by rounding. A program that only gives the same answers is refused
    too: what else it does could not be known without running it. Weights as for `check_weights`, which comes first.
    """
    given = parsed_graph(graph)
    found = _numbers_of(given)
    expected = parsed_graph(export_onnx(encoder_from_weights(config, weights)))
    wanted = _numbers_of(expected)
    if _program_of(given) != _program_of(expected):
        raise ValueError("the graph is another program than this release makes of the weights beside it")
    if found.keys() != wanted.keys():
        names = ", ".join(sorted(found.keys() ^ wanted.keys()))
        raise ValueError(f"the graph's numbers are not those of the weights beside it: {names[:_TOLD]}")
    for name, values in wanted.items():
        if not _is_same(found[name], values):
            raise ValueError(f"the graph's {name[:_TOLD]!r} is not what the weights beside it give")


def _kind_of(value: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    return str(value.dtype).removeprefix("torch."), tuple(value.shape)


def _numbers_of(model: onnx.ModelProto) -> Arrays:
    found: Arrays = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data or tensor.name in found:
            raise ValueError(f"the graph's {tensor.name[:_TOLD]!r} lies outside it or is there twice")
        try:
            found[tensor.name] = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"the graph's {tensor.name[:_TOLD]!r} cannot be read: {error}") from error
    return found


def _program_of(model: onnx.ModelProto) -> bytes:
    """All of a model but its numbers, and what only says who made it."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for name in ("producer_name", "producer_version", "doc_string", "metadata_props"):
        bare.ClearField(name)
    bare.graph.ClearField("initializer")
    bare.graph.ClearField("doc_string")
    program: bytes = bare.SerializeToString(deterministic=True)
    return program


def _is_same(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    if found.dtype.kind != "f":
        return bool(np.array_equal(found, expected))
    return bool(np.allclose(found, expected, rtol=RELATIVE, atol=ABSOLUTE))
