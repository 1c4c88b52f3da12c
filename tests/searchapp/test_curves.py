"""The drawing of a training's curves: where its points lie, and what its scale says."""

import math

import pytest

from searchapp.views.curves import HEIGHT, MARGIN, WIDTH, curve_of

FALLING = [(epoch, 4.0 / epoch) for epoch in range(1, 21)]


@pytest.mark.parametrize(
    "values",
    [
        FALLING,
        [(1, -3.0), (2, 1e-9), (3, 2.5e4)],
        [(5, 0.1), (1, 0.1000001)],
        [(1, 0.0), (2, 0.0)],
        [(1, 1e300), (2, -1e300)],
    ],
)
def test_every_point_lies_in_the_box_and_they_run_from_left_to_right(
    values: list[tuple[float, float]],
) -> None:
    curve = curve_of(values)

    assert len(curve.points) == len(values)
    assert all(MARGIN <= x <= WIDTH - MARGIN and MARGIN <= y <= HEIGHT - MARGIN for x, y in curve.points)
    assert [x for x, _ in curve.points] == sorted(x for x, _ in curve.points)
    assert len(curve.y_labels) == len(curve.rules) >= 2
    assert len(set(curve.y_labels)) == len(curve.y_labels)


def test_a_curve_has_a_round_scale_and_its_ends_at_the_edges() -> None:
    curve = curve_of([(1, 3.0), (2, 1.0), (3, 0.2)])

    assert curve.y_labels == ("3", "2", "1", "0")
    assert curve.points == ((6.0, 6.0), (300.0, 131.33), (594.0, 181.47))
    assert curve.rules == (6.0, 68.67, 131.33, 194.0)
    assert curve.x_labels == ("1", "3")
    assert curve.line.startswith("6,6 300,131.33 ")


def test_what_is_not_a_number_is_left_out_and_the_line_goes_on() -> None:
    curve = curve_of([(1, 3.0), (2, math.nan), (3, math.inf), (4, 1.0), (math.nan, 2.0)])

    assert curve.values == ((1, 3.0), (4, 1.0))
    assert curve.points == ((6, 6), (594, 194))


def test_one_point_is_a_dot_in_the_middle_and_none_is_no_curve() -> None:
    one, none = curve_of([(1, 0.5)]), curve_of([(1, math.nan)])

    assert one.points == ((WIDTH / 2, HEIGHT / 2),)
    assert one.x_labels == ("1", "")
    assert (none.points, none.line, none.y_labels) == ((), "", ())


def test_a_running_training_leaves_room_for_the_epochs_to_come() -> None:
    curve = curve_of([(2, 2.0), (3, 1.0)], within=(1, 5))

    assert [x for x, _ in curve.points] == [6 + 588 / 4, 6 + 588 / 2]
    assert curve.x_labels == ("1", "5")
