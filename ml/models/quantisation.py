"""Smaller forms of an exported graph: its weights stored as 16-bit floats or 8-bit integers.

Only the storage changes. Each stored weight is followed by plain operators on constants (Cast, and Mul by the
scale), which ONNX Runtime folds into a float32 weight when it loads the graph: activations stay float32, no
calibration photos are needed, and the speed is that of the float graph. (A DequantizeLinear node is not
folded: it runs at every call and keeps convolutions out of their blocked layout.)
"""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Stored = tuple[list[onnx.TensorProto], list[onnx.NodeProto]]  # what replaces one weight

_LEVELS = 127
_WEIGHTED = ("Conv", "Gemm", "MatMul")  # operators whose second input is a kernel or matrix


def variants(graph: bytes) -> dict[str, bytes]:
    """The graph as it is and in its smaller forms: {"fp32", "fp16", "int8"}, each a complete graph."""
    return {"fp32": graph, "fp16": halve_weights(graph), "int8": quantise_weights(graph)}


def quantise_weights(graph: bytes) -> bytes:
    """The graph with every Conv, Gemm and MatMul weight as int8, one scale per output channel, symmetric.

    The error of a weight is at most half its channel's scale, max |w| / 127. A quarter of the bytes.
    """
    return _with_weights(graph, _as_int8)


def halve_weights(graph: bytes) -> bytes:
    """The graph with every Conv, Gemm and MatMul weight as float16: half the bytes.

    Raises ValueError when a weight is too large for float16 (65,504).
    """
    return _with_weights(graph, _as_float16)


def _with_weights(graph: bytes, store: Callable[[str, NDArray[np.float32], int], Stored]) -> bytes:
    """The graph with each weight replaced by what `store(name, values, output_axis)` gives for it."""
    model = onnx.load_from_string(graph)
    weights = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    restoring: list[onnx.NodeProto] = []
    for node in model.graph.node:
        # A weight that two nodes share is stored once: the first takes it out of `weights`.
        if node.op_type not in _WEIGHTED or node.input[1] not in weights:
            continue
        tensor = weights.pop(node.input[1])
        tensors, nodes = store(tensor.name, numpy_helper.to_array(tensor), _output_axis(node))
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend(tensors)
        restoring.extend(nodes)
    for node in reversed(restoring):
        model.graph.node.insert(0, node)
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString()
    return serialised


def _as_int8(name: str, weights: NDArray[np.float32], axis: int) -> Stored:
    others = tuple(dimension for dimension in range(weights.ndim) if dimension != axis % weights.ndim)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scales = (np.maximum(largest, np.finfo(np.float32).tiny) / _LEVELS).astype(np.float32)
    values = np.clip(np.rint(weights / scales), -_LEVELS, _LEVELS).astype(np.int8)
    return (
        [numpy_helper.from_array(values, f"{name}_int8"), numpy_helper.from_array(scales, f"{name}_scale")],
        [
            helper.make_node("Cast", [f"{name}_int8"], [f"{name}_levels"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_levels", f"{name}_scale"], [name]),
        ],
    )


def _as_float16(name: str, weights: NDArray[np.float32], _axis: int) -> Stored:
    largest, limit = np.abs(weights).max(initial=0.0), np.finfo(np.float16).max
    if not largest <= limit:
        raise ValueError(f"weight {name!r} reaches {largest}, float16 holds at most {limit}")
    return (
        [numpy_helper.from_array(weights.astype(np.float16), f"{name}_fp16")],
        [helper.make_node("Cast", [f"{name}_fp16"], [name], to=onnx.TensorProto.FLOAT)],
    )


def _output_axis(node: onnx.NodeProto) -> int:
    """Axis of the weight that counts output channels: each gets a scale of its own."""
    transposed = any(attribute.name == "transB" and attribute.i == 1 for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else -1
