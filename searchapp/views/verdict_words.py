"""Measured numbers as an operator reads them: points, percent, times, intervals, money and power, with their signs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.template.defaultfilters import filesizeformat

MINUS = "−"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float

    def turned(self) -> "Estimate":
        return Estimate(-self.value, -self.high, -self.low)


def estimate_of(row: Mapping[str, Any] | None, name: str = "") -> Estimate | None:
    """Of a report's row: the fields `value`, `low`, `high`, or `name`, `name_low`, `name_high`; None if one misses."""
    if row is None:
        return None
    keys = (name, f"{name}_low", f"{name}_high") if name else ("value", "low", "high")
    found = [row.get(key) for key in keys]
    if all(isinstance(value, int | float) for value in found):
        return Estimate(*(float(value) for value in found if value is not None))
    return None


def signed(value: float, decimals: int = 1) -> str:
    """With its sign, a true minus, and no sign before what rounds to zero."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if not text.strip("+-0.") else text.replace("-", MINUS)


def points(share: float) -> str:
    """A difference of two shares, in points of a hundred."""
    return signed(100 * share)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points_between(change: Estimate) -> str:
    return f"{points(change.low)} to {points(change.high)}"


def percent_between(share: Estimate) -> str:
    return f"{100 * share.low:.1f} to {100 * share.high:.1f}"


def counted(count: int, word: str, plural: str = "") -> str:
    """`1 photo`, `4,752 photos`."""
    return f"{count:,} {word if count == 1 else plural or f'{word}s'}"


def size_words(size: float) -> str:
    return filesizeformat(size).replace("\xa0", " ")


def milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"
