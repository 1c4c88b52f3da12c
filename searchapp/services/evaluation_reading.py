"""Labelled photos as an operator sends them: a CSV beside its photos, or folders named after what their photos show.

CSV columns: `image`, and `sku` (the very item) or `category` (a slug or a path such as Fruit > Apple). Folders: the
path is a SKU, a category's slug, or a category's path with / between its names.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from searchapp.exceptions import InvalidInput
from searchapp.models import PATH_SEPARATOR, Category, Item
from searchapp.services.categories import path_normalised
from searchapp.services.import_sources.csv_source import csv_header
from searchapp.services.import_sources.folder_source import FolderSource
from searchapp.services.import_sources.records import Photo, RowProblem

COLUMNS = ("image", "sku", "category")
_ASKED = 500  # labels looked up at once


@dataclass(frozen=True, slots=True)
class Labelled:
    """A photo and what it shows, in the words of who sent it."""

    photo: Photo
    sku: str = ""
    category: str = ""
    either: str = ""  # a folder's path: an item's SKU or a category


@dataclass(frozen=True, slots=True)
class Label:
    """What a photo shows: this very item, or anything of this category."""

    category: Category
    item: Item | None = None


def labelled_read(folder: Path) -> list[Labelled | RowProblem]:
    """Every photo that the folder names, in its order. Raises InvalidInput when there is nothing to read."""
    root = _innermost(folder)
    tables = [table for table in sorted(root.glob("*.csv")) if "image" in csv_header(table)[0]]
    if len(tables) > 1:
        raise _unusable(f"{len(tables)} CSV files have a column image; one is allowed")
    found = list(_of_table(tables[0])) if tables else list(_of_folders(folder))
    if not found:
        raise _unusable(
            "it holds neither a CSV with the column image nor photos in folders named after a SKU or a category"
        )
    return found


def photo_root(folder: Path) -> Path:
    """The folder that the photos' names are relative to."""
    root = _innermost(folder)
    return root if any(root.glob("*.csv")) else folder


def labels_found(labelled: list[Labelled]) -> dict[Labelled, Label | RowProblem]:
    """For each photo its item or category of this catalogue, or why there is none."""
    skus = sorted({name for one in labelled for name in (one.sku, one.either) if name and "\x00" not in name})
    items: dict[str, Item] = {}
    for start in range(0, len(skus), _ASKED):
        rows = Item.objects.filter(sku__in=skus[start : start + _ASKED]).select_related("category")
        items |= {item.sku: item for item in rows}
    filled = Category.objects.filter(items__isnull=False).distinct()
    categories = {name: category for category in filled for name in (category.slug, category.path)}
    return {one: _label(one, items, categories) for one in labelled}


def _label(one: Labelled, items: dict[str, Item], categories: dict[str, Category]) -> Label | RowProblem:
    row = one.photo.row
    item = items.get(one.sku or one.either)
    if item is not None:
        return Label(item.category, item)
    if one.sku:
        return RowProblem(row, "sku", f"there is no item {one.sku[:120]!r}")
    named = one.category or one.either
    path = path_normalised(named if one.category else named.replace("/", PATH_SEPARATOR))
    category = categories.get(named) or categories.get(path)
    if category is not None:
        return Label(category)
    if one.category:
        return RowProblem(row, "category", f"no category with items has the slug or path {named[:120]!r}")
    return RowProblem(row, "folder", f"{named[:120]!r} is neither a SKU nor a category with items")


def _of_table(table: Path) -> Iterator[Labelled | RowProblem]:
    """Rows are numbered as a spreadsheet shows them: the header is row 1."""
    header, delimiter = csv_header(table)
    if not {"sku", "category"} & set(header):
        raise _unusable(f"{table.name} has no column sku or category; it has {', '.join(header)[:200]}")
    with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        next(reader)
        row = 1
        while True:
            row += 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield RowProblem(row, "*", f"not readable as CSV: {error}")
                continue
            if any(cell.strip() for cell in cells):
                yield _of_cells(row, header, cells)


def _of_cells(row: int, header: tuple[str, ...], cells: list[str]) -> Labelled | RowProblem:
    if len(cells) != len(header):
        return RowProblem(row, "*", f"{len(cells)} cells, expected {len(header)}")
    columns = {name: cell.strip() for name, cell in zip(header, cells)}
    image, sku, category = (columns.get(name, "") for name in COLUMNS)
    for name, cell in zip(COLUMNS, (image, sku, category)):
        if not cell.isprintable():
            return RowProblem(row, name, "it is not plain text in UTF-8")
    if not image:
        return RowProblem(row, "image", "it is required and empty")
    if not sku and not category:
        return RowProblem(row, "sku", "the row has neither a sku nor a category")
    return Labelled(Photo(row, image), sku=sku, category="" if sku else category)


def _of_folders(root: Path) -> Iterator[Labelled | RowProblem]:
    for row, path in enumerate(FolderSource(root=root, name="", splits=()).paths, start=1):
        above, _, name = path.rpartition("/")
        if not above:
            yield RowProblem(row, "folder", f"{name[:120]!r} lies in no folder that says what it shows")
        else:
            yield Labelled(Photo(row, path), either=above)


def _innermost(folder: Path) -> Path:
    """Archives often wrap a CSV and its photos in one folder."""
    inside = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() and any(inside[0].glob("*.csv")) else folder


def _unusable(problem: str) -> InvalidInput:
    return InvalidInput(f"The evaluation photos cannot be read: {problem}.", fields={"file": f"{problem}."})
