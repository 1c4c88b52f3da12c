"""The bundle: one immutable, content-addressed directory that is a model version. Nothing here unpickles."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from ml.config import config_from_dict
from ml.models.config import EncoderConfig
from ml.onnx_encoder import FeatureEncoder, OnnxEncoder, open_feature_encoder, open_onnx_encoder
from ml.protocol import Calibration
from ml.text_encoder import TextWeights

FORMAT_VERSION = 1
ARCHITECTURES = ("compact", "residual")
MANIFEST_FILE, WEIGHTS_FILE, GRAPH_FILE = "manifest.json", "weights.safetensors", "encoder.onnx"
BUNDLE_FILES = (WEIGHTS_FILE, GRAPH_FILE)
TEXT_FILE = "text.safetensors"  # a bundle that knows words has it too
MAX_COMPACT_GRAPH_BYTES = 1_000_000
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_TEXT_BYTES = 64 * 1024 * 1024
MAX_HEADER_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")

_RUNNING_VALUES = ("running_mean", "running_var", "num_batches_tracked")

Weights = dict[str, NDArray[Any]]


class BundleError(ValueError):
    """A bundle that must not be used; the message says what differed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle says about itself. `files` and `digest` are filled by write_bundle."""

    format: int = FORMAT_VERSION
    method: str
    architecture: str
    config: dict[str, Any]  # EncoderConfig as plain values
    code_bits: int
    dimension: int
    input_size: int
    preprocessing: dict[str, Any]
    labels: tuple[str, ...]  # "<pack>:<label>" of every class trained on, sorted
    calibration: dict[str, Calibration]  # by producer; "self" = entries made by this very version
    metrics: dict[str, Any]
    training: dict[str, Any]  # command, seed, settings, data fingerprint, machine, seconds
    files: dict[str, dict[str, Any]]  # name -> {"sha256", "bytes"}
    digest: str

    @property
    def encoder_config(self) -> EncoderConfig:
        """The architecture's settings. Raises BundleError when they are not valid."""
        try:
            return config_from_dict(EncoderConfig, self.config)
        except ValueError as error:
            raise BundleError(f"manifest: {error}") from error


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle: bytes were read once, checked, and are what every method uses."""

    path: Path
    manifest: Manifest
    weights: Weights
    graph: bytes
    text: Weights | None = None  # `ml.models.text.TextEncoder.arrays()`; None where no words were learned

    @property
    def digest(self) -> str:
        """Content address: SHA-256 (hex) of the manifest, which holds the SHA-256 of every file."""
        return self.manifest.digest

    @property
    def calibration(self) -> Calibration:
        """Calibration of this version's queries against its own entries."""
        return self.manifest.calibration["self"]

    @property
    def parameters(self) -> int:
        """How many numbers were trained; batch norm's running values are stored beside them."""
        return sum(v.size for name, v in self.weights.items() if not name.endswith(_RUNNING_VALUES))

    def encoder(self) -> OnnxEncoder:
        """The serving encoder, free of torch. Raises BundleError when the graph does not fit the manifest."""
        try:
            return open_onnx_encoder(self.graph, **self._shapes())
        except ValueError as error:
            raise BundleError(f"{self.path / GRAPH_FILE}: {error}") from error

    def feature_encoder(self) -> FeatureEncoder:
        """The serving encoder that gives the trunk's features too. Raises what `encoder` raises."""
        try:
            return open_feature_encoder(self.graph, **self._shapes())
        except ValueError as error:
            raise BundleError(f"{self.path / GRAPH_FILE}: {error}") from error

    def text_encoder(self) -> TextWeights | None:
        """Words to codes, free of torch; None when the version knows no words.

        Raises BundleError when its arrays are not a text encoder's, or give codes of another length.
        """
        if self.text is None:
            return None
        try:
            encoder = TextWeights.of(self.text)
        except ValueError as error:
            raise BundleError(f"{self.path / TEXT_FILE}: {error}") from error
        if encoder.code_bits != self.manifest.code_bits:
            raise BundleError(
                f"{self.path / TEXT_FILE}: its codes have {encoder.code_bits} bits, "
                f"those of images {self.manifest.code_bits}"
            )
        return encoder

    def _shapes(self) -> dict[str, int]:
        manifest = self.manifest
        return {
            "input_size": manifest.input_size,
            "code_bits": manifest.code_bits,
            "dimension": manifest.dimension,
        }


