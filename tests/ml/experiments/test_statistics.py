"""Intervals and tests: against SciPy, by hand, by a planted effect that must be found and a null that must not."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ml.experiments.statistics import (
    Resampled,
    holm,
    holm_intervals,
    mean_interval,
    paired_difference,
    resampled_difference,
    resampled_mean,
    resampled_ratio,
)

Values = NDArray[np.float64]


def alone(count: int) -> NDArray[np.int64]:
    """Each query its own item."""
    return np.arange(count)


def simulated(
    rng: np.random.Generator, *, of_seed: float, of_item: float, of_both: float, effect: float = 0.0
) -> Values:
    """Differences (5 seeds, 40 items of 3 alike queries) around `effect`."""
    items = rng.normal(0, of_item, (1, 40)) + rng.normal(0, of_seed, (5, 1)) + rng.normal(0, of_both, (5, 40))
    values: Values = np.repeat(items, 3, axis=1) + effect
    return values


def test_one_value_per_seed_gives_the_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 1, (2, 6, 1))
    found = paired_difference(a, b, alone(1), seed=0, draws=200_000)
    expected = stats.ttest_rel(a[:, 0], b[:, 0])
    low, high = expected.confidence_interval(0.95)

    assert found.value == pytest.approx(np.mean(a - b))
    assert found.p == pytest.approx(expected.pvalue, abs=0.005)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert (found.n_seeds, found.n_clusters) == (6, 1)


def test_one_seed_gives_scipys_bootstrap_of_the_paired_difference() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 1, 300))
    found = paired_difference(a, b, alone(300), seed=0)
    expected = stats.bootstrap(
        (a[0] - b[0],), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval

    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.002)


def test_a_ratio_of_one_seed_is_scipys_paired_bootstrap_of_the_ratio() -> None:
    rng = np.random.default_rng(4)
    a = rng.random((1, 200))
    b = a + rng.random((1, 200))
    found = resampled_ratio(a, b, alone(200), seed=0).estimate()
    expected = stats.bootstrap(
        (a[0], b[0]),
        lambda x, y, axis: x.mean(axis=axis) / y.mean(axis=axis),
        paired=True,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval

    assert found.value == pytest.approx(a.mean() / b.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.003)


def test_a_ratio_varies_with_its_seeds_as_the_difference_does() -> None:
    a = np.array([[0.9], [1.0], [1.1], [1.0]])
    ratio = resampled_ratio(a, np.full((4, 1), 2.0), alone(1), seed=0).estimate()
    mean = resampled_mean(a, alone(1), seed=0).estimate()

    assert (2 * ratio.low, 2 * ratio.high) == pytest.approx((mean.low, mean.high))


def test_items_are_drawn_with_all_of_their_queries() -> None:
    # Items 0 (1, 1, 1) and 1 (0): a draw holds 0 twice, both, or 1 twice: 1, 3 / 4 or 0, one, two, one in four.
    drawn = resampled_mean(np.array([[1.0, 1, 1, 0]]), np.array([0, 0, 0, 1]), seed=0)

    assert drawn.value == 0.75
    assert np.unique(drawn.draws).tolist() == [0, 0.75, 1]
    assert np.mean(drawn.draws == 0.75) == pytest.approx(0.5, abs=0.02)


def test_asking_the_same_item_ten_times_adds_no_certainty() -> None:
    values = np.random.default_rng(6).random((1, 50))
    once = mean_interval(values, alone(50), seed=0)
    tenfold = mean_interval(np.repeat(values, 10, axis=1), np.repeat(alone(50), 10), seed=0)

    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))
    assert tenfold.n_clusters == 50


def test_what_items_are_called_does_not_change_the_draws() -> None:
    values = np.random.default_rng(12).random((2, 30))
    names = np.array([f"shelf {30 - index // 2}" for index in range(30)])

    assert mean_interval(values, names, seed=0) == mean_interval(values, alone(30) // 2, seed=0)


def test_a_query_without_a_value_in_one_seed_is_left_out_of_all() -> None:
    a = np.array([[1.0, 0.5, np.nan], [1.0, 0.5, 7.0]])
    found = paired_difference(a, np.zeros((2, 3)), alone(3), seed=0)

    assert (found.value, found.n_clusters) == (0.75, 2)


@pytest.mark.parametrize(
    "spread",
    [
        {"of_seed": 1.0, "of_item": 1.0, "of_both": 1.0},
        {"of_seed": 0.0, "of_item": 0.0, "of_both": 1.0},
        {"of_seed": 0.0, "of_item": 1.0, "of_both": 0.3},
    ],
)
def test_a_null_is_claimed_in_no_more_than_one_case_in_twenty(spread: dict[str, float]) -> None:
    rng, items, missed = np.random.default_rng(7), np.repeat(alone(40), 3), 0
    for _ in range(200):
        found = mean_interval(simulated(rng, **spread), items, seed=0, draws=500)
        missed += not found.low <= 0 <= found.high

    assert stats.binomtest(missed, 200, 0.05, alternative="greater").pvalue > 0.01  # at most 18 of 200


def test_a_planted_effect_is_found() -> None:
    rng, items = np.random.default_rng(8), np.repeat(alone(40), 3)
    base = simulated(rng, of_seed=3, of_item=3, of_both=0)  # what both share, and pairing must cancel
    better = base + simulated(rng, of_seed=0.1, of_item=0.1, of_both=0.3, effect=0.3)
    paired = paired_difference(better, base, items, seed=0)

    assert 0 < paired.low < 0.3 < paired.high
    assert paired.p < 0.01
    assert mean_interval(better, items, seed=0).low < 0  # unpaired it would drown


def test_p_is_never_below_what_the_draws_can_tell() -> None:
    sure = resampled_mean(np.ones((1, 10)), alone(10), seed=0, draws=1000)

    assert sure.p_value(0.0) == 0.001
    assert sure.p_value(1.0) == 1.0
    assert sure.estimate() == mean_interval(np.ones((1, 10)), alone(10), seed=9, draws=1000)


def test_the_same_seed_draws_the_same() -> None:
    values = np.random.default_rng(9).random((3, 20))
    first, again, other = (mean_interval(values, alone(20), seed=seed, draws=400) for seed in (0, 0, 1))

    assert first == again
    assert first.low != other.low


def test_holm_steps_down_as_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([0.04]).tolist() == [0.04]


def shifted(mean: float) -> Resampled:
    """Normal draws around `mean` with standard deviation 1."""
    draws = mean + stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    return Resampled(mean, draws, 5, 100)


def test_a_family_s_intervals_leave_out_zero_where_holm_rejects() -> None:
    cells = [shifted(2.1), shifted(3.0), shifted(2.3)]  # p about 0.036, 0.003, 0.021
    found = holm_intervals(cells, [0.0] * 3)
    half_widths = [cell.high - cell.value for cell in found]

    assert [cell.low > 0 for cell in found] == [True, True, True]
    assert half_widths == pytest.approx(stats.norm.ppf([0.975, 1 - 0.05 / 6, 0.9875]), abs=0.01)
    assert [cell.p for cell in found] == pytest.approx([0.043, 0.0081, 0.043], abs=0.001)


def test_after_the_first_cell_that_is_not_rejected_none_is() -> None:
    found = holm_intervals([shifted(3.0), shifted(2.1), shifted(2.2)], [0.0] * 3)  # 2.2: p 0.028 > 0.05 / 2

    assert [cell.low > 0 for cell in found] == [True, False, False]
    assert [cell.p <= 0.05 for cell in found] == [True, False, False]


def test_a_cell_alone_keeps_its_plain_interval() -> None:
    a, b = np.random.default_rng(10).random((2, 4, 30))
    cell = resampled_difference(a, b, alone(30), seed=0)

    assert holm_intervals([cell], [0.0]) == [cell.estimate()]


@pytest.mark.parametrize(
    ("shape", "clusters", "words"),
    [((2, 3), 4, "shapes"), ((3,), 3, "shapes"), ((0, 3), 3, "at least one")],
)
def test_values_that_do_not_fit_are_refused(shape: tuple[int, ...], clusters: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resampled_mean(np.zeros(shape), alone(clusters), seed=0)
    with pytest.raises(ValueError, match="no query has a value"):
        resampled_mean(np.full((2, 3), np.nan), alone(3), seed=0)
    with pytest.raises(ValueError, match="divide by is 0"):
        resampled_ratio(np.ones((1, 3)), np.zeros((1, 3)), alone(3), seed=0)
