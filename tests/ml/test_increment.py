"""A lifelong increment as a bundle: what moves, and what stays to the bit, on real photos."""

import ml.threads  # noqa: F401  isort: skip

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from ml.artifacts import TEXT_FILE, WEIGHTS_FILE, Bundle, BundleError, load_bundle
from ml.base_version.candidate import moved_degrees
from ml.base_version.increment import parent_heads, stored_outputs, write_increment
from ml.data.preprocessing import decode_to_input
from ml.methods.lifelong.heads import CrossModalHeads, outputs_of
from ml.models.export import encoder_from_weights
from ml.models.graph import CODE_HEAD, graph_with_code_head
from ml.onnx_encoder import CHUNK, open_feature_encoder
from ml.protocol import Encoder, Pixels, pack_bits

VERSIONS = ("default", "budget")
CLEAR = 1e-4  # a logit nearer to 0 than this may be another bit by rounding alone


@pytest.fixture(scope="module")
def shipped(bundle_path: Path) -> Callable[[str], Bundle]:
    return cache(lambda version: load_bundle(bundle_path.parent / version))


@pytest.fixture(scope="module")
def pixels(photos: list[bytes]) -> Pixels:
    """A dozen photos, whole and from both sides: more than one chunk of the serving engine."""
    upright = np.stack([decode_to_input(data, 96) for data in photos])
    turned = [upright, upright[:, :, ::-1], upright[:, ::-1], upright[:, ::-1, ::-1]]
    return np.ascontiguousarray(np.concatenate([*turned, *(255 - part for part in turned)]))


def moved(bundle: Bundle, *, words: int = 0) -> CrossModalHeads:
    """The bundle's heads, every weight of its code head moved; with words that nobody taught."""
    heads = parent_heads(bundle)
    generator = torch.Generator().manual_seed(1)
    for parameter in heads.image.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    if words:
        torch.manual_seed(2)
        bits = bundle.manifest.code_bits
        heads.text = CrossModalHeads(8, hidden=8, code_bits=bits, words=words, text_hidden=16).text
    return heads


def write(target: Path, parent: Bundle, heads: CrossModalHeads) -> Bundle:
    return write_increment(
        target, parent, heads, labels=("fruit", "fruit/kiwi"),
        calibration={"self": replace(parent.calibration, strong=0.9), parent.digest: parent.calibration},
        metrics={"gain": 0.25}, training={"categories": ["fruit/kiwi"]},
    )  # fmt: skip


def head_arrays(heads: CrossModalHeads) -> dict[str, NDArray[np.float32]]:
    return {f"code_head.{name}": value.numpy() for name, value in heads.image.state_dict().items()}


def same_bits(codes: NDArray[np.uint8], logits: NDArray[np.float32]) -> bool:
    """Whether packed codes are the logits' but where rounding decides."""
    differing = np.unpackbits(codes, axis=1) != (logits >= 0)
    return bool((np.abs(logits[differing]) < CLEAR).all()) and differing.mean() < 1e-3


@pytest.mark.parametrize("version", VERSIONS)
def test_asking_for_features_changes_no_bit_of_codes_and_embeddings(
    shipped: Callable[[str], Bundle], pixels: Pixels, version: str
) -> None:
    assert len(pixels) > CHUNK
    bundle = shipped(version)
    plain = bundle.encoder().encode(pixels)
    encoder = bundle.feature_encoder()
    encoded, features = encoder.encode_with_features(pixels)

    np.testing.assert_array_equal(encoded.packed_codes, plain.packed_codes)
    np.testing.assert_array_equal(encoded.embeddings, plain.embeddings)
    as_encoder: Encoder = encoder
    np.testing.assert_array_equal(as_encoder.encode(pixels).embeddings, plain.embeddings)
    trunk = encoder_from_weights(bundle.manifest.encoder_config, bundle.weights)
    with torch.no_grad():
        expected = trunk.features(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0).numpy()
    assert features.shape == (len(pixels), encoder.feature_size) == expected.shape
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_no_photo_has_no_features(shipped: Callable[[str], Bundle]) -> None:
    encoded, features = shipped("default").feature_encoder().encode_with_features(
        np.empty((0, 96, 96, 3), np.uint8)
    )  # fmt: skip
    assert (encoded.packed_codes.shape, encoded.embeddings.shape, features.shape) == (
        (0, 16), (0, 128), (0, 96),
    )  # fmt: skip


def without(graph: bytes, name: str) -> bytes:
    """The graph, its Gemm by the weight `name` given another tensor: what it gives means nothing any more."""
    model = onnx.load_from_string(graph)
    node = next(node for node in model.graph.node if name in node.input)
    node.input[0] = "another"
    data: bytes = model.SerializeToString()
    return data


