"""The bundle: written whole or not at all, refused when anything in it differs, read without unpickling."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.artifacts import Bundle, BundleError, load_bundle, read_manifest, write_bundle
from ml.models.config import CompactConfig, EncoderConfig
from ml.models.encoder import ImageEncoder
from ml.models.export import encoder_from_weights, export_onnx, weights_of
from ml.protocol import Calibration

CONFIG = EncoderConfig(
    trunk=CompactConfig(widths=(8, 8, 16, 16)), input_size=32, code_bits=64, code_hidden=16, dimension=16
)
CALIBRATION = Calibration(
    intercept=-4.0, code_weight=3.0, embedding_weight=5.0, strong=0.8, weak=0.2, pool_size=100
)


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(CONFIG).eval()


@pytest.fixture(scope="module")
def graph(encoder: ImageEncoder) -> bytes:
    return export_onnx(encoder)


@pytest.fixture(scope="module")
def write(encoder: ImageEncoder, graph: bytes) -> Callable[..., Bundle]:
    def write(target: Path, **changes: Any) -> Bundle:
        contents: dict[str, Any] = {
            "method": "compact", "config": CONFIG, "weights": weights_of(encoder), "graph": graph,
            "labels": ("grocery:Kiwi", "grocery:Lemon"), "calibration": {"self": CALIBRATION},
            "preprocessing": {"fit": "squeeze"}, "metrics": {"test": 0.5}, "training": {"seed": 0},
        }  # fmt: skip
        return write_bundle(target, **(contents | changes))

    return write


@pytest.fixture
def bundle(tmp_path: Path, write: Callable[..., Bundle]) -> Path:
    return write(tmp_path / "bundle").path


def change_manifest(path: Path, change: Callable[[dict[str, Any]], None], *, sign: bool = True) -> None:
    """Edit the manifest; with `sign`, give it the digest that its new content has."""
    plain = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    change(plain)
    if sign:
        content = {name: value for name, value in plain.items() if name != "digest"}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        plain["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(plain), encoding="utf-8")


def replace_file(path: Path, name: str, data: bytes) -> None:
    """Swap a file for another and make the manifest agree with it."""
    (path / name).write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    change_manifest(path, lambda plain: plain["files"].update({name: entry}))


def test_a_bundle_comes_back_as_it_was_written(bundle: Path, encoder: ImageEncoder) -> None:
    loaded = load_bundle(bundle)

    assert loaded.calibration == CALIBRATION
    assert loaded.manifest.encoder_config == CONFIG
    assert loaded.manifest.labels == ("grocery:Kiwi", "grocery:Lemon")
    again = encoder_from_weights(loaded.manifest.encoder_config, loaded.weights)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(again(images), encoder(images)))
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle"]  # no temporary left


def test_the_bundles_encoder_serves_what_its_weights_compute(bundle: Path, encoder: ImageEncoder) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    served = load_bundle(bundle).encoder()
    with torch.no_grad():
        _, embeddings = encoder(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0)

    assert (served.input_size, served.code_bits, served.dimension) == (32, 64, 16)
    assert np.abs(served.encode(pixels).embeddings - embeddings.numpy()).max() < 1e-4


def test_the_digest_is_the_content_and_nothing_else(tmp_path: Path, write: Callable[..., Bundle]) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    other = write(tmp_path / "c", training={"seed": 1})

    assert first.digest == second.digest
    assert other.digest != first.digest


@pytest.mark.parametrize("name", ["weights.safetensors", "encoder.onnx"])
def test_one_flipped_bit_is_found_and_the_file_named(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)

    with pytest.raises(BundleError, match=rf"{name}: SHA-256 is [0-9a-f]+, its manifest says [0-9a-f]+"):
        load_bundle(bundle)


def test_a_truncated_file_is_found(bundle: Path) -> None:
    data = (bundle / "encoder.onnx").read_bytes()
    (bundle / "encoder.onnx").write_bytes(data[:-1])

    with pytest.raises(
        BundleError, match=rf"encoder.onnx has {len(data) - 1} bytes, its manifest says {len(data)}"
    ):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain.update(format=2), "format is 2, this program reads 1"),
        (
            lambda plain: plain.update(architecture="transformer"),
            "architecture is 'transformer', allowed: compact",
        ),
        (lambda plain: plain.update(note="x"), r"unknown keys \['note'\]"),
        (lambda plain: plain.pop("labels"), r"missing keys \['labels'\]"),
        (lambda plain: plain["config"].update(depth=3), "unknown key depth"),
        (lambda plain: plain["config"].update(code_bits=100), "code_bits is 100"),
        (lambda plain: plain.update(code_bits=128), "input_size, code_bits, dimension are"),
        (lambda plain: plain["calibration"].pop("self"), "must hold 'self'"),
        (
            lambda plain: plain["calibration"]["self"].update(strong="high"),
            "strong is 'high', expected float",
        ),
        (lambda plain: plain["files"].update({"../../etc/passwd": {}}), "files are"),
        (lambda plain: plain["files"]["encoder.onnx"].update(sha256="00"), "expected sha256 and bytes"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    change_manifest(bundle, change)

    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)


def test_an_edited_manifest_no_longer_has_its_digest(bundle: Path) -> None:
    change_manifest(bundle, lambda plain: plain["calibration"]["self"].update(strong=0.1), sign=False)

    with pytest.raises(BundleError, match="its content gives"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "holds a list"),
        ('{"a": NaN}', "NaN is not a number"),
        ("[" * 5000, "not valid JSON"),
    ],
)
def test_a_manifest_that_is_no_object_is_refused(bundle: Path, text: str, message: str) -> None:
    (bundle / "manifest.json").write_text(text, encoding="utf-8")

    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)


def test_a_file_too_many_is_refused(bundle: Path) -> None:
    (bundle / "weights.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")

    with pytest.raises(BundleError, match=r"holds .*weights\.pkl.*; expected exactly"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["weights.safetensors", "encoder.onnx"])
def test_a_link_in_the_place_of_a_file_is_refused(bundle: Path, name: str) -> None:
    shutil.move(bundle / name, bundle.parent / name)
    (bundle / name).symlink_to(bundle.parent / name)

    with pytest.raises(BundleError, match=f"{name} is not a regular file"):
        load_bundle(bundle)


def test_an_oversized_header_is_refused_before_it_is_parsed(bundle: Path) -> None:
    replace_file(bundle, "weights.safetensors", struct.pack("<Q", 2**40) + b"{}")

    with pytest.raises(BundleError, match=f"header of {2**40} bytes, allowed 1048576"):
        load_bundle(bundle)


@pytest.mark.parametrize("data", [b"", b"short", struct.pack("<Q", 2) + b"{]"])
def test_weights_that_are_not_safetensors_are_refused(bundle: Path, data: bytes) -> None:
    replace_file(bundle, "weights.safetensors", data)

    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        load_bundle(bundle)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_never_written(
    tmp_path: Path, write: Callable[..., Bundle], encoder: ImageEncoder, value: float
) -> None:
    weights = weights_of(encoder)
    weights["embedding_head.bias"][3] = value

    with pytest.raises(BundleError, match=r"'embedding_head\.bias' .* is not finite numbers"):
        write(tmp_path / "bundle", weights=weights)
    assert list(tmp_path.iterdir()) == []


def test_a_compact_graph_over_a_million_bytes_is_never_written(
    tmp_path: Path, write: Callable[..., Bundle], graph: bytes
) -> None:
    with pytest.raises(BundleError, match=r"encoder\.onnx has 1000001 bytes, allowed 1000000"):
        write(tmp_path / "bundle", graph=graph + bytes(1_000_001 - len(graph)))
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_is_none_is_refused_when_served(bundle: Path) -> None:
    replace_file(bundle, "encoder.onnx", b"no graph")

    with pytest.raises(BundleError, match="cannot load the graph"):
        load_bundle(bundle).encoder()


def test_a_bundle_is_not_overwritten_unless_asked(tmp_path: Path, write: Callable[..., Bundle]) -> None:
    first = write(tmp_path / "bundle")

    with pytest.raises(FileExistsError, match="a bundle is immutable"):
        write(tmp_path / "bundle", training={"seed": 1})
    assert load_bundle(tmp_path / "bundle").digest == first.digest

    second = write(tmp_path / "bundle", training={"seed": 1}, replace=True)
    assert load_bundle(tmp_path / "bundle").digest == second.digest != first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_no_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a bundle"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("version", ["default", "budget"])
def test_a_shipped_bundle_is_whole_small_and_honest_about_its_classes(
    bundle_path: Path, version: str
) -> None:
    from ml.data.reserved import load_reserved

    bundle = load_bundle(bundle_path.parent / version)
    reserved = load_reserved()

    assert len(bundle.graph) <= 1_000_000
    assert (bundle.manifest.code_bits, bundle.manifest.dimension) == (128, 128)
    for name in bundle.manifest.labels:
        pack, label = name.split(":", 1)
        assert reserved.is_trainable(pack, label)
        assert pack != "catalog"  # copyleft: its pictures are not trained on
    figures = bundle.manifest.metrics
    assert (
        figures["test"]["all"]["fused"]["recall_at_1"]
        > 2 * figures["random_weights"]["all"]["fused"]["recall_at_1"]
    )
    assert figures["strong_share"]["reserved_classes"]["all"]["strong"] <= 0.05
    assert figures["pool_recall_at_10"]["validation"] >= 0.98
