"""The bootstrap against closed forms, a naive loop, and the reason it is clustered."""

import math

import numpy as np
import pytest
from scipy import stats

from ml.evaluation.intervals import (
    Interval,
    clustered_interval,
    paired_interval,
    rate_interval,
    student_interval,
    student_quantile,
)


def test_the_value_is_the_plain_mean_over_queries() -> None:
    interval = clustered_interval(np.array([1.0, 0.0, 1.0, 1.0]), np.array([1, 1, 1, 2]), seed=0)
    assert interval.value == 0.75
    assert interval.clusters == 2


def test_two_items_of_two_values_give_the_bounds_that_can_be_enumerated() -> None:
    """Draws are (a,a), (a,b), (b,a), (b,b): means 0, 1/2, 1/2, 1 with chances 1/4, 1/2, 1/4."""
    interval = clustered_interval(np.array([0.0, 0.0, 1.0, 1.0]), np.array([5, 5, 9, 9]), seed=1)
    assert interval == Interval(0.5, 0.0, 1.0, 2)
    narrow = clustered_interval(
        np.array([0.0, 0.0, 1.0, 1.0]), np.array([5, 5, 9, 9]), seed=1, confidence=0.4
    )
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_independent_queries_give_the_normal_width() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, 2000)
    interval = clustered_interval(values, np.arange(2000), seed=2)
    width = 1.96 * values.std() / np.sqrt(2000)
    assert interval.high - interval.value == pytest.approx(width, rel=0.08)
    assert interval.value - interval.low == pytest.approx(width, rel=0.08)


def test_ten_copies_of_each_query_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).random(100)
    once = clustered_interval(values, np.arange(100), seed=3)
    copied = clustered_interval(np.repeat(values, 10), np.repeat(np.arange(100), 10), seed=3)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_bounds_equal_those_of_a_naive_loop() -> None:
    rng = np.random.default_rng(4)
    values, items = rng.random(50), rng.integers(0, 12, 50)
    names = np.unique(items)
    drawing = np.random.default_rng(9)
    means = []
    for chosen in drawing.integers(0, len(names), (200, len(names))):
        pooled = np.concatenate([values[items == names[position]] for position in chosen])
        means.append(pooled.mean())
    interval = clustered_interval(values, items, seed=9, draws=200)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_one_seed_gives_one_interval() -> None:
    values = np.random.default_rng(0).random(30)
    assert clustered_interval(values, np.arange(30), seed=5) == clustered_interval(
        values, np.arange(30), seed=5
    )
    assert clustered_interval(values, np.arange(30), seed=5) != clustered_interval(
        values, np.arange(30), seed=6
    )


def test_pairing_cancels_what_both_share() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.random(400)
    better = baseline + 0.01 + rng.normal(0, 0.01, 400)
    items = np.arange(400) // 4

    paired = paired_interval(better, baseline, items, seed=0)
    alone = clustered_interval(better, items, seed=0)

    assert paired.value == pytest.approx(0.01, abs=0.002)
    assert paired.low > 0
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)


def test_queries_without_a_value_are_left_out_of_both() -> None:
    values, baseline = np.array([1.0, np.nan, 0.5]), np.array([0.5, 0.1, np.nan])
    assert paired_interval(values, baseline, np.arange(3), seed=0) == Interval(0.5, 0.5, 0.5, 1)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 values but 1 item ids"):
        clustered_interval(np.zeros(2), np.array([1]), seed=0)
    with pytest.raises(ValueError, match="2 values but 1 baseline values"):
        paired_interval(np.zeros(2), np.zeros(1), np.zeros(2, np.int64), seed=0)
    with pytest.raises(ValueError, match="no query has a value"):
        clustered_interval(np.array([np.nan]), np.array([1]), seed=0)
    with pytest.raises(ValueError, match="draws is 0"):
        clustered_interval(np.zeros(2), np.arange(2), seed=0, draws=0)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 501])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.99975])
def test_quantiles_of_student_s_t_are_those_of_the_tables(probability: float, freedom: int) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(
        stats.t.ppf(probability, freedom), rel=1e-7
    )


def test_the_interval_by_student_of_single_queries_is_the_usual_one() -> None:
    values = np.array([0.1, 0.4, np.nan, 0.2, 0.9, 0.3])
    found = student_interval(values, np.arange(6), confidence=0.99)
    present = values[~np.isnan(values)]
    low, high = stats.t.interval(0.99, 4, present.mean(), stats.sem(present))
    assert (found.value, found.low, found.high) == pytest.approx((present.mean(), low, high))
    assert found.clusters == 5


def test_the_interval_by_student_holds_as_often_as_it_says_for_items_of_several_photos() -> None:
    rng, held, rounds = np.random.default_rng(0), 0, 1000
    for _ in range(rounds):
        items = np.repeat(np.arange(8), 4)
        values = rng.normal(0.0, 1.0, 8)[items] + rng.normal(0.0, 0.1, 32)
        found = student_interval(values, items, confidence=0.95)
        held += found.low <= 0 <= found.high
    assert held / rounds == pytest.approx(0.95, abs=0.02)


def test_of_one_item_the_interval_by_student_knows_nothing() -> None:
    found = student_interval(np.array([0.5, 0.7]), np.array([3, 3]), confidence=0.95)
    assert (found.low, found.high, found.clusters) == (-math.inf, math.inf, 1)


def test_a_share_of_none_or_all_is_as_unsure_as_so_many_items_leave_it() -> None:
    items = np.repeat(np.arange(30), 2)
    never, always = (rate_interval(np.full(60, share), items, seed=0) for share in (0.0, 1.0))
    assert (never.value, never.low) == (0.0, 0.0)
    assert (1 - never.high) ** 30 == pytest.approx(0.025)
    assert (always.high, 1 - always.low) == (1.0, never.high)
    flags = np.array([1.0, 0.0] * 30)
    assert rate_interval(flags, items, seed=0) == clustered_interval(flags, items, seed=0)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_a_confidence_outside_0_to_1_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        student_interval(np.array([0.1, 0.2]), np.arange(2), confidence=confidence)
    with pytest.raises(ValueError, match="no query has a value"):
        student_interval(np.array([np.nan]), np.arange(1), confidence=0.9)
    with pytest.raises(ValueError, match=r"0\.5 to 1"):
        student_quantile(confidence or 0.4, 3)