def test_a_graph_whose_heads_are_not_given_one_tensor_has_no_features(
    shipped: Callable[[str], Bundle],
) -> None:
    bundle = shipped("default")
    shapes = {"input_size": 96, "code_bits": 128, "dimension": 128}
    apart = without(bundle.graph, "encoder.embedding_head.weight")
    for graph, message in (
        (apart, "no one tensor is given to both heads"),
        (b"no graph", "not an ONNX graph"),
    ):
        with pytest.raises(ValueError, match=message):
            open_feature_encoder(graph, **shapes)
        with pytest.raises(BundleError, match=rf"encoder\.onnx: .*{message}"):
            replace(bundle, graph=graph).feature_encoder()
    with pytest.raises(ValueError, match="inputs and outputs are"):
        open_feature_encoder(bundle.graph, **shapes | {"dimension": 64})


def test_serving_photos_and_words_loads_neither_torch_nor_what_reads_graphs(bundle_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from ml.artifacts import load_bundle;"
        f"b = load_bundle(Path({str(bundle_path)!r})); b.encoder(); b.text_encoder();"
        "assert 'onnx' not in sys.modules; b.feature_encoder(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_graph_with_another_code_head_differs_in_that_alone(
    shipped: Callable[[str], Bundle], version: str
) -> None:
    bundle = shipped(version)
    head = head_arrays(moved(bundle))
    changed = onnx.load_from_string(graph_with_code_head(bundle.graph, head))
    given = onnx.load_from_string(bundle.graph)

    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    for name in CODE_HEAD:
        np.testing.assert_array_equal(values[f"encoder.{name}"], head[name])
    own = {name: bundle.weights[name] for name in CODE_HEAD}
    assert graph_with_code_head(changed.SerializeToString(), own) == bundle.graph == given.SerializeToString()


def test_a_code_head_is_replaced_wherever_its_values_lie(
    shipped: Callable[[str], Bundle], pixels: Pixels
) -> None:
    bundle = shipped("default")
    model, bias = onnx.load_from_string(bundle.graph), "encoder.code_head.layers.3.bias"
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == bias)
    stored.float_data.extend(numpy_helper.to_array(stored).tolist())
    stored.ClearField("raw_data")
    head = head_arrays(moved(bundle))
    changed = graph_with_code_head(model.SerializeToString(), head)
    onnx.checker.check_model(onnx.load_from_string(changed))  # which wants values in one place
    raw, plain = (
        replace(bundle, graph=graph).encoder().outputs(pixels[:4])[0]
        for graph in (graph_with_code_head(bundle.graph, head), changed)
    )
    np.testing.assert_array_equal(plain, raw)


def test_a_code_head_of_another_shape_or_kind_is_refused(shipped: Callable[[str], Bundle]) -> None:
    graph = shipped("default").graph
    head = head_arrays(moved(shipped("default")))
    bias = "code_head.layers.3.bias"
    wrongs: tuple[dict[str, NDArray[Any]], ...] = (
        {name: values for name, values in head.items() if name != bias},
        {**head, "embedding_head.bias": head[bias]},
        {**head, bias: head[bias][:64]},
        {**head, bias: head[bias].astype(np.float64)},
    )
    for wrong in wrongs:
        with pytest.raises(ValueError, match="the code head's weights are"):
            graph_with_code_head(graph, wrong)
    with pytest.raises(ValueError, match="the code head's weights are"):
        graph_with_code_head(_headless(graph), {})


def _headless(graph: bytes) -> bytes:
    model = onnx.load_from_string(graph)
    for tensor in [tensor for tensor in model.graph.initializer if "code_head" in tensor.name]:
        model.graph.initializer.remove(tensor)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("version", VERSIONS)
def test_an_increment_moves_codes_and_leaves_trunk_and_embeddings_as_they_are(
    shipped: Callable[[str], Bundle], pixels: Pixels, tmp_path: Path, version: str
) -> None:
    parent = shipped(version)
    heads = moved(parent)
    child = write(tmp_path / "child", parent, heads)
    before, features = parent.feature_encoder().encode_with_features(pixels)
    served = child.encoder()
    after = served.encode(pixels)

    np.testing.assert_array_equal(after.embeddings, before.embeddings)
    assert (after.packed_codes != before.packed_codes).any()
    logits = outputs_of(heads.image, features)
    np.testing.assert_allclose(served.outputs(pixels)[0], logits, atol=5e-5)  # of logits up to 25
    assert same_bits(after.packed_codes, logits)
    moved_names = [name for name in parent.weights if (child.weights[name] != parent.weights[name]).any()]
    assert sorted(moved_names) == sorted(CODE_HEAD)
    for name in CODE_HEAD:
        np.testing.assert_array_equal(child.weights[name], head_arrays(heads)[name])
    assert {name: v.tobytes() for name, v in child.weights.items() if name not in CODE_HEAD} == {
        name: v.tobytes() for name, v in parent.weights.items() if name not in CODE_HEAD
    }
    trained = encoder_from_weights(child.manifest.encoder_config, child.weights)
    with torch.no_grad():
        eager, _ = trained(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0)
    assert same_bits(after.packed_codes, eager.numpy())


