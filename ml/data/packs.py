"""Reads a data pack: a folder with `labels.csv` and uncompressed tar shards, never unpacked to disk."""

import csv
import hashlib
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TextIO

LABELS_FILE = "labels.csv"
REQUIRED_COLUMNS = ("path", "shard", "split", "class")
SPLITS = ("train", "val", "test", "iconic", "gallery", "query", "gap", "extra")
CATALOGUE_SPLITS = ("train", "val", "iconic", "gallery")
QUERY_SPLITS = ("test", "query")
MAX_MEMBER_BYTES = 32 * 1024 * 1024
# The first of these columns that a pack has says what two photos of one thing share.
LABEL_COLUMNS = ("product_id", "place_id", "class")


@dataclass(frozen=True, slots=True)
class PackRecord:
    """One image of a pack. `label` is what makes two images relevant to each other; None when it has none."""

    pack: str
    row: int  # line of the record in labels.csv counting from 1; the header is row 1
    path: str
    shard: str
    split: str
    category: str | None  # the `class` column
    label: str | None
    tags: tuple[str, ...]
    columns: Mapping[str, str]


class PackRowError(ValueError):
    """One row of labels.csv that cannot be used; the others still can."""

    def __init__(self, pack: str, row: int, column: str, problem: str) -> None:
        super().__init__(f"{pack}/{LABELS_FILE} row {row}, field {column!r}: {problem}")
        self.row, self.column, self.problem = row, column, problem


def is_pack(folder: Path) -> bool:
    """True when `folder` itself holds a labels.csv and at least one tar shard."""
    return (folder / LABELS_FILE).is_file() and any(folder.glob("*.tar"))


def find_packs(folder: Path) -> list[Path]:
    """The pack folders at or directly under `folder`, sorted by name; empty when there is none."""
    if is_pack(folder):
        return [folder]
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if child.is_dir() and is_pack(child))


def open_pack(folder: Path, *, name: str | None = None) -> "Pack":
    """Open the pack at `folder`, or the only one directly inside it. Reads the header and nothing else.

    Raises ValueError when there is no pack, more than one, or a required column is missing.
    """
    found = find_packs(folder)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(
            f"{folder} holds {len(found)} data packs ({names}), expected one: {LABELS_FILE} and .tar shards"
        )
    root = found[0].resolve()
    return Pack(name=name or root.name, root=root, header=_header(root))


