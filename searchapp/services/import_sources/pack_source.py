"""A catalogue as a data pack: labels.csv beside tar shards, with splits.

Which columns a pack has says what its items are: product_id or place_id names the item; else, when classes
have titles, the class is the item; else each photo is. `train`, `val`, `iconic` and `gallery` become items,
`test` and `query` held-out evaluation queries, `extra` and `gap` are left out unless named.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath

from ml.data.packs import CATALOGUE_SPLITS, QUERY_SPLITS, Pack, PackRecord, PackRowError
from ml.data.reserved import load_reserved
from searchapp.exceptions import InvalidInput
from searchapp.models import PATH_SEPARATOR, EvaluationQuery, Vertical
from searchapp.services.categories import path_normalised
from searchapp.services.import_sources.records import ItemRecord, Photo, QueryRecord, RowProblem

_CATEGORY_COLUMNS = ("group", "coarse_class", "class")


@dataclass
class _Group:
    """What is gathered of one item before it is complete."""

    first: PackRecord
    photos: list[Photo] = field(default_factory=list)
    tags: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class PackSource:
    pack: Pack
    splits: tuple[str, ...]
    include_reserved: bool
    has_splits: bool = True
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.pack.name

    def photo_count(self) -> int:
        return sum(len(group.photos) for group in self._read[0].values()) + len(self._read[1])

    def read(self, photo: Photo) -> bytes:
        record = PackRecord(self.name, photo.row, photo.name, photo.shard, "", None, None, (), {})
        try:
            return self.pack.read(record)
        except ValueError as error:
            raise InvalidInput(str(error)) from error

    def records(self) -> Iterator[ItemRecord | RowProblem]:
        groups, _, problems = self._read
        yield from problems
        for sku, group in groups.items():
            first = group.first
            yield ItemRecord(
                row=first.row,
                sku=sku,
                category=self._category(first),
                photos=tuple(group.photos),
                fields=self._fields(first),
                vertical=_vertical(first),
                tags=tuple(group.tags),
            )

    def queries(self) -> Iterator[QueryRecord]:
        groups, queries, _ = self._read
        for record in queries:
            sku = f"{self.name}:{self._id(record)}"
            is_item = sku in groups
            yield QueryRecord(
                source=f"{self.name}:{record.path}",
                split=record.split,
                photo=Photo(record.row, record.path, record.shard),
                category=self._category(record),
                relevance=EvaluationQuery.Relevance.ITEM if is_item else EvaluationQuery.Relevance.CATEGORY,
                vertical=_vertical(record),
                sku=sku if is_item else None,
            )

    @cached_property
    def _read(self) -> tuple[dict[str, _Group], list[PackRecord], list[RowProblem]]:
        """One pass over labels.csv; photos of one item need not follow each other in it."""
        groups: dict[str, _Group] = {}
        queries: list[PackRecord] = []
        problems: list[RowProblem] = []
        reserved = load_reserved()
        for record in self.pack.scan():
            if isinstance(record, PackRowError):
                problems.append(RowProblem(record.row, record.column, record.problem))
                continue
            is_left_out = not self.include_reserved and reserved.is_reserved(self.name, record.label)
            if is_left_out or record.split not in (self.splits or (*CATALOGUE_SPLITS, *QUERY_SPLITS)):
                continue
            if record.category is None:
                problems.append(RowProblem(record.row, "class", "it is empty, so the photo has no category"))
            elif record.split in QUERY_SPLITS:
                queries.append(record)
            else:
                sku = f"{self.name}:{self._id(record)}"
                group = groups.setdefault(sku, _Group(record))
                group.photos.append(Photo(record.row, record.path, record.shard))
                group.tags.update(dict.fromkeys(record.tags))
        return groups, [self._light(record) for record in queries], problems

    def _light(self, record: PackRecord) -> PackRecord:
        """Without the long texts, which only items need."""
        needed = {
            name: record.columns[name] for name in (*_CATEGORY_COLUMNS, "place_id") if name in record.columns
        }
        return replace(record, columns=needed)

    def _id(self, record: PackRecord) -> str:
        if self.pack.label_column != "class" or "title" in self.pack.header:
            return record.label or ""
        return PurePosixPath(record.path).stem

    def _category(self, record: PackRecord) -> str:
        if "place_id" in record.columns:
            parts = [record.columns["class"], record.columns["place_id"]]
        else:
            parts = [record.columns[name] for name in _CATEGORY_COLUMNS if record.columns.get(name)]
        return path_normalised(PATH_SEPARATOR.join(part.replace(">", "-") for part in parts))

    def _fields(self, record: PackRecord) -> dict[str, str]:
        columns = record.columns
        if "place_id" in columns:
            area, floor = columns.get("area", ""), columns["class"]
            place = (area or PurePosixPath(columns["place_id"]).name).replace("_", " ")
            where = ", ".join(part for part in (floor, columns.get("section", "")) if part)
            return {"title": f"{place.capitalize()}, {floor}", "address": where.replace("_", " ")}
        title = columns.get("title") or record.category or ""
        return {"title": title, "description": columns.get("description", "")}


def _vertical(record: PackRecord) -> str:
    return Vertical.LANDMARK if "place_id" in record.columns else Vertical.PRODUCT
