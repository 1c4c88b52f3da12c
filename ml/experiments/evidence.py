"""What the claims of an experiment are counted from: its rows and their per-query values."""

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.experiments.ledger import RunRecord

Values = NDArray[np.float64]
DECIMALS = 5  # of per-query values: finer than any metric over thousands of queries, and small on disk


class Column(NamedTuple):
    """Whose per-query values, of which seed, in which metric."""

    name: str
    seed: int
    metric: str


@dataclass(frozen=True, slots=True)
class QueryTable:
    """One setting's queries: items (Q,) as names, and each column's values (Q,), NaN where there is none."""

    items: NDArray[Any]
    columns: Mapping[Column, Values]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rows (`name`, `seed`, `setting` and values; as in the result file) and the settings' query tables."""

    rows: Sequence[Mapping[str, Any]]
    tables: Mapping[str, QueryTable]

    def values(self, *, setting: str, name: str, metric: str) -> dict[int, float]:
        """seed -> the row's value; seeds whose row lacks the metric are left out."""
        return {
            row["seed"]: float(row[metric])
            for row in self.rows
            if row["setting"] == setting and row["name"] == name and row.get(metric) is not None
        }

    def mean(self, setting: str, name: str, metric: str) -> float | None:
        """The row value's mean over seeds; None without any."""
        found = list(self.values(setting=setting, name=name, metric=metric).values())
        return float(np.mean(found)) if found else None

    def queries(self, *, setting: str, name: str, metric: str) -> dict[int, Values]:
        """seed -> per-query values (Q,); empty when the metric has none."""
        table = self.tables.get(setting)
        columns = {} if table is None else table.columns
        return {
            column.seed: values
            for column, values in columns.items()
            if (column.name, column.metric) == (name, metric)
        }


def evidence_of(records: Sequence[RunRecord]) -> Evidence:
    """The evidence in finished runs, rounded as the per-query file holds it.

    Raises ValueError when a run stands twice, or runs of one setting differ in their queries' items.
    """
    runs = [(record.setting, record.name, record.seed) for record in records]
    if len(set(runs)) < len(runs):
        twice = sorted({run for run in runs if runs.count(run) > 1})
        raise ValueError(f"runs (setting, name, seed) stand twice: {twice}")
    return Evidence([_row(record) for record in records], _tables(records))


def _row(record: RunRecord) -> dict[str, Any]:
    """A value that is not a number is null: JSON knows no NaN."""
    values = {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in record.values.items()
    }
    return {"name": record.name, "seed": record.seed, "setting": record.setting, **values}


def _tables(records: Sequence[RunRecord]) -> dict[str, QueryTable]:
    items: dict[str, NDArray[Any]] = {}
    columns: dict[str, dict[Column, Values]] = {}
    for record in records:
        if not record.per_query:
            continue
        count = len(next(iter(record.per_query.values())))
        own = (np.arange(count) if record.items is None else record.items).astype(str)
        if not np.array_equal(items.setdefault(record.setting, own), own):
            raise ValueError(
                f"run {record.name}, seed {record.seed}: its queries are not those of the other runs"
                f" of setting {record.setting!r}"
            )
        for metric, values in record.per_query.items():
            rounded = np.asarray(np.round(values, DECIMALS), dtype=np.float64)
            columns.setdefault(record.setting, {})[Column(record.name, record.seed, metric)] = rounded
    return {setting: QueryTable(items[setting], columns[setting]) for setting in columns}


def write_queries(evidence: Evidence, path: Path, series: set[tuple[str, str, str]] | None = None) -> None:
    """The per-query file: gzipped CSV, one line per setting and query, one column `<name>/<seed>/<metric>`
    per series, blank where it has no value. `series` keeps only these (setting, name, metric). The same
    evidence gives the same bytes.
    """
    kept = {
        setting: {
            column: values
            for column, values in table.columns.items()
            if series is None or (setting, column.name, column.metric) in series
        }
        for setting, table in evidence.tables.items()
    }
    heads = list(dict.fromkeys(column for columns in kept.values() for column in columns))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setting", "query", "item", *("/".join(map(str, column)) for column in heads)])
    for setting, columns in kept.items():
        if not columns:
            continue
        items = evidence.tables[setting].items
        blank = [""] * len(items)
        texts = [_as_text(columns[column]) if column in columns else blank for column in heads]
        for query, cells in enumerate(zip(*texts)):
            writer.writerow([setting, query, items[query], *cells])
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as stream:
        stream.write(text.getvalue().encode())


def _as_text(values: Values) -> list[str]:
    """The shortest text that reads back as the same number: `1`, not `1.0`; blank for NaN."""
    return ["" if np.isnan(value) else np.format_float_positional(value, trim="-") for value in values]


def read_queries(path: Path) -> dict[str, QueryTable]:
    """The tables of a per-query file. Raises ValueError naming what is wrong with its columns."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        head = next(reader, [])
        if head[:3] != ["setting", "query", "item"]:
            raise ValueError(f"{path}: columns begin {head[:3]}, expected setting, query, item")
        lines: dict[str, list[list[str]]] = {}
        for line in reader:
            lines.setdefault(line[0], []).append(line)
    return {setting: _table(head, own) for setting, own in lines.items()}


def _table(head: list[str], lines: list[list[str]]) -> QueryTable:
    cells = np.array(lines)
    columns = {}
    for title, texts in zip(head[3:], cells.T[3:]):
        if not (texts == "").all():
            name, seed, metric = title.rsplit("/", 2)
            columns[Column(name, int(seed), metric)] = np.where(texts == "", "nan", texts).astype(np.float64)
    return QueryTable(cells[:, 2], columns)
