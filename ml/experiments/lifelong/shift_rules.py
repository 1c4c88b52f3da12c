"""From where on each remedy is due: thresholds chosen on planted shifts, and judged on shifts of another kind."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.methods.lifelong.drift import Limits, Remedy, due
from ml.methods.lifelong.shift_alarm import Alarm

LOSS_LIMIT = 0.01  # of mean average precision: what is worth a remedy
_NEVER = float("inf")


class Remedied(NamedTuple):
    """What a shift costs in mean average precision: with no action (and the lower bound of its interval), and what
    a partial remedy and a new trunk leave lost (None: not measured). kind: "" for photos as they are.
    """

    kind: str
    alarm: Alarm
    loss: float
    loss_low: float
    partial_loss: float
    full_loss: float | None = None

    @property
    def costs(self) -> bool:
        """No action loses more than LOSS_LIMIT, by its lower bound."""
        return self.loss_low > LOSS_LIMIT

    @property
    def needs_trunk(self) -> bool | None:
        """It costs, refitted heads give back less than half of what a new trunk does, and the difference is more than
        LOSS_LIMIT; None where no new trunk was made.
        """
        if self.full_loss is None:
            return None
        is_less = self.loss - self.partial_loss < (self.loss - self.full_loss) / 2
        return self.costs and is_less and self.partial_loss - self.full_loss > LOSS_LIMIT

    def answer(self, cuts: "Cuts") -> Remedy:
        """What the rule says to do, with thresholds from `cuts`; one that nothing called for is never reached."""
        limits = Limits(
            partial_from=_NEVER if cuts.partial.value is None else cuts.partial.value,
            full_from=_NEVER if cuts.full.value is None else cuts.full.value,
            lost_from=_NEVER,
            crowded_below=0.0,
        )
        return due(limits=limits, shift=self.alarm, labels=None, space=None).value


class Cut(NamedTuple):
    """A threshold: values >= `value` call for the remedy. None: no row called for it. wrong: rows of `rows` that it
    judges otherwise than their own losses do.
    """

    value: float | None
    wrong: int
    rows: int


class Cuts(NamedTuple):
    """partial: over all rows, from where on a shift costs; full: over those with a new trunk, where it needs one."""

    partial: Cut
    full: Cut


class Tested(NamedTuple):
    """How many rows of `where` are judged by thresholds otherwise than by their own losses: of `rows` whether anything
    is due, of `trunk_rows` whether a new trunk is.
    """

    where: str
    cuts: Cuts
    rows: int
    wrong: int
    trunk_rows: int
    wrong_trunks: int


def cuts_of(rows: Sequence[Remedied]) -> Cuts:
    """Where statistics part the shifts that call for a remedy from those that do not; a new trunk is never due before
    anything is.
    """
    compared = [row for row in rows if row.needs_trunk is not None]
    least = cut([row.alarm.statistic for row in rows], [row.costs for row in rows])
    most = cut(
        [row.alarm.statistic for row in compared],
        [bool(row.needs_trunk) for row in compared],
        least=least.value or 0.0,
    )
    return Cuts(least, most)


def judged_on_others(rows: Sequence[Remedied]) -> list[Tested]:
    """Each kind judged by thresholds chosen on the others; photos as they are help to choose, and are not judged."""
    kinds = dict.fromkeys(row.kind for row in rows if row.kind)
    return [
        judged(kind, cuts_of([row for row in rows if row.kind != kind]), [row for row in rows if row.kind == kind])
        for kind in kinds
    ]  # fmt: skip


def judged(where: str, cuts: Cuts, rows: Sequence[Remedied]) -> Tested:
    """These thresholds on these rows."""
    answers = [row.answer(cuts) for row in rows]
    compared = [(row, given) for row, given in zip(rows, answers) if row.needs_trunk is not None]
    return Tested(
        where, cuts,
        rows=len(rows),
        wrong=sum(row.costs != (given != "none") for row, given in zip(rows, answers)),
        trunk_rows=len(compared),
        wrong_trunks=sum(row.needs_trunk != (given == "full") for row, given in compared),
    )  # fmt: skip


def cut(values: Sequence[float], calls: Sequence[bool], *, least: float = 0.0) -> Cut:
    """The threshold with the fewest wrong rows, the smallest of equally good ones: half way between the first value
    that calls and the next smaller one of any row (0 where there is none), and `least` at least.
    """
    found, called = np.array(values, np.float64), np.array(calls, np.bool_)
    if not called.any():
        return Cut(None, 0, len(called))
    every = np.unique(np.append(found, 0.0))
    thresholds = [max(least, _between(every, float(value))) for value in np.unique(found[called])]
    wrong = [int(((found >= threshold) != called).sum()) for threshold in thresholds]
    best = int(np.argmin(wrong))
    return Cut(thresholds[best], wrong[best], len(called))


def _between(every: NDArray[np.float64], value: float) -> float:
    below = every[every < value]
    return (value + float(below[-1])) / 2 if len(below) else value
