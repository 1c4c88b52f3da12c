"""A bundle that knows words: its third file, and what is refused of it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from ml import artifacts
from ml.__main__ import main
from ml.artifacts import TEXT_FILE, Bundle, BundleError, load_bundle, write_bundle
from ml.models.text import TextConfig, TextEncoder
from ml.text_encoder import TextWeights

TEXTS = ["Granny Smith", "gröna äpplen"]


@pytest.fixture(scope="module")
def shipped(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="module")
def words() -> dict[str, Any]:
    return arrays()


def arrays(code_bits: int = 128) -> dict[str, Any]:
    torch.manual_seed(0)
    return TextEncoder(TextConfig(buckets=256, hidden=16, code_bits=code_bits)).arrays()


@pytest.fixture(scope="module")
def write(shipped: Bundle) -> Callable[..., Bundle]:
    """Writes the shipped version with other words."""
    made = shipped.manifest

    def write(target: Path, **changes: Any) -> Bundle:
        contents: dict[str, Any] = {
            "method": made.method, "config": made.encoder_config, "weights": shipped.weights, "graph": shipped.graph,
            "labels": made.labels, "calibration": made.calibration, "preprocessing": made.preprocessing,
            "metrics": {}, "training": {},
        }  # fmt: skip
        return write_bundle(target, **(contents | changes))

    return write


@pytest.fixture
def bundle(tmp_path: Path, write: Callable[..., Bundle], words: dict[str, Any]) -> Path:
    return write(tmp_path / "bundle", text=words).path


def change_files(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit the manifest's `files`, and give it the digest that its new content has."""
    plain = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    change(plain["files"])
    content = {name: value for name, value in plain.items() if name != "digest"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    plain["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(plain), encoding="utf-8")


def test_words_come_back_byte_for_byte_and_are_served(bundle: Path, words: dict[str, Any]) -> None:
    loaded = load_bundle(bundle)
    data = (bundle / "text.safetensors").read_bytes()

    assert loaded.text is not None
    assert {name: value.tobytes() for name, value in loaded.text.items()} == {
        name: value.tobytes() for name, value in words.items()
    }
    assert loaded.manifest.files[TEXT_FILE] == {
        "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)
    }  # fmt: skip
    served = loaded.text_encoder()
    assert served is not None
    np.testing.assert_array_equal(served.encode(TEXTS), TextWeights.of(words).encode(TEXTS))
    assert loaded.encoder().code_bits == served.code_bits == 128


def test_a_bundle_without_words_says_so_and_has_no_such_file(
    tmp_path: Path, write: Callable[..., Bundle]
) -> None:
    plain = write(tmp_path / "bundle")

    assert plain.text is None
    assert plain.text_encoder() is None
    assert sorted(path.name for path in plain.path.iterdir()) == [
        "encoder.onnx", "manifest.json", "weights.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("version", ["default", "budget"])
def test_bundles_written_before_there_were_words_load_as_they_are(bundle_path: Path, version: str) -> None:
    loaded = load_bundle(bundle_path.parent / version)  # which counts the digest again

    assert sorted(loaded.manifest.files) == ["encoder.onnx", "weights.safetensors"]
    assert loaded.text_encoder() is None


def test_the_digest_tells_words_apart(
    tmp_path: Path, write: Callable[..., Bundle], words: dict[str, Any]
) -> None:
    name = "code_head.layers.3.bias"
    digests = [
        write(tmp_path / "none").digest,
        write(tmp_path / "some", text=words).digest,
        write(tmp_path / "other", text={**words, name: words[name] + 1}).digest,
        write(tmp_path / "again", text=dict(reversed(words.items()))).digest,
    ]
    assert len(set(digests[:3])) == 3
    assert digests[3] == digests[1]


def test_one_flipped_bit_of_the_words_is_found(bundle: Path) -> None:
    data = bytearray((bundle / TEXT_FILE).read_bytes())
    data[-1] ^= 1
    (bundle / TEXT_FILE).write_bytes(data)

    with pytest.raises(BundleError, match=r"text\.safetensors: SHA-256 is"):
        load_bundle(bundle)


def test_words_that_the_manifest_does_not_name_are_refused(
    tmp_path: Path, write: Callable[..., Bundle], words: dict[str, Any]
) -> None:
    plain = write(tmp_path / "bundle")
    (plain.path / TEXT_FILE).write_bytes(save(words))

    with pytest.raises(
        BundleError, match=r"holds .*text\.safetensors.*; expected exactly encoder\.onnx, man"
    ):
        load_bundle(plain.path)


def test_words_that_the_manifest_names_must_be_there(bundle: Path) -> None:
    (bundle / TEXT_FILE).unlink()

    with pytest.raises(
        BundleError, match=r"expected exactly encoder\.onnx, manifest\.json, text\.safetensors"
    ):
        load_bundle(bundle)


def test_a_link_in_the_place_of_the_words_is_refused(bundle: Path) -> None:
    (bundle / TEXT_FILE).rename(bundle.parent / TEXT_FILE)
    (bundle / TEXT_FILE).symlink_to(bundle.parent / TEXT_FILE)

    with pytest.raises(BundleError, match=r"text\.safetensors is not a regular file"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop("weights.safetensors"), r"files are \['encoder.onnx', 'text.safetensors'\]"),
        (lambda files: files.update({"words.txt": files[TEXT_FILE]}), "and text.safetensors or not"),
        (lambda files: files[TEXT_FILE].pop("bytes"), "expected sha256 and bytes"),
    ],
)
def test_a_manifest_that_names_other_files_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    change_files(bundle, change)

    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)


def test_words_that_are_no_text_encoder_or_of_another_length_are_never_written(
    tmp_path: Path, write: Callable[..., Bundle], words: dict[str, Any]
) -> None:
    last = "code_head.layers.3.bias"
    for wrong, message in (
        ({name: value for name, value in words.items() if name != last}, "the arrays are"),
        ({**words, last: words[last][1:]}, "code_head.layers.3.weight is"),
        ({**words, last: np.full_like(words[last], np.nan)}, "is not finite numbers"),
        (arrays(code_bits=64), "its codes have 64 bits, those of images 128"),
    ):
        with pytest.raises(BundleError, match=rf"text\.safetensors: .*{message}"):
            write(tmp_path / "bundle", text=wrong)
        assert list(tmp_path.iterdir()) == []


def test_words_over_the_limit_are_never_written(
    tmp_path: Path, write: Callable[..., Bundle], words: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "MAX_TEXT_BYTES", 1_000)

    with pytest.raises(BundleError, match=r"text\.safetensors has \d+ bytes, .*at most 1000"):
        write(tmp_path / "bundle", text=words)
    assert list(tmp_path.iterdir()) == []


def test_words_of_a_bundle_changed_in_memory_are_checked_when_they_are_served(shipped: Bundle) -> None:
    with pytest.raises(BundleError, match="its codes have 64 bits"):
        replace(shipped, text=arrays(code_bits=64)).text_encoder()


def test_the_command_names_the_words_among_the_files(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(bundle)]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"][TEXT_FILE] == (bundle / TEXT_FILE).stat().st_size
    target = bundle.parent / "model.onnx"
    assert main(["export", "--version", str(bundle), "--format", "onnx", "--out", str(target)]) == 0
    assert target.read_bytes() == (bundle / "encoder.onnx").read_bytes()
