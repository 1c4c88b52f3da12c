"""What the newest look at drift means, in an operator's words: as usual, or an alarm with its measured reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from searchapp.services.drift_watch import Look

TITLES = {
    "shift": "New photos look different",
    "labels": "Categories moved away from their codes",
    "space": "Codes of categories crowd",
}
MEANINGS = {
    "partial": "Photos like these are found less reliably. A small update could give back a part of that, but one here "
    "learns new categories only: what helps is a candidate trained from all data, the new photos among them.",
    "full": "Photos like these are found far less reliably, and a small update could give back little of that: what "
    "helps is a candidate trained from all data, the new photos among them.",
    "labels": "Searches still find such photos where their old category was. Stored codes never change: what puts "
    "that right is the new codes of a candidate trained from all data.",
    "space": "Photos of such categories are taken for one another. Stored codes never change: what puts that right is "
    "the new codes of a candidate trained from all data.",
}


@dataclass(frozen=True, slots=True)
class DriftCard:
    """asks: what calls for a candidate, each thing measured with what it means. rest: what was measured beside it."""

    title: str
    asks: tuple[tuple[str, str], ...]
    rest: tuple[str, ...]
    at: datetime | None
    is_under_way: bool
    error: str

    @property
    def is_alarm(self) -> bool:
        return bool(self.asks)


def drift_card(look: Look) -> DriftCard:
    result = look.result
    due = [str(name) for name in result.get("due", ())]
    seen = _seen(result) if result else {}
    return DriftCard(
        title=_title(due, is_known=bool(result)),
        asks=tuple((seen[name], MEANINGS[_meaning_of(name, result)]) for name in due),
        rest=tuple(words for name, words in seen.items() if name not in due and words),
        at=look.at,
        is_under_way=look.is_under_way,
        error=look.error,
    )


def _title(due: list[str], *, is_known: bool) -> str:
    if not due:
        return f"Photos and labels: {'as usual' if is_known else 'not looked at yet'}"
    first, *others = (TITLES[name] for name in due)
    return ", and ".join([first, *(f"{title[0].lower()}{title[1:]}" for title in others)])


def _meaning_of(name: str, result: Mapping[str, Any]) -> str:
    if name != "shift":
        return name
    return "full" if result["shift"]["statistic"] >= result["limits"]["full_from"] else "partial"


def _seen(result: Mapping[str, Any]) -> dict[str, str]:
    return {
        "shift": _shift(result),
        "labels": _labels(result["labels"], result["limits"]),
        "space": _space(result["space"]),
    }


def _shift(result: Mapping[str, Any]) -> str:
    shift, limits = result["shift"], result["limits"]
    if shift is None:
        untold = str(result["shift_untold"])
        return f"{untold[:1].upper()}{untold[1:]}."
    apart = f"{shift['statistic']:.2f} standard deviations"
    where = f"from where {shift['held_out']:,} held-out photos of their categories lie"
    chance = f"chance alone reaches {shift['high']:.2f}"
    newest = f"The newest {shift['photos']:,} photos"
    if not shift["has_fired"]:
        return f"{newest} look like the held-out ones: {apart} apart on the mean, {chance}."
    if shift["statistic"] < limits["partial_from"]:
        return f"{newest} lie {apart} {where}; {chance}, but only from {limits['partial_from']:g} on it costs quality."
    return f"{newest} lie {apart} {where}; {chance}, and from {limits['partial_from']:g} on it costs quality."


def _labels(labels: Mapping[str, Any] | None, limits: Mapping[str, Any]) -> str:
    if labels is None:
        return "No stored code is counted yet: that begins with the first category that is learned."
    moved = f"{labels['moved']:,} of {labels['entries']:,} stored codes have another category than they were made for"
    if not labels["moved"]:
        return f"{moved}."
    return (
        f"{moved}: {100 * labels['lost']:.2f} % of code similarity is lost, and new codes are due from "
        f"{100 * limits['lost_from']:.2f} % on."
    )


def _space(space: Mapping[str, Any] | None) -> str:
    if space is None:
        return ""
    return (
        f"The nearest two of {space['categories']:,} categories are {space['nearest']} bits apart, the most crowded "
        f"two {space['smallest']:.2f} times as far as their labels ask for."
    )
