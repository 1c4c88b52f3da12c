"""The rule for remedies: thresholds part the shifts that call for one from the rest, and are judged on other shifts."""

from ml.experiments.lifelong.shift_rules import Cut, Cuts, Remedied, cut, cuts_of, judged, judged_on_others
from ml.methods.lifelong.shift_alarm import Alarm


def row(
    statistic: float, lost: float, low: float, partial: float, full: float | None = None, *, kind: str = "blur",
    chance: float = 0.1,
) -> Remedied:  # fmt: skip
    return Remedied(kind, Alarm(statistic, chance, 100, 50), lost, low, partial, full)


ROWS = [
    row(0.0, 0.000, 0.000, 0.000, 0.000, kind=""),
    row(0.125, 0.015, 0.009, 0.010, 0.000),  # not for certain more than a point
    row(0.375, 0.020, 0.011, 0.005, 0.004),
    row(0.5, 0.100, 0.080, 0.050, 0.020),  # 5 of 8 points given back: more than half
    row(1.0, 0.200, 0.150, 0.150, 0.080),  # 5 of 12
    row(2.0, 0.400, 0.350, 0.390, 0.100),
    row(3.0, 0.400, 0.350, 0.390),  # no new trunk was made
]


def test_thresholds_lie_half_way_between_what_calls_for_a_remedy_and_what_does_not() -> None:
    found = cuts_of(ROWS)
    assert found == Cuts(Cut(0.25, wrong=0, rows=7), Cut(0.75, wrong=0, rows=6))
    assert cuts_of(ROWS[::-1]) == found
    assert cuts_of(ROWS[:2]) == Cuts(Cut(None, 0, 2), Cut(None, 0, 2))
    assert [one.answer(found) for one in ROWS] == [
        "none", "none", "partial", "partial", "full", "full", "full",
    ]  # fmt: skip


def test_nothing_is_due_while_the_alarm_has_not_fired() -> None:
    unsure = row(1.0, 0.2, 0.15, 0.15, 0.08, chance=1.1)
    assert unsure.answer(cuts_of(ROWS)) == "none"
    assert judged("blur", cuts_of(ROWS), [unsure]) == ("blur", cuts_of(ROWS), 1, 1, 1, 1)


def test_a_shift_that_no_remedy_helps_calls_for_no_new_trunk() -> None:
    assert row(2.0, 0.200, 0.150, 0.199, 0.195).needs_trunk is False
    assert row(2.0, 0.200, 0.150, 0.199).needs_trunk is None


def test_a_new_trunk_is_not_due_before_anything_is() -> None:
    rows = [row(0.0, 0.0, 0.0, 0.0, 0.0, kind=""), row(0.2, 0.01, 0.0, 0.0), row(0.3, 0.1, 0.05, 0.1, 0.01)]
    assert cuts_of(rows) == Cuts(Cut(0.25, 0, 3), Cut(0.25, 0, 2))  # 0.15 by itself


def test_where_values_do_not_part_the_rows_the_fewest_are_judged_wrongly() -> None:
    assert cut([1.5, 1.2, 1.4, 1.6, 1.8], [False, True, True, True, True]) == Cut(0.6, wrong=1, rows=5)
    values, calls = [1.05, 1.06, 1.08, 1.25, 1.5, 1.75], [True, False, False, False, True, True]
    assert cut(values, calls) == Cut(1.375, wrong=1, rows=6)


def test_each_kind_is_judged_by_thresholds_chosen_on_the_others() -> None:
    early = [row(0.15, 0.1, 0.05, 0.0, kind="grey"), row(0.5, 0.2, 0.1, 0.0, kind="grey")]
    found = {one.where: one for one in judged_on_others([*ROWS, *early])}
    assert list(found) == ["blur", "grey"]
    assert found["grey"].cuts == cuts_of(ROWS)
    assert (found["grey"].rows, found["grey"].wrong) == (2, 1)
    assert found["grey"].trunk_rows == 0
    # Chosen on grey and on photos as they are: half of 0.15; on no trunk at all.
    assert found["blur"].cuts == Cuts(Cut(0.075, 0, 3), Cut(None, 0, 1))
    # The first of them costs nothing, yet 0.125 is above the threshold; both that need a trunk are missed.
    assert (found["blur"].wrong, found["blur"].trunk_rows, found["blur"].wrong_trunks) == (1, 5, 2)