def test_an_increment_says_whose_it_is_and_reads_photos_as_its_parent(
    shipped: Callable[[str], Bundle], tmp_path: Path
) -> None:
    parent = shipped("default")
    child = load_bundle(write(tmp_path / "child", parent, moved(parent)).path)
    manifest = child.manifest

    assert (manifest.method, manifest.labels) == ("lifelong", ("fruit", "fruit/kiwi"))
    assert manifest.training == {"categories": ["fruit/kiwi"], "parent": parent.digest}
    assert manifest.metrics == {"gain": 0.25}
    assert (manifest.calibration["self"].strong, manifest.calibration[parent.digest]) == (
        0.9,
        parent.calibration,
    )
    assert manifest.preprocessing == parent.manifest.preprocessing
    assert manifest.encoder_config == parent.manifest.encoder_config
    assert child.text is None
    assert child.digest != parent.digest


def test_an_increment_of_a_candidate_remembers_how_far_upgrades_moved_embeddings(
    shipped: Callable[[str], Bundle], tmp_path: Path
) -> None:
    parent = shipped("default")
    note = {"compatibility": {"parent": "f" * 64, "furthest_degrees_in_all": 12.5}, "seed": 0}
    candidate = replace(parent, manifest=replace(parent.manifest, training=note))
    child = write(tmp_path / "child", candidate, parent_heads(candidate))

    assert moved_degrees(child) == 12.5
    assert child.manifest.training["parent"] == candidate.digest
    assert "seed" not in child.manifest.training


def test_words_go_from_heads_to_bundle_and_back_byte_for_byte(
    shipped: Callable[[str], Bundle], tmp_path: Path
) -> None:
    heads = moved(shipped("default"), words=256)
    child = write(tmp_path / "child", shipped("default"), heads)
    again = parent_heads(load_bundle(child.path))
    grandchild = write(tmp_path / "grandchild", child, again)

    assert heads.text is not None
    assert again.text is not None
    assert again.text.config == heads.text.config
    for ours, theirs in zip(heads.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    for name in (TEXT_FILE, WEIGHTS_FILE):
        assert (grandchild.path / name).read_bytes() == (child.path / name).read_bytes()
    served = child.text_encoder()
    assert served is not None
    assert served.encode(["kiwi"]).shape == (1, 128)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_stored_follows_from_features_as_if_the_photos_were_opened_again(
    shipped: Callable[[str], Bundle], pixels: Pixels, tmp_path: Path, version: str
) -> None:
    parent = shipped(version)
    before, features = parent.feature_encoder().encode_with_features(pixels)
    heads = moved(parent).train()
    after = write(tmp_path / "child", parent, heads).encoder().encode(pixels)
    own, learned = stored_outputs(parent, None, features), stored_outputs(parent, heads, features)

    assert same_bits(own.packed_codes, parent.encoder().outputs(pixels)[0])
    assert same_bits(learned.packed_codes, outputs_of(heads.image, features))
    assert (np.unpackbits(learned.packed_codes ^ after.packed_codes)).mean() < 1e-3
    np.testing.assert_allclose(own.embeddings, before.embeddings, atol=1e-5)
    np.testing.assert_array_equal(learned.embeddings, own.embeddings)
    assert (str(own.packed_codes.dtype), str(own.embeddings.dtype)) == ("uint8", "float32")
    assert heads.training is heads.image.training is True  # the caller's, as they were
    assert (pack_bits(outputs_of(heads.image, features[:3])) == learned.packed_codes[:3]).all()
    nothing = stored_outputs(parent, heads, features[:0])
    assert (nothing.packed_codes.shape, nothing.embeddings.shape) == ((0, 16), (0, 128))


def test_a_parents_heads_are_frozen_and_their_own(shipped: Callable[[str], Bundle]) -> None:
    parent = shipped("default")
    heads = parent_heads(parent)
    assert heads.text is None
    assert not heads.training
    assert not any(parameter.requires_grad for parameter in heads.parameters())
    before = parent.weights["code_head.layers.3.bias"].copy()
    next(reversed(list(heads.image.parameters()))).zero_()
    np.testing.assert_array_equal(parent.weights["code_head.layers.3.bias"], before)


def test_heads_of_another_shape_are_refused_and_nothing_is_written(
    shipped: Callable[[str], Bundle], tmp_path: Path
) -> None:
    parent = shipped("default")
    other_trunk = CrossModalHeads(128, hidden=256, code_bits=128)
    short_words = parent_heads(parent)
    short_words.text = CrossModalHeads(8, hidden=8, code_bits=64, words=256).text
    broken = parent_heads(parent)
    next(iter(broken.image.parameters()))[0, 0] = torch.nan
    for heads, message in (
        (other_trunk, "the image head's weights are"),
        (short_words, "the text head's codes have 64 bits, images' have 128"),
        (broken, "is not finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "child", parent, heads)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="the image head's weights are"):
        stored_outputs(parent, other_trunk, np.zeros((1, 96), np.float32))
    with pytest.raises(ValueError, match=r"features are \(1, 128\), expected \(N, 96\)"):
        stored_outputs(parent, None, np.zeros((1, 128), np.float32))