def write_bundle(
    target: Path,
    *,
    method: str,
    config: EncoderConfig,
    weights: Mapping[str, NDArray[Any]],
    graph: bytes,
    labels: tuple[str, ...],
    calibration: Mapping[str, Calibration],
    preprocessing: Mapping[str, Any],
    metrics: Mapping[str, Any],
    training: Mapping[str, Any],
    text: Mapping[str, NDArray[np.float32]] | None = None,
    replace: bool = False,
) -> Bundle:
    """Write a bundle under a temporary name, sync it, load it back, and rename it to `target`.

    text: `ml.models.text.TextEncoder.arrays()` of a version that knows words. Raises BundleError (and leaves no
    trace) when the bundle would not load; FileExistsError when `target` exists and `replace` is false.
    """
    check_free(target, replace=replace)
    contents = {WEIGHTS_FILE: save_safetensors(dict(weights)), GRAPH_FILE: graph}
    if text is not None:
        contents[TEXT_FILE] = save_safetensors(dict(text))
    plain: dict[str, Any] = {
        "format": FORMAT_VERSION, "method": method, "architecture": config.trunk.kind, "config": asdict(config),
        "code_bits": config.code_bits, "dimension": config.dimension, "input_size": config.input_size,
        "preprocessing": dict(preprocessing), "labels": list(labels),
        "calibration": {name: asdict(values) for name, values in calibration.items()},
        "metrics": dict(metrics), "training": dict(training),
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in contents.items()
        },
    }  # fmt: skip
    plain["digest"] = content_digest(plain)
    manifest = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    folder_write(target, {**contents, MANIFEST_FILE: manifest.encode()}, check=load_bundle)
    return load_bundle(target)


def folder_write(target: Path, contents: Mapping[str, bytes], *, check: Callable[[Path], object]) -> None:
    """Write files under a temporary name, sync them, let `check` read them there, and rename the folder to `target`.

    What `check` raises goes on, and leaves no trace.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        for name, data in contents.items():
            _write_synced(temporary / name, data)
        _sync_folder(temporary)
        check(temporary)
        _rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_folder(target.parent)


def check_free(target: Path, *, replace: bool) -> None:
    """Raise FileExistsError when `target` exists and may not be replaced."""
    if target.exists() and not replace:
        raise FileExistsError(f"{target} exists; a bundle is immutable, choose another place")


def load_bundle(path: Path) -> Bundle:
    """Read and verify a bundle. Raises BundleError naming file and difference, or FileNotFoundError."""
    manifest = read_manifest(path)
    names = sorted(entry.name for entry in path.iterdir())
    expected = sorted([MANIFEST_FILE, *manifest.files])
    if names != expected:
        raise BundleError(f"{path} holds {', '.join(names)}; expected exactly {', '.join(expected)}")
    contents = {name: verified_file(path / name, entry) for name, entry in manifest.files.items()}
    graph = contents[GRAPH_FILE]
    if manifest.encoder_config.trunk.kind != manifest.architecture:
        raise BundleError(
            f"{path}: architecture is {manifest.architecture!r}, "
            f"its trunk {manifest.encoder_config.trunk.kind!r}"
        )
    if manifest.architecture == "compact" and len(graph) > MAX_COMPACT_GRAPH_BYTES:
        raise BundleError(f"{path / GRAPH_FILE} has {len(graph)} bytes, allowed {MAX_COMPACT_GRAPH_BYTES}")
    text = contents.get(TEXT_FILE)
    bundle = Bundle(
        path=path,
        manifest=manifest,
        weights=tensors_of(path / WEIGHTS_FILE, contents[WEIGHTS_FILE]),
        graph=graph,
        text=None if text is None else tensors_of(path / TEXT_FILE, text),
    )
    bundle.text_encoder()  # refuses words that would not be served
    return bundle


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle at `path`, checked against its own digest; the other files are not read."""
    source = path / MANIFEST_FILE
    plain = plain_manifest(source)
    known = {field.name for field in fields(Manifest)}
    if set(plain) != known:
        raise BundleError(
            f"{source}: missing keys {sorted(known - set(plain))}, unknown keys {sorted(set(plain) - known)}"
        )
    if plain["format"] != FORMAT_VERSION:
        raise BundleError(f"{source}: format is {plain['format']!r}, this program reads {FORMAT_VERSION}")
    if plain["architecture"] not in ARCHITECTURES:
        raise BundleError(
            f"{source}: architecture is {plain['architecture']!r}, allowed: {', '.join(ARCHITECTURES)}"
        )
    if plain["digest"] != content_digest(plain):
        raise BundleError(
            f"{source}: digest is {plain['digest']!r}, its content gives {content_digest(plain)}"
        )
    _check_files(source, plain["files"])
    try:
        calibration = {
            name: config_from_dict(Calibration, values, where=f"calibration.{name}")
            for name, values in plain["calibration"].items()
        }
        manifest = config_from_dict(Manifest, {**plain, "calibration": calibration}, where=str(source))
    except (ValueError, AttributeError) as error:
        raise BundleError(f"{source}: {error}") from error
    config = manifest.encoder_config
    declared = (manifest.input_size, manifest.code_bits, manifest.dimension)
    if declared != (config.input_size, config.code_bits, config.dimension) or "self" not in calibration:
        raise BundleError(f"{source}: input_size, code_bits, dimension are {declared}, config says {config}, "
                          f"calibration holds {sorted(calibration)} and must hold 'self'")  # fmt: skip
    return manifest


