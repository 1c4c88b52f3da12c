"""A catalogue as a folder of class folders.

The folders above a photo are its category: Fruit/Apple/a.jpg lies in "Fruit > Apple". Each photo is an item
whose SKU is its path without the extension (Fruit/Apple/a; a.jpg and a.png are two photos of one item), or,
with items="folders", each folder that holds photos is an item whose SKU is the folder's path and whose
category is what lies above it. When all the outermost folders are named after splits (train, val, test,
...), they are splits, not classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from ml.data.packs import CATALOGUE_SPLITS, QUERY_SPLITS, SPLITS
from searchapp.models import PATH_SEPARATOR, EvaluationQuery
from searchapp.services.categories import path_normalised
from searchapp.services.import_sources.records import ItemRecord, Photo, QueryRecord, RowProblem, read_beside

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
    def paths(self) -> tuple[PurePosixPath, ...]:
        """Every photo beneath the root, sorted; hidden files and links are passed over."""
        found = (
            PurePosixPath(path.relative_to(self.root).as_posix())
            for path in self.root.rglob("*")
            if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file() and not path.is_symlink()
        )
        return tuple(sorted(path for path in found if not any(part.startswith(".") for part in path.parts)))

    @cached_property
    def has_splits(self) -> bool:
        outermost = {path.parts[0] for path in self.paths}
        return bool(outermost) and outermost <= set(SPLITS)

    def photo_count(self) -> int:
        wanted = {*CATALOGUE_SPLITS, *QUERY_SPLITS} if not self.splits else set(self.splits)
        return sum(not self.has_splits or path.parts[0] in wanted for path in self.paths)

    def read(self, photo: Photo) -> bytes:
        return read_beside(self.root, photo.name)

    def records(self) -> Iterator[ItemRecord | RowProblem]:
        groups: dict[str, list[Photo]] = {}
        for row, path in enumerate(self.paths, start=1):
            if self.has_splits and path.parts[0] not in self._catalogue_splits():
                continue
            if len(self._inner(path).parts) < 2:
                yield RowProblem(row, "category", f"{path.name!r} lies in no class folder")
                continue
            groups.setdefault(self._sku(path), []).append(Photo(row, str(path)))
        for sku, photos in groups.items():
            inner = self._inner(PurePosixPath(photos[0].name))
            yield ItemRecord(
                row=photos[0].row,
                sku=sku,
                category=self._category(inner),
                photos=tuple(photos),
                fields={"title": inner.parent.name.replace("_", " ").replace("-", " ")},
            )

    def queries(self) -> Iterator[QueryRecord]:
        wanted = [split for split in QUERY_SPLITS if not self.splits or split in self.splits]
        for row, path in enumerate(self.paths, start=1):
            inner = self._inner(path)
            if not self.has_splits or path.parts[0] not in wanted or len(inner.parts) < 2:
                continue
            is_item = self.items == "folders"
            yield QueryRecord(
                source=f"{self.name}:{path}",
                split=path.parts[0],
                photo=Photo(row, str(path)),
                category=self._category(inner),
                relevance=EvaluationQuery.Relevance.ITEM if is_item else EvaluationQuery.Relevance.CATEGORY,
                sku=self._sku(path) if is_item else None,
            )

    def _catalogue_splits(self) -> set[str]:
        named = self.splits or CATALOGUE_SPLITS
        return {split for split in named if split not in QUERY_SPLITS}

    def _inner(self, path: PurePosixPath) -> PurePosixPath:
        return PurePosixPath(*path.parts[1:]) if self.has_splits else path

    def _sku(self, path: PurePosixPath) -> str:
        inner = self._inner(path)
        return str(inner.parent if self.items == "folders" else inner.with_suffix(""))

    def _category(self, inner: PurePosixPath) -> str:
        folders = inner.parent.parts
        is_item = self.items == "folders" and len(folders) > 1
        return path_normalised(PATH_SEPARATOR.join(folders[:-1] if is_item else folders))
