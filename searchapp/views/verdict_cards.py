"""A verdict as an operator reads it: one sentence first, then the gates that it rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchapp.services.verdict_gates import LEAST_ITEMS
from searchapp.views.verdict_words import (
    Estimate,
    counted,
    estimate_of,
    percent,
    percent_between,
    points,
    points_between,
    signed,
)

Report = Mapping[str, Any]

SIGNS = {
    "pass": ("Passes", "check", "better"),
    "fail": ("Fails", "warn", "worse"),
    "cannot_tell": ("Cannot tell", "level", "cannot_tell"),
}
STATES = {
    "ready": ("Ready", "strong", "better"),
    "not_ready": ("Not ready", "warn", "worse"),
    "cannot_tell": ("Cannot tell yet", "level", "cannot_tell"),
}
PLOT_WIDTH, PLOT_MARGIN = 160, 8


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a gate limits: its name, its limit in words, and what kind of number it is."""

    name: str
    limit: str
    kind: str  # loss | share | times | count
    how: str


RULES: Mapping[str, _Rule] = {
    "map_loss": _Rule(
        "Mean average precision",
        "may fall by at most {limit}",
        "loss",
        "The same held-out photos are asked of both versions; the difference is taken photo by photo. The interval "
        "comes of drawing the items anew, photos of one item together.",
    ),
    "flips": _Rule(
        "Answers that turn wrong",
        "at most {limit} of those asked",
        "share",
        "Held-out photos whose first answer was right before and is wrong after, of all that were asked.",
    ),
    "worst_category": _Rule(
        "The category that loses most",
        "may fall by at most {limit}",
        "loss",
        "Mean average precision of each category that has enough held-out photos, before and after; the largest loss.",
    ),
    "latency": _Rule(
        "Time of a query",
        "at most {limit} as long",
        "times",
        "The same photos are encoded and searched for by both versions in turn, on this machine, one at a time.",
    ),
    "rollback_loss": _Rule(
        "Items added since, after going back",
        "mean average precision may fall by at most {limit}",
        "loss",
        "Each item in turn counts as added after the promotion: its entries are made by the candidate, all others are "
        "as stored. Then the older version asks.",
    ),
    "chain_loss": _Rule(
        "Since the first version of the encoder",
        "mean average precision may fall by at most {limit}",
        "loss",
        "Beside the version that the increments in use began with, so that many small losses are seen as one.",
    ),
    "blocked_flips": _Rule(
        "Wrong answers that an operator blocks",
        "none",
        "count",
        "Of the pictures below: those that an operator marked as not to be accepted.",
    ),
}


@dataclass(frozen=True, slots=True)
class Plot:
    """Where an interval, its middle and the limit lie in a box of PLOT_WIDTH."""

    low: float
    value: float
    high: float
    limit: float
    is_limit_upper: bool


@dataclass(frozen=True, slots=True)
class GateRow:
    name: str
    title: str
    limit: str
    value: str
    interval: str
    note: str
    verdict: str
    word: str
    sign: str
    tone: str
    how: str
    is_editable: bool
    plot: Plot | None


@dataclass(frozen=True, slots=True)
class Sentence:
    """What the verdict comes to; `state` is ready, not_ready or cannot_tell."""

    state: str
    word: str
    rest: str
    sign: str
    tone: str

    @property
    def words(self) -> str:
        return f"{self.word}: {self.rest}"


def sentence_of(report: Report) -> Sentence:
    """Ready, not ready or cannot tell, and why, in one sentence."""
    gates = list(report.get("gates", ()))
    failed = [gate for gate in gates if gate["verdict"] == "fail"]
    unsure = [gate for gate in gates if gate["verdict"] == "cannot_tell"]
    state = "not_ready" if failed else "cannot_tell" if unsure or not gates else "ready"
    word, sign, tone = STATES[state]
    return Sentence(state, word, f"{_reason(report, gates, failed, unsure)}.", sign, tone)


def _reason(
    report: Report, gates: Sequence[Report], failed: Sequence[Report], unsure: Sequence[Report]
) -> str:
    version, against = report["version"], report["against"]
    if not gates:
        return f"nothing was measured that {version} and {against} could be judged by"
    if failed:
        return f"{version} fails {_of(failed, gates)}: {_titles(failed)}{_categories(report)}"
    if unsure:
        rest = len(gates) - len(unsure)
        others = f"; the other {rest} pass" if rest > 1 else "; the other one passes" if rest else ""
        return f"{_of(unsure, gates)} cannot be decided: {_titles(unsure)}{others}{_categories(report)}"
    return f"{version} {_beside(report)} {against} and passes every gate{_categories(report)}"


def _beside(report: Report) -> str:
    """Better, worse or as good: by the interval of mean average precision as it would serve."""
    cell = serving_cell(report)
    change = estimate_of((cell or {}).get("change", {}) and (cell or {})["change"].get("map"))
    if change is not None and change.low > 0:
        return "is better than"
    if change is not None and change.high < 0:
        return "is within every limit of"
    return "is as good, as far as can be told, as"


