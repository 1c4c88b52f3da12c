"""Metrics against hand values, a naive loop and, for ties, every permutation."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.evaluation.metrics import (
    Ranking,
    average_precision,
    match_curve,
    mean_of,
    recall_at,
    reciprocal_rank,
)


def ranked(scores: list[float], relevant: list[int], *, ids: list[int] | None = None) -> Ranking:
    ids = ids if ids is not None else list(range(len(scores)))
    return Ranking.of(np.array(scores), np.array(relevant), np.array(ids, np.int64), label=1)


def naive_average_precision(relevant: tuple[int, ...], k: int | None) -> float:
    hits, total = 0, 0.0
    for position, is_relevant in enumerate(relevant, start=1):
        if k is not None and position > k:
            break
        if is_relevant:
            hits += 1
            total += hits / position
    count = sum(relevant)
    return total / (count if k is None else min(k, count))


def test_values_of_a_ranking_without_ties_match_the_hand_calculation() -> None:
    ranking = ranked([0.9, 0.8, 0.7, 0.6, 0.5], [0, 1, 0, 1, 0])
    assert average_precision(ranking) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert average_precision(ranking, 3) == pytest.approx((1 / 2) / 2)
    assert average_precision(ranking, 1) == 0.0
    assert reciprocal_rank(ranking) == 1 / 2
    assert [recall_at(ranking, k) for k in (1, 2, 3, 99)] == [0.0, 1.0, 1.0, 1.0]
    assert match_curve(ranking, 4).tolist() == [0.0, 1.0, 1.0, 1.0]


def test_a_perfect_answer_is_worth_one_at_every_depth() -> None:
    ranking = ranked([3, 2, 1, 0], [1, 1, 0, 0])
    assert [average_precision(ranking, k) for k in (1, 2, 3, None)] == [1.0] * 4


def test_ties_in_a_single_order_go_to_the_smaller_gallery_id() -> None:
    assert recall_at(ranked([1, 1, 1], [0, 1, 0], ids=[20, 10, 30]), 1) == 1.0
    assert recall_at(ranked([1, 1, 1], [0, 1, 0], ids=[10, 20, 30]), 1) == 0.0
    assert reciprocal_rank(ranked([1, 1, 1], [0, 0, 1], ids=[2, 3, 9])) == 1 / 3


def test_average_precision_does_not_depend_on_ids() -> None:
    one = average_precision(ranked([1, 1, 1], [0, 1, 0], ids=[20, 10, 30]))
    other = average_precision(ranked([1, 1, 1], [0, 1, 0], ids=[10, 20, 30]))
    assert one == other == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


@settings(max_examples=120, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6),
    k=st.one_of(st.none(), st.integers(1, 7)),
)
def test_average_precision_is_the_mean_over_all_orders_of_equal_scores(
    rows: list[tuple[int, bool]], k: int | None
) -> None:
    scores, relevant = [row[0] for row in rows], [int(row[1]) for row in rows]
    value = average_precision(ranked([float(score) for score in scores], relevant), k)
    if not any(relevant):
        assert np.isnan(value)
        return
    orders = [
        order
        for order in permutations(range(len(rows)))
        if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    brute = [naive_average_precision(tuple(relevant[row] for row in order), k) for order in orders]
    assert value == pytest.approx(sum(brute) / len(brute))


def test_a_query_without_a_relevant_entry_has_no_value_and_is_counted() -> None:
    ranking = ranked([2, 1], [0, 0])
    values = [
        recall_at(ranking, 1),
        reciprocal_rank(ranking),
        average_precision(ranking),
        *match_curve(ranking, 2),
    ]
    assert np.isnan(values).all()
    assert mean_of(np.array([1.0, np.nan, 0.5])) == (0.75, 1)
    mean, without = mean_of(np.array([np.nan]))
    assert np.isnan(mean)
    assert without == 1


def test_an_empty_gallery_has_no_value() -> None:
    assert np.isnan(average_precision(ranked([], [])))


def test_a_query_in_the_gallery_does_not_find_itself() -> None:
    scores, labels, ids = np.array([1.0, 0.5, 0.2]), np.array([1, 0, 1]), np.array([7, 8, 9])
    assert recall_at(Ranking.of(scores, labels, ids, label=1), 1) == 1.0
    assert recall_at(Ranking.of(scores, labels, ids, label=1, left_out=7), 1) == 0.0
    assert average_precision(Ranking.of(scores, labels, ids, label=1, left_out=7)) == 1 / 2
    assert np.isnan(average_precision(Ranking.of(scores[:2], labels[:2], ids[:2], label=1, left_out=7)))


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one_is_refused(k: int) -> None:
    ranking = ranked([1.0], [1])
    for metric in (recall_at, match_curve, average_precision):
        with pytest.raises(ValueError, match=f"k is {k}, it must be at least 1"):
            metric(ranking, k)


def test_bad_rankings_are_refused() -> None:
    with pytest.raises(ValueError, match="2 scores, 1 labels and 2 ids do not match"):
        Ranking.of(np.zeros(2), np.array([1]), np.array([1, 2]), label=1)
    with pytest.raises(ValueError, match="a gallery id is repeated"):
        ranked([1, 2], [1, 0], ids=[4, 4])
    with pytest.raises(ValueError, match="a score is not a number"):
        ranked([1, float("nan")], [1, 0])
