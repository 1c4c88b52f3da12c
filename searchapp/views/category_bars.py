"""Gains and losses of each category as bars to both sides of a middle line, the largest loss first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchapp.views.verdict_cards import Report, change_words
from searchapp.views.verdict_words import counted, estimate_of, percent, points_between

HALF = 100.0  # from the middle line to either end
SHOWN = 8  # at each end; the ones between are folded away


@dataclass(frozen=True, slots=True)
class CategoryBar:
    path: str
    photos: str
    before: str
    after: str
    change: str
    interval: str
    sign: str
    tone: str
    is_small: bool  # too few photos to say anything
    start: float
    width: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CategoryBars:
    first: tuple[CategoryBar, ...]
    between: tuple[CategoryBar, ...]
    last: tuple[CategoryBar, ...]
    reach: str  # what either end of the scale stands for


def category_bars(report: Report) -> CategoryBars:
    rows = sorted(report.get("per_category", ()), key=lambda row: (row.get("change") or 0.0, row["path"]))
    reach = _reach(rows)
    bars = tuple(_bar(row, reach) for row in rows)
    cut = max(SHOWN, len(bars) - SHOWN)
    if len(bars) <= 2 * SHOWN + 2:
        return CategoryBars(bars, (), (), f"{100 * reach:.0f} points")
    return CategoryBars(bars[:SHOWN], bars[SHOWN:cut], bars[cut:], f"{100 * reach:.0f} points")


def _reach(rows: Sequence[Mapping[str, Any]]) -> float:
    """The largest change there is, up to the next five points; intervals are cut off at the ends."""
    largest = max((abs(row.get("change") or 0.0) for row in rows), default=0.0)
    return max(0.05, -(-largest // 0.05) * 0.05)


def _bar(row: Mapping[str, Any], reach: float) -> CategoryBar:
    change = estimate_of({**row, "value": row.get("change")})
    value = float(row.get("change") or 0.0)
    words, sign, tone = change_words(change)

    def placed(number: float) -> float:
        return round(HALF + HALF * max(-1.0, min(1.0, number / reach)), 1)

    middle, end = HALF, placed(value)
    return CategoryBar(
        path=str(row["path"]),
        photos=counted(int(row["n"]), "photo"),
        before=percent(row["before"]),
        after=percent(row["after"]),
        change=words or f"{100 * value:+.1f}".replace("-", "−"),
        interval=points_between(change) if change else "",
        sign=sign or "level",
        tone=tone or "cannot_tell",
        is_small=change is None,
        start=min(middle, end),
        width=round(max(1.0, abs(end - middle)), 1),
        low=placed(change.low) if change else end,
        high=placed(change.high) if change else end,
    )
