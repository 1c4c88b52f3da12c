"""A view's base on disk: plain mapped arrays beside a manifest, verified to the last bit before anything is
used.

FAISS loads most damaged files without a word, so nothing here is a FAISS file: engines are rebuilt from the
mapped codes (no work for the exact scan, seconds for a million-row inverted file). A snapshot is a cache of
database rows and may be deleted at any time.
"""

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.columns import ENTRY_ARRAYS, ITEM_ARRAYS, EntryColumns, ItemColumns
from ml.retrieval.faiss_index import FaissIndex
from ml.retrieval.index import EngineFactory
from ml.retrieval.view import GalleryView

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_TEMPORARY_PREFIX = ".writing-"


class SnapshotDamaged(Exception):
    """A snapshot that must not be served; `file` is the file at fault, relative to the snapshot."""

    def __init__(self, directory: Path, file: str, reason: str) -> None:
        super().__init__(f"snapshot {directory.name}: {file} {reason}")
        self.file = file


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """What a snapshot holds. identity names the view (query version and corrector); sequence is the last
    gallery change it includes; schema is the SHA-256 of column names and dtypes; files maps name to SHA-256
    and size in bytes.
    """

    format_version: int
    identity: str
    sequence: int
    schema: str
    code_bits: int
    dimension: int
    producer_names: tuple[str, ...]
    counts: dict[str, int]
    items: int
    files: dict[str, tuple[str, int]]