@dataclass(frozen=True, slots=True)
class Pack:
    """An open pack. Rows are read when iterated, image bytes when asked for. Threads may share it."""

    name: str
    root: Path
    header: tuple[str, ...]
    _shards: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def label_column(self) -> str:
        """`product_id` for a shop catalogue, `place_id` for places, else `class`."""
        return next(column for column in LABEL_COLUMNS if column in self.header)

    def scan(self) -> Iterator[PackRecord | PackRowError]:
        """Every row in file order, a broken one as a PackRowError value, so one bad row stops nothing."""
        seen: set[str] = set()
        with _opened(self.root) as stream:
            reader = csv.reader(stream, strict=True)
            next(reader)
            row = 1
            while True:
                row += 1
                try:
                    cells = next(reader)
                    yield self._record(row, cells, seen)
                except StopIteration:
                    return
                except PackRowError as error:
                    yield error
                except csv.Error as error:
                    yield PackRowError(self.name, row, "*", f"not readable as CSV: {error}")

    def records(self, *splits: str) -> Iterator[PackRecord]:
        """The rows of the named splits (none named: all). Raises PackRowError at the first broken row."""
        for split in splits:
            if split not in SPLITS:
                raise ValueError(f"split is {split!r}, allowed: {', '.join(SPLITS)}")
        for record in self.scan():
            if isinstance(record, PackRowError):
                raise record
            if not splits or record.split in splits:
                yield record

    def read(self, record: PackRecord) -> bytes:
        """The encoded image of one record. Raises ValueError naming shard and path when it is not there."""
        if record.shard not in self._shards:
            self._shards[record.shard] = _members(self.root, record.shard)
        members = self._shards[record.shard]
        if record.path not in members:
            raise PackRowError(
                self.name, record.row, "path", f"{record.path!r} is not in shard {record.shard}"
            )
        offset, size = members[record.path]
        if size > MAX_MEMBER_BYTES:
            raise PackRowError(
                self.name, record.row, "path", f"{record.path!r} has {size} bytes, allowed {MAX_MEMBER_BYTES}"
            )
        with (self.root / record.shard).open("rb", buffering=0) as stream:
            data = os.pread(stream.fileno(), size, offset)
        if len(data) != size:
            raise ValueError(
                f"{self.name}/{record.shard} is cut short at {record.path!r}: {len(data)} of {size} bytes"
            )
        return data

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the sorted lines `<name> <sha256>` of labels.csv and every shard."""
        lines = []
        for path in sorted([self.root / LABELS_FILE, *self.root.glob("*.tar")], key=lambda p: p.name):
            with path.open("rb") as stream:
                lines.append(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _record(self, row: int, cells: list[str], seen: set[str]) -> PackRecord:
        if len(cells) != len(self.header):
            raise PackRowError(self.name, row, "*", f"{len(cells)} fields, expected {len(self.header)}")
        columns = dict(zip(self.header, cells, strict=True))
        for column, cell in columns.items():
            if not _is_utf8(cell):
                raise PackRowError(self.name, row, column, f"{cell!a} is not UTF-8")
        path, shard, split = columns["path"], columns["shard"], columns["split"]
        if (
            not path
            or PurePosixPath(path).is_absolute()
            or ".." in PurePosixPath(path).parts
            or "\x00" in path
        ):
            raise PackRowError(self.name, row, "path", f"{path!r} is not a relative path inside the pack")
        if path in seen:
            raise PackRowError(self.name, row, "path", f"{path!r} is listed twice")
        if (
            not shard.endswith(".tar")
            or PurePosixPath(shard).name != shard
            or "\\" in shard
            or "\x00" in shard
        ):
            raise PackRowError(
                self.name, row, "shard", f"{shard!r} is not the name of a .tar file beside {LABELS_FILE}"
            )
        if split not in SPLITS:
            raise PackRowError(self.name, row, "split", f"{split!r}, allowed: {', '.join(SPLITS)}")
        seen.add(path)
        tags = tuple(tag.strip() for tag in columns.get("tags", "").split("|") if tag.strip())
        return PackRecord(
            pack=self.name, row=row, path=path, shard=shard, split=split, tags=tags, columns=columns,
            category=columns["class"] or None, label=columns[self.label_column] or None,
        )  # fmt: skip


def _opened(root: Path) -> TextIO:
    """labels.csv as text; bytes that are not UTF-8 become lone surrogates, to be refused row by row."""
    return (root / LABELS_FILE).open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _is_utf8(cell: str) -> bool:
    return cell.isascii() or not any("\udc80" <= character <= "\udcff" for character in cell)


def _header(root: Path) -> tuple[str, ...]:
    source = root / LABELS_FILE
    try:
        with _opened(root) as stream:
            header = tuple(next(csv.reader(stream, strict=True), ()))
    except csv.Error as error:
        raise ValueError(f"{source}: the header cannot be read as CSV: {error}") from error
    missing = [column for column in REQUIRED_COLUMNS if column not in header]
    if missing:
        raise ValueError(
            f"{source} row 1: column {', '.join(missing)} is missing; got {', '.join(header) or 'nothing'}"
        )
    if len(set(header)) != len(header):
        raise ValueError(f"{source} row 1: a column is named twice: {', '.join(header)}")
    return header


def _members(root: Path, shard: str) -> dict[str, tuple[int, int]]:
    """Member path -> (offset, size) of every regular file in an uncompressed shard; links are left out."""
    source = root / shard
    if not source.is_file() or source.resolve().parent != root:
        raise ValueError(f"{source} is not a file of this pack")
    try:
        with tarfile.open(source, mode="r:") as archive:
            return {member.name: (member.offset_data, member.size) for member in archive if member.isreg()}
    except tarfile.TarError as error:
        raise ValueError(f"{source} is not an uncompressed tar archive: {error}") from error
