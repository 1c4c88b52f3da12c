"""What a version costs and what not encoding the catalogue again saves; each figure with how it was measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchapp.services.savings import duration_words
from searchapp.views.verdict_cards import Report
from searchapp.views.verdict_words import counted, milliseconds, signed, size_words


@dataclass(frozen=True, slots=True)
class CostRow:
    """One property of both versions."""

    title: str
    own: str
    other: str
    change: str
    how: str


@dataclass(frozen=True, slots=True)
class Saving:
    title: str
    value: str
    how: str
    is_missing: bool = False  # it waits for a rate that only the operator knows


@dataclass(frozen=True, slots=True)
class Costs:
    rows: tuple[CostRow, ...]
    savings: tuple[Saving, ...]


def costs_of(report: Report) -> Costs:
    costs: Mapping[str, Any] = report.get("costs", {})
    own, other = report["version"], report["against"]
    return Costs(rows=tuple(_rows(costs, own, other)), savings=tuple(_savings(costs)))


def _rows(costs: Mapping[str, Any], own: str, other: str) -> list[CostRow]:
    rows = []
    sizes = costs.get("bytes", {})
    if own in sizes and other in sizes:
        how = "The files of each version as they lie here: weights and manifest."
        words = size_words(sizes[own]), size_words(sizes[other])
        rows.append(CostRow("Size", *words, _times(sizes[own], sizes[other]), how))
    times = costs.get("latency_ms", {})
    for key, title in (
        ("p50", "Time of a query, p50"),
        ("p95", "Time of a query, p95"),
    ):
        mine, theirs = (times.get(name, {}).get(key) for name in (own, other))
        if isinstance(mine, int | float) and isinstance(theirs, int | float):
            how = (
                "The same photos asked of both versions in turn, on this machine, one at a time, from the file to the "
                "answer. A busy machine makes both slower."
            )
            rows.append(CostRow(title, milliseconds(mine), milliseconds(theirs), _times(mine, theirs), how))
    return rows


def _times(own: float, other: float) -> str:
    if not other:
        return ""
    change = signed(100 * (own / other - 1), 0)
    return "the same" if change == "0" else f"{change} %"


def _savings(costs: Mapping[str, Any]) -> list[Saving]:
    seconds = costs.get("reencode_seconds")
    how = str(costs.get("reencode_how") or "")
    photos = counted(int(costs.get("entries") or 0), "photo")
    if not isinstance(seconds, int | float):
        return [
            Saving("Time", "not measured yet", "No encoding of many photos was timed here.", is_missing=True)
        ]
    spared = f"Encoding {photos} again takes that long here"
    found = [Saving("Time", duration_words(float(seconds)), f"{spared}: {how}." if how else f"{spared}.")]
    found.append(
        _rated(
            "Money",
            costs.get("money"),
            f" {costs.get('currency') or ''}".rstrip(),
            "what an hour of this machine costs",
        )
    )
    found.append(_rated("Energy", costs.get("kwh"), " kWh", "what this machine draws at work"))
    return found


def _rated(title: str, value: object, unit: str, rate: str) -> Saving:
    if isinstance(value, int | float) and value > 0:
        decimals = 2 if value >= 0.1 else 4
        return Saving(
            title, f"{value:,.{decimals}f}{unit}", f"That time at {rate}, as it stands in the settings."
        )
    return Saving(title, "not known", f"It needs {rate}; give it in the settings.", is_missing=True)
