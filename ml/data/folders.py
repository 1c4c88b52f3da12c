"""Reads a folder of class folders: the path between the root (or its `train/` and `test/`) and a photo is its class.

Splits never depend on names or on the order of files. Photos of a class are ordered by the SHA-256 of their
bytes, copies staying together. Of every class with at least eight different photos, the first eighth is held
out for validation; without `train/` and `test/`, the first eighth is the test split and the next one is
validation.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ml.data.images import ImageSet
from ml.data.preprocessing import decode_to_input

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
HELD_OUT_SHARE = 8  # one in eight


@dataclass(frozen=True, slots=True)
class FolderPhoto:
    """One photo file. path: relative to the root, with /; label: its class; digest: SHA-256 of the bytes."""

    path: str
    label: str
    digest: str


@dataclass(frozen=True, slots=True)
class ClassFolders:
    """An opened folder, its photos by split, each split sorted by path."""

    root: Path
    train: tuple[FolderPhoto, ...]
    validation: tuple[FolderPhoto, ...]
    test: tuple[FolderPhoto, ...]

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the sorted lines `<path> <sha256>` of all photos."""
        photos = (*self.train, *self.validation, *self.test)
        lines = sorted(f"{photo.path} {photo.digest}\n" for photo in photos)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_class_folder(folder: Path) -> bool:
    """True when a folder inside `folder` holds a photo."""
    return any("/" in path for path in _paths(folder))


def open_folders(root: Path) -> ClassFolders:
    """Read and hash every photo beneath `root`; hidden files and links are passed over.

    Raises ValueError when a photo lies in no class folder, or no class is left to test.
    """
    paths = _paths(root)
    outermost = {path.split("/", 1)[0] for path in paths}
    if {"train", "test"} <= outermost:
        others = sorted(outermost - {"train", "test"})
        if others:
            raise ValueError(f"{root} holds {', '.join(others[:3])} beside train and test")
        given = {split: _photos(root, split, paths) for split in ("train", "test")}
        (validation,), train = _held_out(given["train"], 1)
        return ClassFolders(root, _sorted(train), _sorted(validation), _sorted(given["test"]))
    (test, validation), train = _held_out(_photos(root, "", paths), 2)
    if not test:
        raise ValueError(f"{root}: no class has {HELD_OUT_SHARE} different photos, so none can be tested")
    return ClassFolders(root, _sorted(train), _sorted(validation), _sorted(test))


def load_photos(
    root: Path, photos: Sequence[FolderPhoto], size: int, *, source: str, names: Sequence[str]
) -> ImageSet:
    """Decode photos to (N, 3, size, size). names: "<source>:<label>"; labels outside become -1.

    Raises ValueError naming a file that is not a readable picture.
    """
    index = {name: position for position, name in enumerate(names)}
    pixels = np.empty((len(photos), size, size, 3), dtype=np.uint8)
    for position, photo in enumerate(photos):
        try:
            pixels[position] = decode_to_input((root / photo.path).read_bytes(), size)
        except OSError as error:
            raise ValueError(f"{root / photo.path} cannot be read as a picture: {error}") from error
    lines = sorted(f"{source}/{photo.path} {photo.label} {photo.digest}\n" for photo in photos)
    return ImageSet(
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor(
            [index.get(f"{source}:{photo.label}", -1) for photo in photos], dtype=torch.int64
        ),
        names=tuple(names),
        packs=(source,) * len(photos),
        fingerprint=hashlib.sha256("".join(lines).encode()).hexdigest(),
    )


def _paths(root: Path) -> list[str]:
    found = []
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in PHOTO_SUFFIXES and not path.is_symlink():
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


def _photos(root: Path, split: str, paths: Iterable[str]) -> list[FolderPhoto]:
    prefix = f"{split}/" if split else ""
    photos = []
    for path in paths:
        if not path.startswith(prefix):
            continue
        label, separator, _ = path.removeprefix(prefix).rpartition("/")
        if not separator:
            raise ValueError(f"{root / path} lies in no class folder")
        digest = hashlib.sha256((root / path).read_bytes()).hexdigest()
        photos.append(FolderPhoto(path, label, digest))
    return photos


def _held_out(photos: Iterable[FolderPhoto], parts: int) -> tuple[list[list[FolderPhoto]], list[FolderPhoto]]:
    """(the first `parts` eighths of each class by digest, the rest); fewer than eight photos give nothing."""
    by_class: dict[str, dict[str, list[FolderPhoto]]] = defaultdict(lambda: defaultdict(list))
    for photo in photos:
        by_class[photo.label][photo.digest].append(photo)
    held_out: list[list[FolderPhoto]] = [[] for _ in range(parts)]
    rest: list[FolderPhoto] = []
    for copies in by_class.values():
        digests = sorted(copies)
        count = len(digests) // HELD_OUT_SHARE
        for position, digest in enumerate(digests):
            side = held_out[position // count] if position < parts * count else rest
            side += copies[digest]
    return held_out, rest


def _sorted(photos: Iterable[FolderPhoto]) -> tuple[FolderPhoto, ...]:
    return tuple(sorted(photos, key=lambda photo: photo.path))
