"""A catalogue as a folder of class folders.

The folders above a photo are its category: Fruit/Apple/a.jpg lies in "Fruit > Apple". Each photo is an item
whose SKU is its path without the extension (Fruit/Apple/a; a.jpg and a.png are two photos of one item), or,
with items="folders", each folder that holds photos is an item whose SKU is the folder's path and whose
category is what lies above it. When all the outermost folders are named after splits (train, val, test,
...), they are splits, not classes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ml.data.packs import CATALOGUE_SPLITS, QUERY_SPLITS, SPLITS
from searchapp.models import PATH_SEPARATOR, EvaluationQuery
from searchapp.services.categories import path_normalised
from searchapp.services.import_sources.records import ItemRecord, Photo, PhotoFolder, QueryRecord, RowProblem

# Other types are named so that a photo in the wrong format is reported instead of passed over in silence.
PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".mpo"}
    | {".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".svg", ".psd", ".jp2"}
)


@dataclass(frozen=True)
class FolderSource:
    root: Path
    name: str
    splits: tuple[str, ...]
    items: str = "photos"
    notes: tuple[str, ...] = ()

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Every photo beneath the root, sorted; hidden files and links are passed over."""
        found: list[str] = []
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            above = os.path.relpath(folder, self.root)
            prefix = "" if above == "." else f"{above}/"
            found += [
                f"{prefix}{name}"
                for name in files
                if not name.startswith(".") and os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES  # noqa: PTH122
            ]
        return tuple(sorted(found))

    @cached_property
    def has_splits(self) -> bool:
        outermost = {_first(path) for path in self.paths}
        return bool(outermost) and outermost <= set(SPLITS)

    def photo_count(self) -> int:
        wanted = {*CATALOGUE_SPLITS, *QUERY_SPLITS} if not self.splits else set(self.splits)
        return sum(not self.has_splits or _first(path) in wanted for path in self.paths)

    def read(self, photo: Photo) -> bytes:
        return self._folder.read(photo.name)

    @cached_property
    def _folder(self) -> PhotoFolder:
        return PhotoFolder.at(self.root)

    def records(self) -> Iterator[ItemRecord | RowProblem]:
        groups: dict[str, list[Photo]] = {}
        catalogue = self._catalogue_splits()
        for row, path in enumerate(self.paths, start=1):
            if self.has_splits and _first(path) not in catalogue:
                continue
            if "/" not in self._inner(path):
                yield RowProblem(row, "category", f"{path!r} lies in no class folder")
                continue
            groups.setdefault(self._sku(path), []).append(Photo(row, path))
        for sku, photos in groups.items():
            inner = self._inner(photos[0].name)
            yield ItemRecord(
                row=photos[0].row,
                sku=sku,
                category=self._category(inner),
                photos=tuple(photos),
                fields={"title": inner.split("/")[-2].replace("_", " ").replace("-", " ")},
            )

    def queries(self) -> Iterator[QueryRecord]:
        wanted = [split for split in QUERY_SPLITS if not self.splits or split in self.splits]
        for row, path in enumerate(self.paths, start=1):
            inner = self._inner(path)
            if not self.has_splits or _first(path) not in wanted or "/" not in inner:
                continue
            is_item = self.items == "folders"
            yield QueryRecord(
                source=f"{self.name}:{path}",
                split=_first(path),
                photo=Photo(row, path),
                category=self._category(inner),
                relevance=EvaluationQuery.Relevance.ITEM if is_item else EvaluationQuery.Relevance.CATEGORY,
                sku=self._sku(path) if is_item else None,
            )

    def _catalogue_splits(self) -> set[str]:
        named = self.splits or CATALOGUE_SPLITS
        return {split for split in named if split not in QUERY_SPLITS}

    def _inner(self, path: str) -> str:
        return path.partition("/")[2] if self.has_splits else path

    def _sku(self, path: str) -> str:
        inner = self._inner(path)
        return inner.rpartition("/")[0] if self.items == "folders" else os.path.splitext(inner)[0]  # noqa: PTH122

    def _category(self, inner: str) -> str:
        folders = inner.split("/")[:-1]
        is_item = self.items == "folders" and len(folders) > 1
        return path_normalised(PATH_SEPARATOR.join(folders[:-1] if is_item else folders))


def _first(path: str) -> str:
    return path.partition("/")[0]
