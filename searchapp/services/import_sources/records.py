"""What every source of a catalogue yields: items with their photos, held-out queries, and rows that cannot
be used."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

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


def read_beside(root: Path, name: str) -> bytes:
    """A photo named by a relative path, never outside `root`, not even through a link."""
    parts = PurePosixPath(name).parts
    if (
        not parts
        or name.startswith("/")
        or ".." in parts
        or "\\" in name
        or "\x00" in name
        or ":" in parts[0]
    ):
        raise InvalidInput(f"{name[:120]!r} is not a relative path with / between its parts")
    target = root.joinpath(*parts)
    try:
        is_inside = target.resolve().is_relative_to(root.resolve())
        if not is_inside or not target.is_file():
            raise InvalidInput(f"{name[:120]!r} is not a file beside the catalogue")
        size = target.stat().st_size
        if size > settings.IMAGE_MAX_BYTES:
            raise ImageTooLarge(
                f"{name[:120]!r} has {size / 2**20:.1f} MB, allowed: {settings.IMAGE_MAX_BYTES >> 20} MB"
            )
        return target.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{name[:120]!r} cannot be read: {error.strerror}") from error
