"""What every source of a catalogue yields: items with their photos, held-out queries, and rows that cannot
be used."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from django.conf import settings

from searchapp.exceptions import ImageTooLarge, InvalidInput
from searchapp.models import EvaluationQuery


@dataclass(frozen=True, slots=True)
class Photo:
    """`name` is the path inside the source; `shard` the file it lies in, where that is not its own."""

    row: int
    name: str
    shard: str = ""


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """One item, complete. `fields` holds raw text; a column that the source does not have is not in it."""

    row: int
    sku: str
    category: str
    photos: tuple[Photo, ...]
    fields: Mapping[str, str] = field(default_factory=dict)
    vertical: str | None = None
    tags: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class QueryRecord:
    """A held-out photo. `sku` is the item it shows, None when no item of the catalogue does."""

    source: str
    split: str
    photo: Photo
    category: str
    relevance: EvaluationQuery.Relevance
    vertical: str | None = None
    sku: str | None = None


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A row that cannot be used; the others can."""

    row: int
    field: str
    message: str


class CatalogueSource(Protocol):
    """Reads the same records in the same order each time; that is what lets an import go on after a kill."""

    @property
    def name(self) -> str: ...
    @property
    def has_splits(self) -> bool:
        """True when the source itself says which photos are held out."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report should tell besides counts, such as columns that were ignored."""
        ...

    def photo_count(self) -> int: ...
    def records(self) -> Iterator[ItemRecord | RowProblem]: ...
    def queries(self) -> Iterator[QueryRecord]: ...
    def read(self, photo: Photo) -> bytes:
        """The bytes of a photo. Raises InvalidInput when it is not there, ImageTooLarge before reading."""
        ...


@dataclass(frozen=True, slots=True)
class PhotoFolder:
    """Photos named by relative paths, never outside `root`, not even through a link."""

    root: str
    _inside: dict[str, bool] = field(default_factory=dict, compare=False)

    @classmethod
    def at(cls, root: Path) -> Self:
        return cls(os.path.realpath(root))

    def read(self, name: str) -> bytes:
        """Raises InvalidInput, or ImageTooLarge before anything is read."""
        parts = name.split("/")
        if "" in parts or ".." in parts or "\\" in name or "\x00" in name or ":" in parts[0]:
            raise InvalidInput(f"{name[:120]!r} is not a relative path with / between its parts")
        folder = "/".join((self.root, *parts[:-1]))
        if folder not in self._inside:
            real = os.path.realpath(folder)
            self._inside[folder] = real == self.root or real.startswith(self.root + "/")
        target = f"{folder}/{parts[-1]}"
        try:
            found = os.lstat(target) if self._inside[folder] else None
            if found is None or not stat.S_ISREG(found.st_mode):
                raise _not_beside(name)
            if found.st_size > settings.IMAGE_MAX_BYTES:
                limit = settings.IMAGE_MAX_BYTES >> 20
                raise ImageTooLarge(f"{name[:120]!r} has {found.st_size / 2**20:.1f} MB, allowed: {limit} MB")
            with open(target, "rb") as stream:  # noqa: PTH123
                return stream.read()
        except FileNotFoundError:
            raise _not_beside(name) from None
        except OSError as error:
            raise InvalidInput(f"{name[:120]!r} cannot be read: {error.strerror}") from error


def _not_beside(name: str) -> InvalidInput:
    return InvalidInput(f"{name[:120]!r} is not a file beside the catalogue")
