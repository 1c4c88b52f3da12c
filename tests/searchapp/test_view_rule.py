"""The view rule of the design (decision 1) on hand-made galleries of several versions."""

import numpy as np
import pytest

from searchapp.services.view_rule import VersionNumber, rows_in_view

NUMBERS = [VersionNumber(*pair) for pair in ((1, 0), (1, 2), (1, 5), (2, 0), (2, 3), (4, 0), (4, 1))]


def chosen_producers(present: list[str], query: str) -> list[str]:
    """The producer taken for one photo that has a row by each of `present`."""
    names = [number.name for number in NUMBERS]
    producers = np.array([names.index(name) for name in present], np.int16)
    image_ids = np.full(len(present), 77, np.int64)
    major, minor = map(int, query.split("."))
    return [present[row] for row in rows_in_view(image_ids, producers, NUMBERS, VersionNumber(major, minor))]


@pytest.mark.parametrize(
    ("present", "query", "taken"),
    [
        (["1.0", "1.2", "1.5"], "1.5", "1.5"),  # its own row
        (["1.0", "1.2", "1.5"], "1.4", "1.2"),  # the highest increment not above its own
        (["1.2", "1.5"], "1.1", "1.2"),  # none at or below: the lowest above
        (["1.5", "2.0"], "1.0", "1.5"),  # its own M before any other
        (["1.0", "1.5", "4.0"], "2.0", "1.5"),  # the nearest older M, its highest increment
        (["1.5", "2.0"], "4.1", "2.0"),  # older: 2 is nearer than 1
        (["2.3", "4.0"], "1.5", "2.3"),  # no older one: the nearest newer M
        (["4.0", "4.1"], "2.0", "4.0"),  # newer: its lowest increment
        (["2.0", "4.0"], "3.0", "2.0"),  # older wins over newer at equal distance
        (["1.0", "4.0"], "3.0", "1.0"),  # and at any distance
    ],
)
def test_the_view_takes_the_row_the_rule_names(present: list[str], query: str, taken: str) -> None:
    assert chosen_producers(present, query) == [taken]
    assert chosen_producers(present[::-1], query) == [taken]  # whatever the order of the rows


@pytest.mark.parametrize(
    ("present", "taken"),
    [
        (
            ["1.0", "1.2", "1.5"],
            "1.0",
        ),  # 1.2 and 1.5 were taken back before the query version was learned on 1.0
        (["1.2", "1.5"], "1.5"),  # nothing else: the latest of those
        (["1.5", "1.7"], "1.7"),  # an increment on the query version comes before them
        (["1.5", "2.0"], "1.5"),  # and another M after
    ],
)
def test_rows_of_an_increment_that_was_taken_back_are_the_last_choice_of_their_m(
    present: list[str], taken: str
) -> None:
    back = [VersionNumber(1, 2, is_abandoned=True), VersionNumber(1, 5, is_abandoned=True)]
    numbers = [VersionNumber(1, 0), *back, VersionNumber(1, 7), VersionNumber(2, 0)]
    names = [number.name for number in numbers]
    producers = np.array([names.index(name) for name in present], np.int16)
    rows = rows_in_view(np.full(len(present), 77, np.int64), producers, numbers, VersionNumber(1, 6))
    assert [present[row] for row in rows] == [taken]


def test_each_photo_gets_one_row_of_its_own_choice() -> None:
    image_ids = np.array([9, 3, 9, 5, 3], np.int64)
    producers = np.array([0, 0, 1, 3, 4], np.int16)  # 9: 1.0 and 1.2, 3: 1.0 and 2.3, 5: 2.0

    rows = rows_in_view(image_ids, producers, NUMBERS, VersionNumber(1, 2))

    assert rows.tolist() == [1, 2, 3]  # 3 by 1.0, 9 by 1.2, 5 by 2.0


def test_an_empty_gallery_has_an_empty_view() -> None:
    nothing = np.empty(0, np.int64)

    assert rows_in_view(nothing, nothing.astype(np.int16), [], VersionNumber(1, 0)).tolist() == []
