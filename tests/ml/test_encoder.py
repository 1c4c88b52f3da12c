"""The encoder's shape, its exported form, and what serving must not need."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ml.data.preprocessing import decode_to_input
from ml.models.compact import CompactTrunk
from ml.models.config import CompactConfig, EncoderConfig
from ml.models.encoder import ImageEncoder, ServingGraph
from ml.models.export import encoder_from_weights, export_onnx, weights_of
from ml.onnx_encoder import OnnxEncoder, open_onnx_encoder
from ml.protocol import pack_bits

CONFIG = EncoderConfig()


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    encoder = ImageEncoder(CONFIG)
    encoder.train()
    with torch.no_grad():  # batch norm with statistics of its own, as after training
        for _ in range(3):
            encoder(torch.rand(16, 3, 96, 96))
    return encoder.eval()


@pytest.fixture(scope="module")
def graph(encoder: ImageEncoder) -> bytes:
    return export_onnx(encoder)


@pytest.fixture(scope="module")
def served(graph: bytes) -> OnnxEncoder:
    return open_onnx_encoder(graph, input_size=96, code_bits=128, dimension=128)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, 96, 96, 3), dtype=np.uint8)


def test_parameters_of_the_growing_width_variant_match_the_method_file() -> None:
    """Section 3.1: 32-64-64-96 with a 7 x 7 involution and a 64-d embedding has 118,390 parameters."""
    trunk = CompactTrunk(CompactConfig(widths=(32, 64, 64, 96), involution_kernel=7))
    head = torch.nn.Linear(96, 64)

    assert sum(p.numel() for module in (trunk, head) for p in module.parameters()) == 118_390


def test_parameters_of_the_parity_and_budget_tables_match() -> None:
    def count(widths: tuple[int, ...]) -> int:
        trunk = CompactTrunk(CompactConfig(widths=widths, involution_kernel=7))
        return sum(p.numel() for p in [*trunk.parameters(), *torch.nn.Linear(widths[-1], 64).parameters()])

    assert count((64, 64, 64, 64)) == 117_206
    assert count((48, 64, 96, 128)) == 203_974


def test_outputs_have_their_shapes_and_embeddings_unit_length(encoder: ImageEncoder) -> None:
    with torch.no_grad():
        logits, embeddings = encoder(torch.rand(3, 3, 96, 96))

    assert (logits.shape, embeddings.shape) == ((3, 128), (3, 128))
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(3), atol=1e-5)


def test_the_exported_file_is_under_a_million_bytes_and_names_no_other_file(graph: bytes) -> None:
    assert len(graph) <= 1_000_000
    model = onnx.load_from_string(graph)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert not model.metadata_props


def test_the_export_equals_the_eager_model(
    encoder: ImageEncoder, served: OnnxEncoder, pixels: np.ndarray
) -> None:
    with torch.no_grad():
        logits, embeddings = ServingGraph(encoder)(torch.from_numpy(pixels))

    exported = served.outputs(pixels)
    assert np.abs(exported[0] - logits.numpy()).max() < 1e-4
    assert np.abs(exported[1] - embeddings.numpy()).max() < 1e-4


def test_a_single_image_equals_the_same_image_in_a_batch(served: OnnxEncoder, pixels: np.ndarray) -> None:
    together = served.encode(pixels)

    for row in (0, 63, 64, 69):  # 64 is where the batch is cut in parts
        alone = served.encode(pixels[row : row + 1])
        assert np.array_equal(alone.packed_codes[0], together.packed_codes[row])
        assert np.abs(alone.embeddings[0] - together.embeddings[row]).max() < 1e-5


def test_codes_are_the_signs_of_the_logits(served: OnnxEncoder, pixels: np.ndarray) -> None:
    logits, _ = served.outputs(pixels)
    packed = served.encode(pixels).packed_codes

    assert packed.shape == (70, 16)
    assert np.array_equal(np.unpackbits(packed, axis=1), (logits >= 0).astype(np.uint8))
    assert pack_bits(np.zeros((1, 8), dtype=np.float32)).tolist() == [[255]]


def test_an_empty_batch_gives_empty_arrays(served: OnnxEncoder) -> None:
    encoded = served.encode(np.empty((0, 96, 96, 3), dtype=np.uint8))

    assert (encoded.packed_codes.shape, encoded.embeddings.shape) == ((0, 16), (0, 128))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 64, 64, 3), np.uint8),
        np.zeros((1, 96, 96, 3), np.float32),
        np.zeros((96, 96, 3), np.uint8),
    ],
)
def test_pixels_of_another_shape_or_type_are_refused(served: OnnxEncoder, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(B, 96, 96, 3\)"):
        served.encode(wrong)


def test_a_graph_with_other_outputs_is_refused(graph: bytes) -> None:
    with pytest.raises(ValueError, match="inputs and outputs"):
        open_onnx_encoder(graph, input_size=96, code_bits=64, dimension=128)
    with pytest.raises(ValueError, match="cannot load the graph"):
        open_onnx_encoder(b"no graph", input_size=96, code_bits=128, dimension=128)


def test_weights_survive_a_round_trip_and_foreign_ones_are_refused(encoder: ImageEncoder) -> None:
    weights = weights_of(encoder)
    again = encoder_from_weights(CONFIG, weights)
    images = torch.rand(2, 3, 96, 96)

    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(again(images), encoder(images)))
    with pytest.raises(ValueError, match="weights do not fit the architecture"):
        encoder_from_weights(EncoderConfig(dimension=64), weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 16}, "input_size is 16, allowed 24 to 224"),
        ({"code_bits": 100}, "code_bits is 100"),
        ({"std": (0.2, 0.0, 0.2)}, "std above 0"),
    ],
)
def test_an_encoder_config_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": ()}, "widths are"),
        ({"strides": (2, 2)}, "expected 4 values of 1 or 2"),
        ({"involution_kernel": 4}, "must be odd"),
        ({"pooling": "max"}, "allowed: mean, gem"),
    ],
)
def test_a_trunk_config_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompactConfig(**options)


def test_serving_the_shipped_bundle_never_imports_torch(
    bundle_path: Path, photos: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(photos[0])
    script = f"""
import sys
from pathlib import Path
from ml.artifacts import load_bundle
from ml.data.preprocessing import decode_to_input
encoder = load_bundle(Path({str(bundle_path)!r})).encoder()
photo = Path({str(tmp_path / "photo.jpg")!r}).read_bytes()
print(encoder.encode(decode_to_input(photo, encoder.input_size)[None]).packed_codes.shape)
print([name for name in ("torch", "onnx", "django") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.splitlines() == ["(1, 16)", "[]"]


def test_near_copies_of_a_photo_stay_near_and_other_photos_do_not(
    bundle_path: Path, photos: list[bytes]
) -> None:
    from ml.artifacts import load_bundle

    encoder = load_bundle(bundle_path).encoder()
    size = encoder.input_size
    whole = encoder.encode(np.stack([decode_to_input(photo, size) for photo in photos])).embeddings
    cropped = encoder.encode(
        np.stack([decode_to_input(photo, size, (0.03, 0.03, 0.94, 0.94)) for photo in photos])
    )

    assert ((cropped.embeddings @ whole.T).argmax(axis=1) == np.arange(len(photos))).mean() >= 0.9
