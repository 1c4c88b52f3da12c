"""A catalogue as a CSV file with its photos beside it, in the columns of the product's contract."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from searchapp.exceptions import InvalidInput
from searchapp.services.categories import path_normalised
from searchapp.services.import_sources.records import ItemRecord, Photo, PhotoFolder, QueryRecord, RowProblem

REQUIRED = ("sku", "category", "images")
OPTIONAL = (
    "title",
    "description",
    "tags",
    "price",
    "currency",
    "url",
    "vertical",
    "latitude",
    "longitude",
    "address",
)
_FIELDS = ("title", "description", "price", "currency", "url", "latitude", "longitude", "address")
_MAX_COLUMNS = 200
_MAX_PHOTOS = 100


@dataclass(frozen=True, slots=True)
class CsvSource:
    path: Path
    name: str
    header: tuple[str, ...]
    delimiter: str
    photos: PhotoFolder
    has_splits: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        ignored = [column for column in self.header if column not in {*REQUIRED, *OPTIONAL}]
        return (f"Columns that were ignored: {', '.join(ignored)[:300]}",) if ignored else ()

    def photo_count(self) -> int:
        return sum(max(1, len(row.photos)) for row in self.records() if isinstance(row, ItemRecord))

    def queries(self) -> Iterator[QueryRecord]:
        return iter(())

    def read(self, photo: Photo) -> bytes:
        return self.photos.read(photo.name)

    def records(self) -> Iterator[ItemRecord | RowProblem]:
        first_row: dict[str, int] = {}
        for row, cells in self._rows():
            record = cells if isinstance(cells, RowProblem) else self._record(row, cells)
            if isinstance(record, ItemRecord):
                first = first_row.setdefault(record.sku, row)
                if first != row:
                    yield RowProblem(row, "sku", f"{record.sku[:120]!r} is in row {first} already")
                    continue
            yield record

    def _rows(self) -> Iterator[tuple[int, list[str] | RowProblem]]:
        """Data rows numbered as a spreadsheet shows them: the header is row 1."""
        with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            reader = csv.reader(stream, delimiter=self.delimiter, strict=True)
            next(reader)
            row = 1
            while True:
                row += 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield row, RowProblem(row, "*", f"not readable as CSV: {error}")
                    continue
                if any(cell.strip() for cell in cells):
                    yield row, cells

    def _record(self, row: int, cells: list[str]) -> ItemRecord | RowProblem:
        if len(cells) != len(self.header):
            return RowProblem(row, "*", f"{len(cells)} cells, expected {len(self.header)}")
        columns = dict(zip(self.header, (cell.strip() for cell in cells)))
        for column in (*REQUIRED, *OPTIONAL):
            if not columns.get(column, "").isprintable() and _is_not_utf8(columns[column]):
                return RowProblem(row, column, "it is not UTF-8; save the file as UTF-8")
        for column in ("sku", "category"):
            if not columns[column]:
                return RowProblem(row, column, "it is required and empty")
        names = list(dict.fromkeys(name.strip() for name in columns["images"].split("|") if name.strip()))
        if len(names) > _MAX_PHOTOS:
            return RowProblem(row, "images", f"{len(names)} photos, allowed: {_MAX_PHOTOS}")
        return ItemRecord(
            row=row,
            sku=columns["sku"],
            category=path_normalised(columns["category"]),
            photos=tuple(Photo(row, name) for name in names),
            fields={name: columns[name] for name in _FIELDS if name in columns},
            vertical=columns.get("vertical") or None,
            tags=tuple(columns["tags"].split("|")) if "tags" in columns else None,
        )


def csv_open(path: Path, *, name: str) -> CsvSource:
    """Read the header. Raises InvalidInput when it cannot be used, naming what is missing."""
    header, delimiter = csv_header(path)
    missing = [column for column in REQUIRED if column not in header]
    doubled = sorted({column for column in header if column and header.count(column) > 1})
    if missing:
        raise _unusable(
            path, f"the column {', '.join(missing)} is missing; it has {', '.join(header)[:300] or 'none'}"
        )
    if doubled:
        raise _unusable(path, f"the column {', '.join(doubled)[:300]} is there twice")
    return CsvSource(
        path=path, name=name, header=header, delimiter=delimiter, photos=PhotoFolder.at(path.parent)
    )


def csv_header(path: Path) -> tuple[tuple[str, ...], str]:
    """Column names, trimmed and lower-cased, and the delimiter: a comma, or a semicolon as some
    spreadsheets write."""
    with path.open("rb") as stream:
        line = stream.readline(1_000_000)
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in line:
        raise _unusable(path, "it is UTF-16 or not text; save it as CSV in UTF-8")
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unusable(
            path, f"its header is not UTF-8 at byte {error.start}; save it as CSV in UTF-8"
        ) from None
    delimiter = ";" if text.count(";") > text.count(",") else ","
    try:
        header = tuple(
            cell.strip().lower() for cell in next(csv.reader([text], delimiter=delimiter, strict=True), [])
        )
    except csv.Error as error:
        raise _unusable(path, f"its header is not readable as CSV: {error}") from None
    if len(header) > _MAX_COLUMNS:
        raise _unusable(path, f"it has {len(header):,} columns, allowed: {_MAX_COLUMNS}")
    return header, delimiter


def _is_not_utf8(cell: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in cell)


def _unusable(path: Path, problem: str) -> InvalidInput:
    return InvalidInput(f"{path.name} cannot be imported: {problem}.", fields={"file": problem})
