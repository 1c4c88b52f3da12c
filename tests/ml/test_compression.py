"""Smaller forms of an exported encoder: what is stored, how many bytes, and what the answers lose."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ml.__main__ import main
from ml.artifacts import Bundle, load_bundle
from ml.data.preprocessing import decode_to_input
from ml.models.quantisation import halve_weights, quantise_weights, variants
from ml.onnx_encoder import OnnxEncoder, open_onnx_encoder


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="module")
def forms(bundle: Bundle) -> dict[str, bytes]:
    return variants(bundle.graph)


@pytest.fixture(scope="module")
def pixels(bundle: Bundle, photos: list[bytes]) -> np.ndarray:
    return np.stack([decode_to_input(photo, bundle.manifest.input_size) for photo in photos])


def opened(bundle: Bundle, graph: bytes) -> OnnxEncoder:
    manifest = bundle.manifest
    return open_onnx_encoder(
        graph, input_size=manifest.input_size, code_bits=manifest.code_bits, dimension=manifest.dimension
    )


def small_graph(*nodes: onnx.NodeProto, **weights: np.ndarray) -> bytes:
    """x (B, 4) -> y (B, columns), with the given nodes between and the given initialisers."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "columns"])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    serialised: bytes = model.SerializeToString()
    return serialised


def run(graph: bytes, x: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    values: np.ndarray = session.run(None, {"x": x})[0]
    return values


def test_no_weight_of_size_stays_float32_in_the_smaller_forms(forms: dict[str, bytes]) -> None:
    for name, stored in (("fp16", TensorProto.FLOAT16), ("int8", TensorProto.INT8)):
        tensors = onnx.load_from_string(forms[name]).graph.initializer
        sizes = {numpy_helper.to_array(t).size for t in tensors if t.data_type == TensorProto.FLOAT}

        assert max(sizes) <= 256, name  # biases, norms and scales: one number a channel
        assert sum(t.data_type == stored for t in tensors) == 9, name  # six convolutions, three matrices


def test_the_shipped_encoder_fits_its_budgets(bundle: Bundle, forms: dict[str, bytes]) -> None:
    assert list(forms) == ["fp32", "fp16", "int8"]
    assert forms["fp32"] == bundle.graph
    assert len(forms["fp16"]) < 0.52 * len(bundle.graph)
    assert len(forms["int8"]) <= 300_000


def test_the_smaller_forms_answer_nearly_the_same(
    bundle: Bundle, forms: dict[str, bytes], pixels: np.ndarray
) -> None:
    exact = opened(bundle, forms["fp32"]).encode(pixels)
    for name, cosine, flipped in (("fp16", 0.999999, 0.002), ("int8", 0.999, 0.02)):
        near = opened(bundle, forms[name]).encode(pixels)
        changed = np.unpackbits(exact.packed_codes ^ near.packed_codes).mean()

        assert np.abs(exact.embeddings - near.embeddings).max() > 0, name  # it is another graph
        assert (exact.embeddings * near.embeddings).sum(axis=1).min() > cosine, name
        assert changed <= flipped, name


def test_the_runtime_folds_the_stored_weights_into_the_float_graph(
    bundle: Bundle, forms: dict[str, bytes], tmp_path: Path
) -> None:
    """The operators that run are those of the float graph: a smaller file costs no time per picture."""
    import onnxruntime as ort

    executed = {}
    for name, graph in forms.items():
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{name}.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        executed[name] = sorted(node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node)

    assert executed["fp16"] == executed["fp32"]
    assert executed["int8"] == executed["fp32"]


@pytest.mark.parametrize("operator", ["Gemm", "MatMul", "Gemm transposed"])
def test_int8_keeps_each_output_channel_within_half_a_step_of_its_own(operator: str) -> None:
    weights = np.array(
        [[1.27, 0.004, 0.0], [-0.3, 0.001, 0.0], [0.55, -0.0127, 0.0], [0, 0.01, 0]], np.float32
    )
    if operator == "Gemm transposed":
        node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
        graph = small_graph(node, w=weights.T.copy())
    else:
        graph = small_graph(helper.make_node(operator, ["x", "w"], ["y"]), w=weights)

    restored = run(quantise_weights(graph), np.eye(4, dtype=np.float32))

    steps = np.array([0.01, 0.0001, 0.0])  # the largest of each column / 127
    assert (np.abs(restored - weights) <= steps / 2 + 1e-9).all()
    assert restored[0, 0] == pytest.approx(1.27)
    assert (restored[:, 2] == 0).all()


def test_a_weight_two_operators_share_is_stored_once() -> None:
    weights = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    graph = small_graph(*nodes, w=weights)
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)

    for form, allowed in ((halve_weights, 0.02), (quantise_weights, 0.2)):
        small = form(graph)
        assert np.abs(run(small, x) - x @ weights @ weights).max() < allowed
        stored = [t.data_type for t in onnx.load_from_string(small).graph.initializer]
        assert len([kind for kind in stored if kind != TensorProto.FLOAT]) == 1


def test_a_weight_too_large_for_float16_is_refused_by_name() -> None:
    graph = small_graph(
        helper.make_node("MatMul", ["x", "w"], ["y"]), w=np.full((4, 2), 70_000, dtype=np.float32)
    )

    with pytest.raises(ValueError, match=r"weight 'w' reaches 70000.0, float16 holds at most 65504"):
        halve_weights(graph)


@pytest.mark.parametrize(("kind", "name"), [("onnx-fp16", "fp16"), ("onnx-int8", "int8")])
def test_the_export_command_writes_exactly_these_forms(
    bundle_path: Path, forms: dict[str, bytes], tmp_path: Path, kind: str, name: str
) -> None:
    target = tmp_path / "model.onnx"

    assert main(["export", "--version", str(bundle_path), "--format", kind, "--out", str(target)]) == 0
    assert target.read_bytes() == forms[name]
