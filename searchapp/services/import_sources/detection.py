"""Finds out which form of catalogue a path holds, and says what was looked for when it is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ml.data.packs import SPLITS, find_packs, is_pack, open_pack
from searchapp.exceptions import InvalidInput
from searchapp.services.archives import archive_unpack
from searchapp.services.import_sources.csv_source import REQUIRED, csv_header, csv_open
from searchapp.services.import_sources.folder_source import FolderSource
from searchapp.services.import_sources.idx_source import IdxSource, is_idx
from searchapp.services.import_sources.pack_source import PackSource
from searchapp.services.import_sources.records import CatalogueSource

ITEM_RULES = ("photos", "folders")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """`splits` empty means the usual ones; `items` is the rule for folders: each photo, or each folder, is
    an item. `is_stock`: new categories count as known; by default those of a gallery in use wait to be learned."""

    splits: tuple[str, ...] = ()
    include_reserved: bool = False
    dry_run: bool = False
    items: str = "photos"
    is_stock: bool = False

    def __post_init__(self) -> None:
        unknown = [split for split in self.splits if split not in SPLITS]
        if unknown:
            message = f"splits: {', '.join(unknown)[:100]!r} is unknown, allowed: {', '.join(SPLITS)}"
            raise InvalidInput(message, fields={"splits": message})
        if self.items not in ITEM_RULES:
            message = f"items is {self.items[:40]!r}, allowed: {', '.join(ITEM_RULES)}"
            raise InvalidInput(message, fields={"items": message})

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> Self:
        return cls(**{**payload, "splits": tuple(payload.get("splits", ()))})


@contextmanager
def source_opened(path: Path, *, options: ImportOptions, workspace: Path) -> Iterator[CatalogueSource]:
    """The catalogue at `path`. A zip is unpacked into `workspace`, removed at the end in any case."""
    try:
        if path.is_file() and path.suffix.lower() == ".zip":
            shutil.rmtree(workspace, ignore_errors=True)  # an attempt that was killed left its half
            archive_unpack(path, workspace)
            source = source_in_folder(_innermost(workspace), options=options, name=path.stem)
        elif path.is_file() and path.suffix.lower() == ".csv":
            source = csv_open(path, name=path.stem)
        elif path.is_dir():
            source = source_in_folder(path, options=options, name=path.resolve().name)
        elif path.exists():
            raise InvalidInput(
                f"{path} is neither a folder, nor a .csv, nor a .zip.", fields={"path": "wrong kind of file"}
            )
        else:
            raise InvalidInput(f"There is nothing at {path}.", fields={"path": "nothing is there"})
        if options.splits and not source.has_splits:
            raise InvalidInput(f"{path} has no splits to choose from.", fields={"splits": "there are none"})
        yield source
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def source_in_folder(folder: Path, *, options: ImportOptions, name: str) -> CatalogueSource:
    """A data pack, IDX files, a CSV with its photos, or class folders, in this order."""
    if is_pack(folder):
        try:
            pack = open_pack(folder, name=name)
        except ValueError as error:
            raise InvalidInput(str(error)) from error
        return PackSource(pack, splits=options.splits, include_reserved=options.include_reserved)
    if is_idx(folder):
        return IdxSource(root=folder, name=name, splits=options.splits)
    tables = [table for table in sorted(folder.glob("*.csv")) if _is_catalogue(table)]
    if len(tables) == 1:
        return csv_open(tables[0], name=name)
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise InvalidInput(
            f"{folder.name} holds {len(tables)} catalogues ({names[:200]}); name the one to import."
        )
    classes = FolderSource(root=folder, name=name, splits=options.splits, items=options.items)
    if any("/" in path for path in classes.paths):
        return classes
    raise _nothing_found(folder)


def _nothing_found(folder: Path) -> InvalidInput:
    packs = ", ".join(pack.name for pack in find_packs(folder))
    hint = f" It holds data packs, to be imported one by one: {packs}." if packs else ""
    message = (
        f"No catalogue was found in {folder.name}. Looked for: a data pack (labels.csv beside .tar shards), "
        "the .gz files of MNIST, "
        f"a .csv with the columns {', '.join(REQUIRED)}, folders named after classes with photos.{hint}"
    )
    return InvalidInput(message, fields={"path": "no catalogue found"})


def _is_catalogue(table: Path) -> bool:
    try:
        header, _ = csv_header(table)
    except InvalidInput:
        return False
    return "sku" in header


def _innermost(folder: Path) -> Path:
    """Archives often wrap everything in one folder; step into it unless that folder would be a class."""
    inside = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    if len(inside) == 1 and inside[0].is_dir():
        only = inside[0]
        if is_pack(only) or any(only.glob("*.csv")) or any(path.is_dir() for path in only.iterdir()):
            return only
    return folder
