"""What the lifelong study's page says is what its rows measured: thresholds where they part rows, blanks elsewhere."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ml.experiments.evidence import Evidence, evidence_of
from ml.experiments.ledger import RunRecord
from ml.experiments.lifelong.arms import SHIPPED, STORES
from ml.experiments.lifelong.presenting import present
from ml.experiments.lifelong.prose import CHOICES
from ml.experiments.lifelong.shift_presenting import shift_plots, shift_tables
from ml.experiments.lifelong.stored_presenting import stored_tables

Row = dict[str, Any]
SOLVED, ENCODED = (f"grocery, 4 increments/{store}" for store in STORES.values())


def record(setting: str, name: str, values: Mapping[str, float], *, seed: int = 0) -> RunRecord:
    return RunRecord(name=name, setting=setting, seed=seed, values=values)


def shift(
    place: str, name: str, statistic: float, *, loss: float, increment: float, **more: float
) -> RunRecord:
    """Bounds are half of what is lost, and one and a half times."""
    values = {
        "statistic": statistic, "chance": 0.1, "photos": 40, "photo_items": 20, "fire_rate": 0.25,
        "map_unshifted": 0.8, "map_no_action": 0.8 - loss, "loss_no_action": loss, "loss_no_action_low": loss / 2,
        "loss_no_action_high": 1.5 * loss, "map_increment": increment,
        "loss_increment": 0.8 - increment, **more,
    }  # fmt: skip
    return record(f"{place}/planted shift", name, values)


def renewed(place: str, name: str, value: float) -> RunRecord:
    values = {"map_new_trunk": value, "loss_new_trunk": 0.8 - value}
    return record(f"{place}/planted shift", f"{name}, new trunk", values)


@pytest.fixture(scope="module")
def shifts() -> Evidence:
    """A shop with new trunks of one kind, and a mall without."""
    return evidence_of([
        shift("shop", "unshifted", 0.0, loss=0.0, increment=0.82, map_refit=0.84, loss_refit=-0.04,
              loss_unshifted_increment=-0.02),
        shift("shop", "darker 0.3", 0.2, loss=0.01, increment=0.81, map_refit=0.83),
        shift("shop", "darker 1", 0.6, loss=0.1, increment=0.74, map_refit=0.79, loss_unshifted_increment=0.03),
        shift("shop", "blur 1", 1.0, loss=0.2, increment=0.77),
        renewed("shop", "unshifted", 0.9), renewed("shop", "darker 0.3", 0.9), renewed("shop", "darker 1", 0.88),
        shift("mall", "unshifted", 0.0, loss=0.0, increment=0.8),
        shift("mall", "darker 1", 0.3, loss=0.1, increment=0.79),
    ])  # fmt: skip


def rows_of(tables: list[Row], title: str) -> list[Row]:
    (found,) = [table["rows"] for table in tables if table["title"] == title]
    return list(found)


def test_what_a_remedy_leaves_lost_is_counted_to_the_same_remedy_without_a_shift(shifts: Evidence) -> None:
    plain, _, darker, blur = rows_of(shift_tables(shifts), "A planted shift: shop")
    afters = ("after increment", "after refit", "after new trunk")
    assert [darker[after] for after in afters] == [8.0, 5.0, 2.0]  # not 6, 1 and -8
    assert [plain[after] for after in afters] == [
        -2.0,
        -4.0,
        -10.0,
    ]  # what arrivals and training give by themselves
    assert [blur[after] for after in afters] == [5.0, None, None]
    assert (darker["mAP"], darker["lost"], darker["bounds"]) == (70.0, 10.0, [5.0, 15.0])
    assert (darker["displaced"], darker["chance"], darker["few fire"]) == (0.6, 0.1, 0.25)
    assert [row["fires"] for row in (plain, darker, blur)] == [False, True, True]
    assert [row["spoils"] for row in (plain, darker, blur)] == [-2.0, 3.0, None]


def test_thresholds_are_told_with_what_they_judge_where_they_were_not_chosen(shifts: Evidence) -> None:
    rows = rows_of(shift_tables(shifts), "When a remedy is due")
    judged = [
        (row["chosen on"], row["tested on"], row["partial from"], row["full from"],
         f"{row['judged wrongly']} of {row['shifts']}", f"{row['of these wrongly']} of {row['with a new trunk']}")
        for row in rows
    ]  # fmt: skip
    assert judged == [
        ("shop, every kind", "the same", pytest.approx(0.4), pytest.approx(0.4), "0 of 4", "0 of 3"),
        ("shop, the other kinds", "darker", 0.5, None, "0 of 2", "1 of 2"),
        ("shop, the other kinds", "blur", pytest.approx(0.4), pytest.approx(0.4), "0 of 1", "0 of 0"),
        ("shop, every kind", "mall", pytest.approx(0.4), pytest.approx(0.4), "1 of 2", "0 of 0"),
        ("mall, every kind", "the same", 0.15, None, "0 of 2", "0 of 0"),
        ("mall, the other kinds", "darker", None, None, "1 of 1", "0 of 0"),
        ("mall, every kind", "shop", 0.15, None, "1 of 4", "1 of 3"),
    ]


def test_a_plot_shows_what_no_action_loses_a_mark_for_each_kind(shifts: Evidence) -> None:
    shop, mall = shift_plots(shifts)
    assert [series["name"] for series in shop["series"]] == ["unshifted", "darker", "blur"]
    assert shop["series"][1]["x"] == [0.2, 0.6]
    assert shop["series"][1]["y"] == pytest.approx([1, 10])
    assert shop["series"][1]["low"] == pytest.approx([0.5, 5])
    assert shop["series"][1]["high"] == pytest.approx([1.5, 15])
    assert [series["name"] for series in mall["series"]] == ["unshifted", "darker"]


def moved(
    name: str, lost: float, low: float, *, seed: int = 0, setting: str = "shop/labels moved"
) -> RunRecord:
    values = {"lost": lost, "map_best": 0.5, "loss": 2 * low, "loss_low": low, "loss_high": 3 * low}
    return record(setting, name, values, seed=seed)


def test_the_threshold_of_moved_labels_is_tested_on_labels_confused_otherwise() -> None:
    rows = [
        moved("0.1 alike", 0.01, 0.002), moved("0.2 alike", 0.05, 0.02),
        moved("0.1 any", 0.02, 0.001), moved("0.2 any", 0.2, 0.05),
    ]  # fmt: skip
    tables = stored_tables(evidence_of(rows))
    found = rows_of(tables, "From where on moved labels call for new codes: shop")
    assert [(row["chosen on"], row["new codes from"]) for row in found] == [
        ("both", pytest.approx(0.035)), ("alike", pytest.approx(0.03)), ("any", pytest.approx(0.11)),
    ]  # fmt: skip
    assert [(row["rows"], row["judged wrongly"]) for row in found] == [(4, 0), (2, 0), (2, 0)]
    assert [(row["rows tested"], row["of these wrongly"]) for row in found] == [(4, 0), (2, 0), (2, 1)]


def test_where_nothing_costs_no_threshold_is_told() -> None:
    rows = [moved("0.1 alike", 0.01, 0.002), moved("0.1 any", 0.5, 0.2)]
    found = rows_of(stored_tables(evidence_of(rows)), "From where on moved labels call for new codes: shop")
    assert [row["new codes from"] for row in found] == [0.255, None, 0.25]
    assert [row["of these wrongly"] for row in found] == [0, 1, 0]


def test_moved_labels_are_shown_in_means_over_seeds_and_points() -> None:
    rows = [moved("0.2 any", 0.1, 0.01), moved("0.2 any", 0.3, 0.03, seed=1)]
    (found,) = rows_of(stored_tables(evidence_of(rows)), "Labels that moved away from their codes: shop")
    assert (found["relabelled"], found["similarity lost"], found["mAP"]) == (
        "0.2 any",
        pytest.approx(0.2),
        50,
    )
    assert (found["lost"], found["bounds"]) == (pytest.approx(4), pytest.approx([2, 6]))


def test_crowding_is_shown_after_each_increment_in_their_order() -> None:
    values: Row = {}
    for step in (10, 2):
        values |= {
            f"smallest_{step}": 0.1 * step, f"mean_{step}": 1.0, f"nearest_{step}": step, f"map_{step}": 0.5,
            f"loss_{step}": 0.02, f"loss_low_{step}": 0.01, f"loss_high_{step}": 0.03,
        }  # fmt: skip
    found = rows_of(
        stored_tables(evidence_of([record("shop/codewords crowd", "8 bits", values)])),
        "Codewords that crowd: shop",
    )
    assert [(row["codes"], row["increment"], row["nearest"]) for row in found] == [
        ("8 bits", 2, 2),
        ("8 bits", 10, 10),
    ]
    assert [row["smallest"] for row in found] == pytest.approx([0.2, 1.0])
    assert (found[0]["retraining finds more"], found[0]["bounds"]) == (2.0, [1.0, 3.0])


def arm(setting: str, name: str, seed: int, map_all: float) -> RunRecord:
    values = {
        "map_all": map_all, "training_seconds": 2.0 + 2 * seed, "old_map_before_1": 0.7, "old_map_after_1": 0.68,
        "map_all_1": map_all, "map_old_1": 0.6,
    }  # fmt: skip
    return record(setting, name, values, seed=seed)


def test_solved_codes_and_network_codes_never_share_a_table() -> None:
    rows = [arm(SOLVED, SHIPPED, 0, 0.9), arm(ENCODED, SHIPPED, 0, 0.5), arm(ENCODED, SHIPPED, 1, 0.6)]
    tables = present(evidence_of(rows))["tables"]
    (solved,) = rows_of(tables, f"Increment by increment: {SOLVED}")
    (encoded,) = rows_of(tables, f"Increment by increment: {ENCODED}")
    assert (solved["all"], encoded["all"]) == (90.0, 55.0)
    assert (solved["old queries lose"], solved["old"]) == (2.0, 60.0)
    assert [encoded[column] for column in ("new", "fused new before", "fused old after", "seconds")] == [
        None
    ] * 4


def test_a_changed_part_is_compared_over_the_seeds_that_both_have() -> None:
    changed = f"{SHIPPED}, no balance"
    rows = [arm(ENCODED, SHIPPED, 0, 0.5), arm(ENCODED, SHIPPED, 1, 0.7), arm(ENCODED, changed, 0, 0.45)]
    (found,) = rows_of(present(evidence_of(rows))["tables"], "Points lost or won by changing one part")
    assert found == {"setting": ENCODED, "arm": changed, "map_all": -5.0, "times as long": 1.0}


def test_a_page_of_less_than_everything_says_first_what_is_missing() -> None:
    places = ("grocery, 4 increments", "union, 5 increments", "fashion_mnist, 1 increment", "words/grocery")
    rows = [arm(f"{place}/{STORES['encoded']}", SHIPPED, seed, 0.5) for place in places for seed in range(10)]
    assert "Unfinished" not in present(evidence_of(rows))["about"]
    assert "10 of 10 seeds; nothing of words yet;" in present(evidence_of(rows[:30]))["about"]
    few = present(evidence_of(rows[:9]))["about"]
    assert few.startswith("**Unfinished: 9 of 10 seeds; nothing of union, fashion_mnist, words yet;")


def test_a_page_without_rows_shows_how_settings_were_chosen_and_no_number() -> None:
    found = present(evidence_of([]))
    assert found["tables"] == [{"title": "How settings were chosen", "rows": CHOICES}]
    assert found["plots"] == []
    assert shift_tables(evidence_of([arm(SOLVED, SHIPPED, 0, np.nan)])) == []
