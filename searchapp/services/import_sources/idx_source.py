"""A catalogue as the four files of MNIST or Fashion-MNIST: each picture is an item of its class.

The `train` file becomes the catalogue, the `t10k` file held-out evaluation queries; `classes.csv` beside them, where
there is one, names the labels.
"""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from searchapp.exceptions import InvalidInput
from searchapp.models import EvaluationQuery
from searchapp.services.import_sources.records import ItemRecord, Photo, QueryRecord, RowProblem

_STEM = {"train": "train", "test": "t10k"}
_MAX_BYTES = 256 * 1024**2  # unpacked; the real files have 47 MB
_UNSIGNED_BYTES = 8


def is_idx(folder: Path) -> bool:
    return all((folder / _name("train", kind)).is_file() for kind in ("images", "labels"))


def _name(split: str, kind: str) -> str:
    return f"{_STEM[split]}-{kind}-idx{3 if kind == 'images' else 1}-ubyte.gz"


@dataclass(frozen=True)
class IdxSource:
    root: Path
    name: str
    splits: tuple[str, ...]
    has_splits: bool = True
    notes: tuple[str, ...] = ()

    def photo_count(self) -> int:
        return sum(len(self._labels(split)) for split in self._wanted)

    def records(self) -> Iterator[ItemRecord | RowProblem]:
        if "train" in self._wanted:
            for row, label in enumerate(self._labels("train")):
                yield ItemRecord(
                    row=row + 1,
                    sku=f"{self.name}:train-{row:05}",
                    category=self._class(label),
                    photos=(Photo(row + 1, f"train/{row}"),),
                    fields={"title": self._class(label)},
                )

    def queries(self) -> Iterator[QueryRecord]:
        if "test" in self._wanted:
            for row, label in enumerate(self._labels("test")):
                yield QueryRecord(
                    source=f"{self.name}:test/{row}",
                    split="test",
                    photo=Photo(row + 1, f"test/{row}"),
                    category=self._class(label),
                    relevance=EvaluationQuery.Relevance.CATEGORY,
                )

    def read(self, photo: Photo) -> bytes:
        split, _, row = photo.name.partition("/")
        buffer = io.BytesIO()
        Image.fromarray(self._pictures[split][int(row)]).save(buffer, "PNG")
        return buffer.getvalue()

    @property
    def _wanted(self) -> list[str]:
        there = [split for split in _STEM if (self.root / _name(split, "images")).is_file()]
        return [split for split in there if not self.splits or split in self.splits]

    @cached_property
    def _pictures(self) -> dict[str, NDArray[np.uint8]]:
        return {split: _idx(self.root / _name(split, "images"), dimensions=3) for split in self._wanted}

    def _labels(self, split: str) -> list[int]:
        labels: list[int] = _idx(self.root / _name(split, "labels"), dimensions=1).tolist()
        if len(labels) != len(self._pictures[split]):
            raise InvalidInput(
                f"{self.name}: {len(self._pictures[split])} pictures, {len(labels)} labels ({split})"
            )
        return labels

    @cached_property
    def _classes(self) -> dict[int, str]:
        path = self.root / "classes.csv"
        if not path.is_file():
            return {}
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return {int(row["label"]): row["class"] for row in csv.DictReader(stream)}

    def _class(self, label: int) -> str:
        return self._classes.get(label, str(label)).replace(">", "-")


def _idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes. Raises InvalidInput when it is something else."""
    try:
        with gzip.open(path) as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path.name} cannot be unpacked: {error}") from error
    shape = tuple(int.from_bytes(raw[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(dimensions))
    head = 4 + 4 * dimensions
    if raw[:4] != bytes([0, 0, _UNSIGNED_BYTES, dimensions]) or len(raw) != head + math.prod(shape):
        raise InvalidInput(f"{path.name} is not an IDX file of {dimensions} dimensions of bytes")
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)