def serving_cell(report: Report) -> Mapping[str, Any] | None:
    """The cell that would answer if the version were put in use now."""
    wanted = (report["version"], report.get("state", "stored"))
    cells = report.get("matrix", ())
    return next((cell for cell in cells if (cell["query_version"], cell["gallery_state"]) == wanted), None)


def _of(some: Sequence[Report], gates: Sequence[Report]) -> str:
    return f"{len(some)} of {counted(len(gates), 'gate')}"


def _titles(gates: Sequence[Report]) -> str:
    return ", ".join(_rule(gate["name"]).name.lower() for gate in gates)


def _categories(report: Report) -> str:
    gain, lose = gains_and_losses(report)
    if not report.get("per_category"):
        return ""
    if not gain and not lose:
        return "; no category gains or loses for certain"
    gains = f"{counted(gain, 'category', 'categories')} {'gains' if gain == 1 else 'gain'}"
    return f"; {gains}, {lose or 'none'} {'loses' if lose == 1 else 'lose'}"


def gains_and_losses(report: Report) -> tuple[int, int]:
    """How many categories gain and lose for certain: with their whole interval on one side of zero."""
    changes = [estimate_of({**row, "value": row.get("change")}) for row in report.get("per_category", ())]
    known = [change for change in changes if change is not None]
    return sum(change.low > 0 for change in known), sum(change.high < 0 for change in known)


def gate_rows(report: Report) -> tuple[GateRow, ...]:
    return tuple(_gate(gate) for gate in report.get("gates", ()))


def _rule(name: str) -> _Rule:
    return RULES.get(name, _Rule(name.replace("_", " ").capitalize(), "at most {limit}", "loss", ""))


def _gate(gate: Mapping[str, Any]) -> GateRow:
    """A loss is told as the change it is: a fall has a minus, as everywhere else on the page."""
    rule = _rule(str(gate["name"]))
    word, sign, tone = SIGNS[gate["verdict"]]
    measured, limit = estimate_of(gate), float(gate["threshold"])
    value, interval = _value_words(rule.kind, measured, gate.get("value"))
    items = gate.get("items")
    few = isinstance(items, int) and items < LEAST_ITEMS and rule.kind in ("loss", "share")
    return GateRow(
        name=str(gate["name"]),
        title=rule.name,
        limit=rule.limit.format(limit=_limit_words(rule.kind, limit)),
        value=value,
        interval=interval,
        note=f"photos of {counted(int(items), 'item')}; {LEAST_ITEMS} are needed"
        if few and items is not None
        else "",
        verdict=gate["verdict"],
        word=word,
        sign=sign,
        tone=tone,
        how=rule.how,
        is_editable=rule.kind != "count",
        plot=_plot(rule.kind, measured, limit),
    )


def _limit_words(kind: str, limit: float) -> str:
    if kind == "loss":
        return f"{100 * limit:g} point{'' if limit == 0.01 else 's'}"
    if kind == "share":
        return f"{100 * limit:g} %"
    return f"{limit:g} times" if kind == "times" else f"{limit:g}"


def _value_words(kind: str, measured: Estimate | None, value: object) -> tuple[str, str]:
    if not isinstance(value, int | float):
        return "not measurable yet", ""
    if kind == "count":
        return f"{value:,.0f}", ""
    if kind == "times":
        between = f"{measured.low:.2f} to {measured.high:.2f}" if measured else ""
        return f"{value:.2f} times", between
    if kind == "share":
        return percent(value), percent_between(measured) if measured else ""
    return f"{points(-value)} points", points_between(measured.turned()) if measured else ""


def _plot(kind: str, measured: Estimate | None, limit: float) -> Plot | None:
    """The interval beside its limit, and beside what would be no change at all."""
    if measured is None or kind == "count":
        return None
    shown, edge = (measured.turned(), -limit) if kind == "loss" else (measured, limit)
    neutral = 1.0 if kind == "times" else 0.0
    left, right = min(shown.low, edge, neutral), max(shown.high, edge, neutral)
    scale = (PLOT_WIDTH - 2 * PLOT_MARGIN) / ((right - left) or 1.0)

    def placed(value: float) -> float:
        return round(PLOT_MARGIN + (value - left) * scale, 1)

    return Plot(placed(shown.low), placed(shown.value), placed(shown.high), placed(edge), kind != "loss")


def change_words(change: Estimate | None) -> tuple[str, str, str]:
    """A change in points, its sign and its tone, by its interval: never by colour alone."""
    if change is None:
        return "", "", ""
    words = f"{signed(100 * change.value)}"
    if change.low > 0:
        return words, "up", "better"
    return (words, "fall", "worse") if change.high < 0 else (words, "level", "cannot_tell")