def plain_manifest(source: Path) -> dict[str, Any]:
    """A manifest as it stands in its file, a JSON object of bounded size; nothing in it is checked yet."""
    if source.is_symlink() or not source.is_file():
        raise FileNotFoundError(f"{source} is missing: not a bundle")
    if source.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{source} has {source.stat().st_size} bytes, allowed {MAX_MANIFEST_BYTES}")
    try:
        plain = json.loads(source.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{source} is not valid JSON: {error}") from error
    if not isinstance(plain, dict):
        raise BundleError(f"{source} holds a {type(plain).__name__}, expected an object")
    return plain


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number JSON knows")


def _check_files(source: Path, files: Any) -> None:
    if not isinstance(files, dict) or set(files) - {TEXT_FILE} != set(BUNDLE_FILES):
        names = sorted(files) if isinstance(files, dict) else files
        raise BundleError(
            f"{source}: files are {names}, expected {', '.join(sorted(BUNDLE_FILES))}, and {TEXT_FILE} or not"
        )
    for name, entry in files.items():
        check_file_entry(source, name, entry)


def check_file_entry(source: Path, name: str, entry: Any) -> None:
    """Raise BundleError unless what the manifest says of file `name` is its SHA-256 and size."""
    valid = (
        isinstance(entry, dict)
        and sorted(entry) == ["bytes", "sha256"]
        and type(entry["bytes"]) is int
        and _SHA256.fullmatch(str(entry["sha256"])) is not None
    )
    if not valid:
        raise BundleError(f"{source}: files.{name} is {entry!r}, expected sha256 and bytes")


def verified_file(source: Path, entry: Mapping[str, Any]) -> bytes:
    """A file whose size and SHA-256 are those of its manifest's entry. Raises BundleError."""
    if source.is_symlink() or not source.is_file():
        raise BundleError(f"{source} is not a regular file")
    size, most = source.stat().st_size, MAX_TEXT_BYTES if source.name == TEXT_FILE else MAX_FILE_BYTES
    if size != entry["bytes"] or size > most:
        raise BundleError(f"{source} has {size} bytes, its manifest says {entry['bytes']} (at most {most})")
    data = source.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != entry["sha256"]:
        raise BundleError(f"{source}: SHA-256 is {found}, its manifest says {entry['sha256']}")
    return data


def tensors_of(source: Path, data: bytes) -> Weights:
    """The finite numbers of a safetensors file. Raises BundleError."""
    header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header > MAX_HEADER_BYTES:
        raise BundleError(f"{source}: header of {header} bytes, allowed {MAX_HEADER_BYTES}")
    try:
        weights: Weights = load_safetensors(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{source} is not a safetensors file: {error}") from error
    for name, values in weights.items():
        if values.dtype.kind not in "fi" or not np.isfinite(values).all():
            raise BundleError(f"{source}: tensor {name!r} ({values.dtype}) is not finite numbers")
    return weights


def content_digest(plain: Mapping[str, Any]) -> str:
    """Content address: SHA-256 (hex) of a manifest but for its own digest."""
    content = {name: value for name, value in plain.items() if name != "digest"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(temporary: Path, target: Path) -> None:
    """A directory cannot be renamed over a full one: the old one steps aside first."""
    if not target.exists():
        temporary.rename(target)
        return
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(aside)
    temporary.rename(target)
    shutil.rmtree(aside)
