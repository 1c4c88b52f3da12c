"""An increment as an operator reads it: what it learned, the proof that codes stayed, its gates, and what it saved."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchapp.services.model_overview import Increment
from searchapp.services.savings import Rates, savings_of
from searchapp.services.verdict_gates import LEAST_ITEMS

SHOWN = 6  # categories named before "and n more"
GATES = {
    "old_codes_changed": "No stored code of known categories may change",
    "weights_not_finite": "Every weight must be a finite number",
    "old_query_map_loss": "Known categories may lose at most {points} of mean average precision",
    "new_class_gain": "New categories must not be found worse than before",
}
VERDICTS = {
    "pass": ("Passes", "check", "better"),
    "fail": ("Fails", "warn", "worse"),
    "cannot_tell": ("Cannot tell", "level", "cannot_tell"),
}


@dataclass(frozen=True, slots=True)
class GateLine:
    words: str
    interval: str
    verdict: str
    verdict_word: str
    sign: str


METRICS = (("recall_at_1", "right at first place"), ("map", "mean average precision"))


@dataclass(frozen=True, slots=True)
class Change:
    """One measure of held-out photos, before the increment and after it."""

    of: str
    before: str
    after: str
    photos: str


@dataclass(frozen=True, slots=True)
class IncrementCard:
    learned: str
    photos: str
    checked: str
    changed: int
    before: str  # digests of the stored codes of known categories
    after: str
    changes: tuple[Change, ...]
    gates: tuple[GateLine, ...]
    savings: str  # empty where nobody asked for it

    @property
    def is_unchanged(self) -> bool:
        return self.changed == 0 and self.before == self.after


def increment_card(increment: Increment, rates: Rates | None = None) -> IncrementCard:
    result = increment.result
    photos = int(result.get("photos", 0))
    return IncrementCard(
        learned=names_listed(increment.categories),
        photos=f"{photos:,} photo{'' if photos == 1 else 's'}",
        checked=f"{result['old_codes_checked']:,}",
        changed=int(result["old_codes_changed"]),
        before=str(result["old_digest_before"]),
        after=str(result["old_digest_after"]),
        changes=tuple(_changes(result)),
        gates=tuple(_gate(row) for row in result.get("gates", ())),
        savings=savings_of(result, rates).sentence if rates is not None else "",
    )


def names_listed(names: tuple[str, ...] | list[str]) -> str:
    if len(names) > SHOWN:
        return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN:,} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _changes(result: Mapping[str, Any]) -> list[Change]:
    found = []
    for which, words in (("old", "Known categories"), ("new", "New categories")):
        measured = result.get(f"{which}_queries") or {}
        for metric, name in METRICS:
            before, after = measured.get(f"{metric}_before"), measured.get(f"{metric}_after")
            if isinstance(before, int | float) and isinstance(after, int | float):
                photos = f"{measured.get('n', 0):,}"
                found.append(
                    Change(f"{words}, {name}", f"{100 * before:.1f} %", f"{100 * after:.1f} %", photos)
                )
    return found


def _gate(row: Mapping[str, Any]) -> GateLine:
    """A loss is told as the change it is; one that counts things has its note."""
    word, sign, verdict = VERDICTS[row["verdict"]]
    rule = GATES.get(row["name"], str(row["name"])).format(points=_one_point(row["threshold"]))
    if row["name"] == "weights_not_finite" and row["verdict"] == "pass":
        return GateLine(f"{rule}: all {row['items']:,} are", "", verdict, word, sign)
    if row["low"] is None:
        return GateLine(f"{rule}: {row['note']}", "", verdict, word, sign)
    turned = row["name"] == "old_query_map_loss"
    value, low, high = (row["value"], row["low"], row["high"])
    if turned:
        value, low, high = -value, -high, -low
    few = (
        ""
        if row["items"] >= LEAST_ITEMS
        else f", on photos of {row['items']} items; {LEAST_ITEMS} are needed"
    )
    seen = row.get("seen_from")
    power = (
        f"; a fall of more than {100 * abs(seen):.1f} points would have been seen" if seen is not None else ""
    )
    return GateLine(
        f"{rule}: measured {points(value)}{few}{power}",
        f"{points(low)} to {points(high)}",
        verdict,
        word,
        sign,
    )


def _one_point(threshold: float) -> str:
    return f"{100 * threshold:g} point{'' if threshold == 0.01 else 's'}"


def points(value: float) -> str:
    """A difference of two shares, in points of a hundred, with its sign."""
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text
