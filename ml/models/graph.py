"""Changes to an exported graph that leave all else in it as it was: one more output, another code head."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

CODE_HEAD = tuple(
    f"code_head.layers.{layer}.{part}" for layer in (0, 2, 3) for part in ("weight", "bias")
)  # of an ml.models.encoder.TwoHeaded
_PREFIX = "encoder."  # what the exporter puts before a weight's name
_EMBEDDING, _CODE = f"{_PREFIX}embedding_head.weight", f"{_PREFIX}{CODE_HEAD[0]}"


def graph_with_feature(graph: bytes) -> tuple[bytes, str, int]:
    """The graph with what both heads are given, (B, F), as its last output; that tensor's name; F.

    Raises ValueError when there is no such tensor.
    """
    model = parsed_graph(graph)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    given = {
        node.input[1]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Gemm" and node.input[1] in {_EMBEDDING, _CODE} & weights.keys()
    }
    if len(given) != 2 or len(set(given.values())) != 1:
        raise ValueError(
            f"no one tensor is given to both heads of the graph: {_EMBEDDING} and {_CODE} are multiplied "
            f"with {given or 'nothing'}"
        )
    name, width = given[_EMBEDDING], int(weights[_EMBEDDING].dims[1])
    output = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width])
    model.graph.output.append(output)
    return _serialised(model), name, width


def graph_with_code_head(graph: bytes, head: Mapping[str, NDArray[Any]]) -> bytes:
    """The graph with the weights of its code head replaced by `head`, named as in CODE_HEAD; all else is the same.

    Raises ValueError when names, shapes or types are not those of the graph's code head.
    """
    model = parsed_graph(graph)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {name: _kind(weights[_PREFIX + name]) for name in CODE_HEAD if _PREFIX + name in weights}
    given = {name: (str(values.dtype), values.shape) for name, values in head.items()}
    if given != found or len(found) != len(CODE_HEAD):
        raise ValueError(f"the code head's weights are {given}, the graph's are {found}")
    for name, values in head.items():
        weights[_PREFIX + name].raw_data = numpy_helper.from_array(np.ascontiguousarray(values)).raw_data
        weights[_PREFIX + name].ClearField("float_data")  # the other place where values may lie
    return _serialised(model)


def _kind(tensor: onnx.TensorProto) -> tuple[str, tuple[int, ...]]:
    return str(helper.tensor_dtype_to_np_dtype(tensor.data_type)), tuple(tensor.dims)


def parsed_graph(graph: bytes) -> onnx.ModelProto:
    """The graph as data; nothing of it is run. Raises ValueError when it is none."""
    try:
        return onnx.load_from_string(graph)
    except Exception as error:  # protobuf's own, which has no types
        raise ValueError(f"this is not an ONNX graph: {error}") from error


def _serialised(model: onnx.ModelProto) -> bytes:
    serialised: bytes = model.SerializeToString()
    return serialised
