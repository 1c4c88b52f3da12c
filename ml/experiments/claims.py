"""From an experiment's evidence to claim objects: what is asked, what came out, and whether it holds.

Ids, statistics and targets are those the claims were registered under before anything was measured.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ml.experiments.evidence import Evidence
from ml.experiments.statistics import (
    Estimate,
    Resampled,
    holm_intervals,
    resampled_difference,
    resampled_mean,
    resampled_ratio,
)

BOOTSTRAP_SEED = 0
HEADROOM = 0.03  # the upper bound must beat the old model by this, else there is nothing to show
_TOLERANCE = 1e-4  # of values counted from rows against those from rounded per-query values
_TERM = re.compile(r"(value|low|high) (>=|<=|>|<) (-?[0-9.]+(?:e-?[0-9]+)?)")


class Side(NamedTuple):
    """A series of rows: whose, and which of their values."""

    name: str
    metric: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One cell of a claim, and how to count it again from the result file.

    a: mean over seeds of this row value; against `b`: a - b (`difference`) or a / b (`ratio`), paired by seed.
    target: what must be true of value, low and high: `low > 0`, `value >= 0.01, low > 0`.
    family: cells of one family share the 5 % of error (Holm); empty: the cell stands alone.
    headroom: (better, worse): unless better - worse >= 0.03 with its low above 0 the cell is untestable.
    needs: whether the id holds when every cell of it holds, or when one does.
    min_seeds: with fewer seeds than the claim was registered with the cell is untestable.
    note: the reason believed, for whoever reads the table.
    """

    id: str
    cell: str
    statistic: str
    setting: str
    a: Side
    b: Side | None = None
    compare: Literal["difference", "ratio"] = "difference"
    target: str
    family: str = ""
    headroom: tuple[Side, Side] | None = None
    needs: Literal["every", "one"] = "every"
    min_seeds: int = 1
    note: str = ""

    def __post_init__(self) -> None:
        if not all(_TERM.fullmatch(term) for term in self.target.split(", ")):
            raise ValueError(
                f"claim {self.id}/{self.cell}: target {self.target!r}, expected terms such as `low > 0`"
                " or `value >= 0.93`, joined by commas"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A question and its answer."""

    question: Question
    estimate: Estimate
    holds: bool | Literal["untestable"]

    def as_json(self) -> dict[str, Any]:
        question, estimate = self.question, self.estimate
        counted = {"setting": question.setting, "a": question.a._asdict(), "compare": question.compare}
        return {
            "id": question.id,
            "cell": question.cell,
            "statistic": question.statistic,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "n_seeds": estimate.n_seeds,
            "target": question.target,
            "holds": self.holds,
            "p": estimate.p,
            "n_items": estimate.n_clusters,
            "counted": counted
            | {"b": question.b._asdict() if question.b else None, "family": question.family}
            | {"headroom": [side._asdict() for side in question.headroom] if question.headroom else None}
            | {"min_seeds": question.min_seeds, "needs": question.needs},
            "note": question.note,
        }


def question_of(claim: dict[str, Any]) -> Question:
    """The question in a claim object of a result file."""
    counted = claim["counted"]
    headroom = counted["headroom"]
    return Question(
        id=claim["id"],
        cell=claim["cell"],
        statistic=claim["statistic"],
        target=claim["target"],
        note=claim["note"],
        setting=counted["setting"],
        compare=counted["compare"],
        family=counted["family"],
        a=Side(**counted["a"]),
        b=Side(**counted["b"]) if counted["b"] else None,
        headroom=(Side(**headroom[0]), Side(**headroom[1])) if headroom else None,
        min_seeds=counted["min_seeds"],
        needs=counted.get("needs", "every"),  # older files do not say
    )


def answer(questions: Sequence[Question], evidence: Evidence) -> list[Claim]:
    """The claims, in the questions' order. Value from the rows, low and high from the per-query values (for a
    value without any, such as bytes: from the seeds alone). Only seeds that both sides have count.

    Raises ValueError when a cell stands twice, a side has no rows, or rows and per-query values disagree.
    """
    cells = [(question.id, question.cell) for question in questions]
    if len(set(cells)) < len(cells):
        raise ValueError(f"cells stand twice: {sorted({cell for cell in cells if cells.count(cell) > 1})}")
    drawn = [_drawn(question, evidence) for question in questions]
    estimates: dict[int, Estimate] = {}
    for family in _families(questions):
        nulls = [_null(questions[index].target) for index in family]
        estimates.update(zip(family, holm_intervals([drawn[index] for index in family], nulls)))
    return [
        Claim(
            question=question, estimate=estimates[index], holds=_verdict(question, estimates[index], evidence)
        )
        for index, question in enumerate(questions)
    ]


def _families(questions: Sequence[Question]) -> Iterable[list[int]]:
    families: dict[tuple[str, str | int], list[int]] = {}
    for index, question in enumerate(questions):
        families.setdefault((question.id, question.family or index), []).append(index)
    return families.values()


def _drawn(question: Question, evidence: Evidence) -> Resampled:
    sides = [question.a] if question.b is None else [question.a, question.b]
    rows = [evidence.values(setting=question.setting, name=side.name, metric=side.metric) for side in sides]
    seeds = sorted(set.intersection(*(set(own) for own in rows)))
    where = f"claim {question.id}/{question.cell}, setting {question.setting!r}"
    if not seeds:
        raise ValueError(f"{where}: no seed has a row of {' and of '.join(map(str, sides))}")
    queries = [
        evidence.queries(setting=question.setting, name=side.name, metric=side.metric) for side in sides
    ]
    from_rows = _join(question, [np.array([[own[seed]] for seed in seeds]) for own in rows], np.zeros(1))
    if not any(queries):
        return from_rows
    if not all(set(seeds) <= set(own) for own in queries):
        raise ValueError(f"{where}: per-query values are missing for some of the seeds {seeds}")
    values = [np.stack([own[seed] for seed in seeds]) for own in queries]
    drawn = _join(question, values, evidence.tables[question.setting].items)
    if abs(drawn.value - from_rows.value) > _TOLERANCE * max(1.0, abs(drawn.value)):
        raise ValueError(f"{where}: {from_rows.value} by the rows but {drawn.value} by the queries")
    return Resampled(from_rows.value, drawn.draws, drawn.n_seeds, drawn.n_clusters)


def _join(question: Question, values: list[Any], items: Any) -> Resampled:
    if question.b is None:
        return resampled_mean(values[0], items, seed=BOOTSTRAP_SEED)
    compare = resampled_difference if question.compare == "difference" else resampled_ratio
    return compare(values[0], values[1], items, seed=BOOTSTRAP_SEED)


def _null(target: str) -> float:
    """The bound that `low` or `high` must clear; 0 where the target names none."""
    bounds = [float(term[2]) for term in _TERM.findall(target) if term[0] != "value"]
    return bounds[0] if bounds else 0.0


def _verdict(question: Question, estimate: Estimate, evidence: Evidence) -> bool | Literal["untestable"]:
    if estimate.n_seeds < question.min_seeds:
        return "untestable"
    if question.headroom is not None and not _has_headroom(question, evidence):
        return "untestable"
    return meets(question.target, estimate)


def _has_headroom(question: Question, evidence: Evidence) -> bool:
    assert question.headroom is not None
    better, worse = question.headroom
    room = Question(
        id=question.id,
        cell=f"{question.cell} (headroom)",
        statistic="headroom",
        setting=question.setting,
        a=better,
        b=worse,
        target=f"value >= {HEADROOM}, low > 0",
    )
    return meets(room.target, _drawn(room, evidence).estimate())


def meets(target: str, estimate: Estimate) -> bool:
    """Whether every term of `target` is true."""
    return all(
        _is_true(getattr(estimate, term[0]), term[1], float(term[2])) for term in _TERM.findall(target)
    )


def _is_true(left: float, relation: str, right: float) -> bool:
    match relation:
        case ">=":
            return left >= right
        case "<=":
            return left <= right
        case ">":
            return left > right
        case _:
            return left < right
