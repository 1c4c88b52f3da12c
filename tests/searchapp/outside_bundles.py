"""Bundles as they may come from outside: good ones as zips, and every kind of bad one."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ml.artifacts import GRAPH_FILE, MANIFEST_FILE, WEIGHTS_FILE, write_bundle
from ml.models.config import CompactConfig, EncoderConfig
from ml.models.encoder import ImageEncoder
from ml.models.export import export_onnx, weights_of
from ml.protocol import Calibration

CONFIG = EncoderConfig(
    trunk=CompactConfig(widths=(8, 8, 16, 16)), input_size=32, code_bits=128, code_hidden=16, dimension=128
)
CALIBRATION = Calibration(
    intercept=-4.0, code_weight=3.0, embedding_weight=5.0, strong=0.8, weak=0.2, pool_size=100
)

_exported: dict[str, bytes] = {}


@cache
def _encoder() -> tuple[dict[str, NDArray[Any]], bytes]:
    torch.manual_seed(0)
    encoder = ImageEncoder(CONFIG).eval()
    return dict(weights_of(encoder)), export_onnx(encoder)


def exported_once(encoder: ImageEncoder) -> bytes:
    """As export_onnx, which takes seconds: of the same weights once."""
    content = b"".join(
        name.encode() + values.tobytes() for name, values in sorted(weights_of(encoder).items())
    )
    key = hashlib.sha256(repr(encoder.config).encode() + content).hexdigest()
    if key not in _exported:
        _exported[key] = export_onnx(encoder)
    return _exported[key]


def bundle_made(folder: Path, **changes: Any) -> Path:
    """A small untrained bundle, whole and true."""
    weights, graph = _encoder()
    contents: dict[str, Any] = {
        "method": "compact", "config": CONFIG, "weights": weights, "graph": graph, "labels": ("a", "b"),
        "calibration": {"self": CALIBRATION}, "preprocessing": {"fit": "squeeze"}, "metrics": {},
        "training": {"seed": 0},
    }  # fmt: skip
    write_bundle(folder, **(contents | changes))
    return folder


def manifest_change(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit the manifest and give it the digest of its new content: a forger would."""
    plain = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    change(plain)
    content = {name: value for name, value in plain.items() if name != "digest"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    plain["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / MANIFEST_FILE).write_text(json.dumps(plain), encoding="utf-8")


def file_replace(folder: Path, name: str, data: bytes) -> None:
    """Another file under this name, and a manifest that agrees with it."""
    (folder / name).write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest_change(folder, lambda plain: plain["files"].update({name: entry}))


def weights_change(folder: Path, change: Callable[[dict[str, NDArray[Any]]], None]) -> None:
    weights = load((folder / WEIGHTS_FILE).read_bytes())
    change(weights)
    file_replace(folder, WEIGHTS_FILE, save(weights))


def zipped(folder: Path, *, inside: str = "", more: Mapping[str, bytes] | None = None) -> bytes:
    """The folder's files as a zip, in the folder `inside`; `more` are entries beside them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{inside}{path.name}")
        for name, data in (more or {}).items():
            archive.writestr(name, data)
    return buffer.getvalue()


def flip(path: Path, position: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.write_bytes(data)


def _not_a_number(weights: dict[str, NDArray[Any]]) -> None:
    weights["embedding_head.weight"][0, 0] = np.nan


def _narrower(weights: dict[str, NDArray[Any]]) -> None:
    weights["embedding_head.weight"] = np.ascontiguousarray(weights["embedding_head.weight"][:, :-1])


def _other_weights(weights: dict[str, NDArray[Any]]) -> None:
    weights["embedding_head.weight"] = weights["embedding_head.weight"] * np.float32(1.01)


def wrong_sha(folder: Path) -> bytes:
    flip(folder / WEIGHTS_FILE)
    return zipped(folder)


def truncated(folder: Path) -> bytes:
    path = folder / GRAPH_FILE
    path.write_bytes(path.read_bytes()[:-1])
    return zipped(folder)


def wrong_bits(folder: Path) -> bytes:
    def change(plain: dict[str, Any]) -> None:
        plain["code_bits"] = plain["config"]["code_bits"] = 64

    manifest_change(folder, change)
    return zipped(folder)


def wrong_shapes(folder: Path) -> bytes:
    weights_change(folder, _narrower)
    return zipped(folder)


def not_a_number(folder: Path) -> bytes:
    weights_change(folder, _not_a_number)
    return zipped(folder)


def pickle_in_disguise(folder: Path, payload: bytes) -> bytes:
    file_replace(folder, WEIGHTS_FILE, payload)
    return zipped(folder)


def no_manifest(folder: Path) -> bytes:
    (folder / MANIFEST_FILE).unlink()
    return zipped(folder)


def path_that_leaves(folder: Path) -> bytes:
    return zipped(folder, more={"../manifest.json": b"{}"})


def manifest_that_leaves(folder: Path) -> bytes:
    manifest_change(
        folder, lambda plain: plain["files"].update({"../../weights": {"sha256": "0" * 64, "bytes": 1}})
    )
    return zipped(folder)


def unknown_architecture(folder: Path) -> bytes:
    manifest_change(folder, lambda plain: plain.update(architecture="transformer"))
    return zipped(folder)


def graph_of_others(folder: Path) -> bytes:
    """The graph is whole and has the right ports, but is not what the weights beside it give."""
    weights_change(folder, _other_weights)
    return zipped(folder)


def graph_that_does_more(folder: Path) -> bytes:
    """One operator more than our own program has, which changes no answer."""
    import onnx

    model = onnx.load_from_string((folder / GRAPH_FILE).read_bytes())
    node = model.graph.node.add(op_type="Identity", input=["pixels"], output=["unused"])
    node.name = "more"
    file_replace(folder, GRAPH_FILE, model.SerializeToString())
    return zipped(folder)


def graph_with_outside_numbers(folder: Path) -> bytes:
    """A weight that lies in another file of the machine."""
    import onnx

    model = onnx.load_from_string((folder / GRAPH_FILE).read_bytes())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    file_replace(folder, GRAPH_FILE, model.SerializeToString())
    return zipped(folder)


def with_a_stranger(folder: Path) -> bytes:
    return zipped(folder, more={"data.pkl": b"x"})


def copy_of(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))