def write_snapshot(view: GalleryView, directory: Path, *, identity: str, sequence: int) -> SnapshotManifest:
    """Write `view`, delta folded in, to `directory`, which appears whole or not at all.

    Everything is written and synced under a temporary name beside it first. Raises FileExistsError when
    `directory` exists: a snapshot is never overwritten.
    """
    if directory.exists():
        raise FileExistsError(f"snapshot {directory} exists; snapshots are never overwritten")
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.parent / f"{_TEMPORARY_PREFIX}{directory.name}-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        manifest = _write_files(view, temporary, identity=identity, sequence=sequence)
        _sync_directory(temporary)
        temporary.rename(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_directory(directory.parent)
    return manifest


def open_snapshot(directory: Path, *, engine: EngineFactory = FaissIndex.build) -> GalleryView:
    """The view written to `directory`, its arrays mapped, not read.

    Every file's size and SHA-256 is checked before any is mapped. Raises SnapshotDamaged naming the first
    file that is missing, truncated, changed or of another schema.
    """
    manifest = read_manifest(directory)
    for name, (digest, size_bytes) in manifest.files.items():
        _verify(directory, name, digest, size_bytes)
    try:
        columns: dict[str, Any] = {name: _mapped(directory, f"entries.{name}") for name in ENTRY_ARRAYS}
        entries = EntryColumns(**columns, producer_names=manifest.producer_names)
        items = ItemColumns(*(_mapped(directory, f"items.{name}") for name in ITEM_ARRAYS))
        return GalleryView.build(entries, items, engine=engine)
    except ValueError as error:
        raise SnapshotDamaged(directory, MANIFEST, f"describes arrays that do not fit: {error}") from error


def read_manifest(directory: Path) -> SnapshotManifest:
    """The manifest of the snapshot in `directory`, checked against its own digest, format and schema."""
    try:
        text = (directory / MANIFEST).read_text(encoding="utf-8")
        stored = json.loads(text)
        digest = stored.pop("digest")
        if text != _manifest_text(stored) or digest != _digest_of(stored):
            raise SnapshotDamaged(directory, MANIFEST, "does not match its own digest")
        files = {name: (str(sha), int(size)) for name, (sha, size) in stored.pop("files").items()}
        manifest = SnapshotManifest(
            **{**stored, "producer_names": tuple(stored["producer_names"])}, files=files
        )
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotDamaged(directory, MANIFEST, f"cannot be read: {error}") from error
    if (manifest.format_version, manifest.schema) != (FORMAT_VERSION, _schema()):
        raise SnapshotDamaged(
            directory,
            MANIFEST,
            f"is format {manifest.format_version} with schema {manifest.schema[:12]}, "
            f"this program reads format {FORMAT_VERSION} with schema {_schema()[:12]}",
        )
    if set(manifest.files) != {f"{name}.npy" for name in _EXPECTED_DTYPES}:
        raise SnapshotDamaged(
            directory, MANIFEST, f"lists other files than expected: {sorted(manifest.files)}"
        )
    return manifest


def sweep_leftovers(parent: Path, *, older_than_seconds: float = 3600.0) -> list[str]:
    """Delete what crashed writers left in `parent` and return the names; younger ones may still be being
    written.
    """
    swept = []
    for leftover in sorted(parent.glob(f"{_TEMPORARY_PREFIX}*")):
        if time.time() - leftover.stat().st_mtime >= older_than_seconds:
            shutil.rmtree(leftover, ignore_errors=True)
            swept.append(leftover.name)
    return swept


_EXPECTED_DTYPES = {
    "entries.entry_ids": "<i8",
    "entries.image_ids": "<i8",
    "entries.item_ids": "<i8",
    "entries.producers": "<i2",
    "entries.codes": "|u1",
    "entries.embeddings": "<f2",
    "items.item_ids": "<i8",
    "items.category_ids": "<i4",
    "items.verticals": "|i1",
    "items.prices": "<f4",
    "items.tag_ids": "<i8",
    "items.tag_rows": "<i4",
}


def _schema() -> str:
    return hashlib.sha256(json.dumps(_EXPECTED_DTYPES, sort_keys=True).encode()).hexdigest()


def _write_files(view: GalleryView, directory: Path, *, identity: str, sequence: int) -> SnapshotManifest:
    entries, items = view.compacted_entries(), view.items.compacted()
    files = {}
    for name, array in _arrays(entries, items):
        path = directory / f"{name}.npy"
        with path.open("wb") as stream:
            np.save(stream, array.astype(_EXPECTED_DTYPES[name], copy=False), allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        files[path.name] = (_file_digest(path), path.stat().st_size)
    manifest = SnapshotManifest(
        format_version=FORMAT_VERSION,
        identity=identity,
        sequence=sequence,
        schema=_schema(),
        code_bits=view.code_bits,
        dimension=view.dimension,
        producer_names=entries.producer_names,
        counts=view.counts_by_producer,
        items=len(items),
        files=files,
    )
    with (directory / MANIFEST).open("w", encoding="utf-8") as stream:
        stream.write(_manifest_text(asdict(manifest)))
        stream.flush()
        os.fsync(stream.fileno())
    return manifest


def _arrays(entries: EntryColumns, items: ItemColumns) -> Iterator[tuple[str, NDArray[Any]]]:
    for name in ENTRY_ARRAYS:
        yield f"entries.{name}", getattr(entries, name)
    for name in ITEM_ARRAYS:
        yield f"items.{name}", getattr(items, name)


def _manifest_text(content: dict[str, Any]) -> str:
    """The one way a manifest may be written, so that a change of even a space shows."""
    return json.dumps({**content, "digest": _digest_of(content)}, indent=1, sort_keys=True)


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _verify(directory: Path, name: str, digest: str, size_bytes: int) -> None:
    path = directory / name
    try:
        found = path.stat().st_size
        if found != size_bytes:
            raise SnapshotDamaged(directory, name, f"has {found} bytes, the manifest says {size_bytes}")
        if _file_digest(path) != digest:
            raise SnapshotDamaged(directory, name, "does not have the SHA-256 the manifest says")
    except OSError as error:
        raise SnapshotDamaged(directory, name, f"cannot be read: {error}") from error


def _mapped(directory: Path, name: str) -> Any:
    array = np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    if array.dtype.str != _EXPECTED_DTYPES[name]:
        raise SnapshotDamaged(directory, f"{name}.npy", f"holds {array.dtype}, not {_EXPECTED_DTYPES[name]}")
    # A plain array over the same mapping: numpy is slower on its memmap subclass.
    return array.view(np.ndarray)


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
