"""The compatibility matrix as a table: a row for each version that asks, a column for each way the gallery stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchapp.views.verdict_cards import Report, change_words, serving_cell
from searchapp.views.verdict_words import counted, estimate_of, percent, percent_between, points_between

METRICS = {
    "map": "Mean average precision",
    "recall_at_1": "Right at first place",
    "recall_at_10": "Right among the first ten",
    "mrr": "Mean reciprocal rank",
}
COLUMNS = {
    "stored": ("As stored", "Every entry as it lies in the gallery now."),
    "corrected": (
        "Corrected",
        "The same entries, seen through the corrector of each version that made them.",
    ),
    "backfilled": (
        "Encoded anew",
        "Every photo encoded by the newer version: what a full backfill would give.",
    ),
    "added_by_candidate": (
        "Added after the promotion",
        "Each item in turn is encoded by the newer version, all others are as stored.",
    ),
}
NOW, SERVING, WAY_BACK = "answers now", "answers if put in use", "going back"
GATE_OF = {"map_loss": "serving", "rollback_loss": "rollback"}


@dataclass(frozen=True, slots=True)
class Cell:
    value: str
    interval: str
    change: str
    change_interval: str
    sign: str
    tone: str
    mark: str  # why this cell matters, in words; "" for the others
    is_blocking: bool
    is_now: bool  # what answers now
    is_serving: bool  # what would answer if the version were put in use
    is_way_back: bool  # how the older version would find what the newer one stored
    photos: str
    others: tuple[tuple[str, str, str], ...]  # the other measures: name, value, interval


@dataclass(frozen=True, slots=True)
class Column:
    state: str
    title: str
    words: str


@dataclass(frozen=True, slots=True)
class Row:
    version: str
    words: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    metric: str
    metric_name: str
    against: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def matrix_of(report: Report, metric: str = "map") -> Matrix:
    """With `metric` large in each cell; an unknown one counts as mean average precision."""
    chosen = metric if metric in METRICS else "map"
    cells = {(cell["query_version"], cell["gallery_state"]): cell for cell in report.get("matrix", ())}
    states = [state for state in COLUMNS if any(held == state for _, held in cells)]
    blocked = {GATE_OF.get(gate["name"]) for gate in report.get("gates", ()) if gate["verdict"] != "pass"}
    serving = serving_cell(report)

    def cell_of(version: str, state: str) -> Cell | None:
        cell = cells.get((version, state))
        if cell is None:
            return None
        going_back = version == report["against"] and state == "added_by_candidate"
        mark = SERVING if cell is serving else WAY_BACK if going_back else ""
        if version == report["against"] and state == "stored":
            mark = NOW
        blocks = (cell is serving and "serving" in blocked) or (going_back and "rollback" in blocked)
        return _cell(cell, chosen, mark, is_blocking=blocks)

    asking = [(report["version"], "the candidate asks"), (report["against"], "the version beside it asks")]
    return Matrix(
        metric=chosen,
        metric_name=METRICS[chosen],
        against=report["against"],
        columns=tuple(Column(state, *COLUMNS[state]) for state in states),
        rows=tuple(
            Row(version, words, tuple(cell_of(version, state) for state in states))
            for version, words in asking
        ),
    )


def _cell(cell: Mapping[str, Any], metric: str, mark: str, *, is_blocking: bool) -> Cell:
    value = estimate_of(cell, metric)
    change = estimate_of((cell.get("change") or {}).get(metric))
    words, sign, tone = change_words(change)
    return Cell(
        value=percent(value.value) if value else "–",
        interval=percent_between(value) if value else "",
        change=words,
        change_interval=points_between(change) if change else "",
        sign=sign,
        tone=tone,
        mark=mark,
        is_blocking=is_blocking,
        is_now=mark == NOW,
        is_serving=mark == SERVING,
        is_way_back=mark == WAY_BACK,
        photos=counted(int(cell.get("n", 0)), "held-out photo"),
        others=tuple(
            (name, percent(other.value), percent_between(other))
            for key, name in METRICS.items()
            if key != metric and (other := estimate_of(cell, key)) is not None
        ),
    )
