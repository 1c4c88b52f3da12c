"""Reads the four gzipped IDX files of MNIST, Fashion-MNIST and sets of that shape."""

import csv
import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLASSES_FILE = "classes.csv"
MAX_BYTES = 256 * 1024**2  # unpacked; the real files have 47 MB
_STEMS = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTES = 8


@dataclass(frozen=True, slots=True)
class Digits:
    """One split: pixels (N, H, W) uint8, labels (N,) int64 >= 0."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def is_idx_folder(folder: Path) -> bool:
    """True when the pictures and labels of both splits lie in `folder`."""
    return all(path.is_file() for path in _files(folder))


def read_split(folder: Path, split: str) -> Digits:
    """The "train" or "test" (t10k) pictures with their labels.

    Raises ValueError on another split, a file that is not IDX, or pictures and labels of different number.
    """
    if split not in _STEMS:
        raise ValueError(f"split is {split!r}, allowed: {', '.join(_STEMS)}")
    pixels = read_idx(_file(folder, split, "images"), dimensions=3)
    labels = read_idx(_file(folder, split, "labels"), dimensions=1)
    if len(pixels) != len(labels):
        raise ValueError(f"{folder}: {len(pixels)} pictures but {len(labels)} labels ({split})")
    return Digits(pixels, labels.astype(np.int64))


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """The array of one gzipped IDX file of unsigned bytes. Raises ValueError when it is something else."""
    try:
        with gzip.open(path) as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from error
    if len(raw) > MAX_BYTES:
        raise ValueError(f"{path} unpacks to more than {MAX_BYTES} bytes")
    head = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(raw[start : start + 4], "big") for start in range(4, head, 4))
    if raw[:4] != bytes([0, 0, _UNSIGNED_BYTES, dimensions]) or len(raw) != head + math.prod(shape):
        raise ValueError(f"{path} is not an IDX file of {dimensions} dimensions of bytes")
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def class_names(folder: Path, count: int) -> tuple[str, ...]:
    """Names of the labels 0 to count - 1: from classes.csv (columns label, class) where there is one."""
    path = folder / CLASSES_FILE
    named: dict[int, str] = {}
    if path.is_file():
        with path.open(encoding="utf-8-sig", newline="") as stream:
            try:
                named = {int(row["label"]): row["class"] for row in csv.DictReader(stream)}
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}: expected the columns label (a number) and class: {error}"
                ) from error
    return tuple(named.get(label, str(label)) for label in range(count))


def fingerprint(folder: Path) -> str:
    """SHA-256 (hex) over the lines `<name> <sha256>` of the four files, sorted by name."""
    lines = []
    for path in sorted(_files(folder)):
        with path.open("rb") as stream:
            lines.append(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return [_file(folder, split, kind) for split in _STEMS for kind in ("images", "labels")]


def _file(folder: Path, split: str, kind: str) -> Path:
    return folder / f"{_STEMS[split]}-{kind}-idx{3 if kind == 'images' else 1}-ubyte.gz"
