"""Criteria of backward compatibility: printed figures come out again, neutral points are neutral, flips are counted."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.evaluation.compatibility import (
    Figures,
    empirical_criterion,
    flips,
    old_shares,
    pointwise_shares,
    relative_flip_rate,
    sampled_pairs,
    summary_scores,
    update_gain,
)
from ml.evaluation.metrics import mean_of
from ml.evaluation.retrieval import retrieval_values

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
NAN = math.nan

OLD, INDEPENDENT = (75.45, 49.15, 10.03), (81.15, 63.85, 16.48)  # RParis, ROxford, GLDv2-test
OWN, CROSS = (80.58, 56.34, 14.61), (77.37, 49.66, 11.30)  # of BCT: extended data, R18


def world(seed: int) -> tuple[Floats, Ints, Floats, Ints]:
    """Queries, their classes, entries and theirs, of six overlapping classes on a sphere."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(6, 8))
    labels, gallery_labels = rng.integers(0, 6, 40), rng.integers(0, 6, 120)
    queries, gallery = (
        centres[chosen] + 1.5 * rng.normal(size=(len(chosen), 8)) for chosen in (labels, gallery_labels)
    )
    return unit(queries), labels, unit(gallery), gallery_labels


def unit(vectors: NDArray[np.float64]) -> Floats:
    found: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found


def right(*values: float) -> NDArray[np.float64]:
    return np.array(values)


def test_the_printed_row_of_the_benchmark_comes_out_again() -> None:
    scores = summary_scores([Figures(*values) for values in zip(OWN, CROSS, OLD, INDEPENDENT)])
    assert [100 * score for score in scores] == pytest.approx((48.02, 54.71, 51.13), abs=0.005)


def test_p_1_is_the_mean_of_harmonic_means_and_not_the_harmonic_mean_of_means() -> None:
    one, other = Figures(20.0, 12.0, 10.0, 15.0), Figures(10.0, 15.0, 10.0, 15.0)

    scores = summary_scores([one, other])

    alone = [summary_scores([figures]) for figures in (one, other)]
    for score in alone:
        assert score.both == pytest.approx(2 / (1 / score.up + 1 / score.compatible))
    assert scores.both == pytest.approx((alone[0].both + alone[1].both) / 2)
    assert abs(scores.both - 2 / (1 / scores.up + 1 / scores.compatible)) > 0.002


def test_the_gain_is_nothing_at_the_old_system_all_at_the_upper_bound_and_negative_below() -> None:
    assert update_gain(cross=0.5, old=0.5, upper=0.75) == 0.0
    assert update_gain(cross=0.75, old=0.5, upper=0.75) == 1.0
    assert update_gain(cross=0.25, old=0.5, upper=0.75) == -1.0


def test_scores_are_a_half_at_the_neutral_points() -> None:
    neutral = summary_scores([Figures(own=0.8, cross=0.5, old=0.5, independent=0.8)] * 2)
    assert neutral == pytest.approx((0.5, 0.5, 0.5), abs=1e-15)
    assert summary_scores([Figures(0.8, 0.8, 0.5, 0.8)]).compatible == pytest.approx(1 / (1 + math.exp(-1)))


def test_an_encoder_that_did_not_change_gains_nothing_and_flips_nothing() -> None:
    queries, labels, gallery, gallery_labels = world(0)

    values = [retrieval_values(queries, labels, gallery, gallery_labels) for _ in range(2)]
    old, cross = values
    assert 0 < old.means()["recall_at_1"] < 1

    assert update_gain(cross.means()["map_at_100"], old.means()["map_at_100"], 1.0) == 0.0
    assert mean_of(flips(old.recall_at_1, cross.recall_at_1).negative)[0] == 0.0
    assert relative_flip_rate(old.recall_at_1, cross.recall_at_1) == 0.0
    assert not empirical_criterion(cross.map_at_100, old.map_at_100, np.arange(40), seed=0).holds


def test_where_independent_training_brings_nothing_there_is_no_gain_to_speak_of() -> None:
    assert math.isnan(update_gain(cross=0.6, old=0.5, upper=0.5))
    assert math.isnan(update_gain(cross=0.3, old=0.5, upper=0.4))  # else a loss would read as a gain
    scores = summary_scores([Figures(0.8, 0.6, 0.5, 0.8), Figures(0.4, 0.3, 0.5, 0.4)])
    assert math.isnan(scores.compatible)
    assert scores.up == pytest.approx(0.5)


def test_scores_need_a_set_and_an_independent_encoder_that_finds_something() -> None:
    with pytest.raises(ValueError, match=r"independent values are \[\]: one or more, each above 0"):
        summary_scores([])
    with pytest.raises(ValueError, match=r"independent values are \[0.0\]"):
        summary_scores([Figures(0.5, 0.5, 0.5, 0.0)])


def test_four_queries_flip_as_counted_by_hand() -> None:
    old, new = right(1, 1, 0, 1), right(1, 0, 1, 0)

    found = flips(old, new)

    assert found.negative.tolist() == [0, 1, 0, 1]
    assert found.positive.tolist() == [0, 0, 1, 0]
    assert mean_of(found.negative) == (0.5, 0)
    assert relative_flip_rate(old, new) == pytest.approx(0.5 / (0.75 * 0.5))


def test_queries_without_a_relevant_entry_are_left_out_of_every_rate() -> None:
    old, new = right(1, 1, 0, 1, NAN, 1), right(1, 0, 1, 0, 0, NAN)

    found = flips(old, new)

    assert np.isnan(found.negative).tolist() == [False] * 4 + [True] * 2
    assert np.isnan(found.positive).tolist() == [False] * 4 + [True] * 2
    assert mean_of(found.negative) == (0.5, 2)
    assert relative_flip_rate(old, new) == pytest.approx(0.5 / (0.75 * 0.5))


def test_no_more_can_flip_than_was_right() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        old, new = (rng.random(20) < rng.random() for _ in range(2))
        negative = flips(old.astype(float), new.astype(float)).negative
        assert mean_of(negative)[0] <= old.mean() + 1e-12
    assert mean_of(flips(right(1, 1, 0), right(0, 0, 0)).negative)[0] == pytest.approx(2 / 3)


def test_independent_errors_flip_at_the_relative_rate_of_one() -> None:
    rng = np.random.default_rng(1)
    old, new = ((rng.random(200_000) < share).astype(float) for share in (0.7, 0.8))
    assert relative_flip_rate(old, new) == pytest.approx(1.0, abs=0.02)


def test_where_nothing_could_flip_there_is_no_relative_rate() -> None:
    assert math.isnan(relative_flip_rate(right(0, 0), right(0, 1)))
    assert math.isnan(relative_flip_rate(right(1, 0), right(1, 1)))


def test_answers_that_are_neither_right_nor_wrong_or_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"whether a query is right is 0.5, it must be 0, 1 or NaN"):
        flips(right(1, 0.5), right(1, 0))
    with pytest.raises(ValueError, match="2 old answers but 1 new ones"):
        relative_flip_rate(right(1, 0), right(1))


def test_the_criterion_needs_the_lower_bound_above_nothing_and_not_only_the_mean() -> None:
    rng = np.random.default_rng(2)
    old, items = rng.random(60), np.repeat(np.arange(20), 3)

    surely, perhaps = old + 0.05, old + 0.02 + 0.5 * rng.normal(size=60)

    assert empirical_criterion(surely, old, items, seed=0).holds
    unsure = empirical_criterion(perhaps, old, items, seed=0)
    assert unsure.gain.value > 0
    assert not unsure.holds
    assert unsure.gain.clusters == 20
    with_missing = np.where(np.arange(60) < 3, NAN, surely)
    assert empirical_criterion(with_missing, old, items, seed=0).gain.clusters == 19


def test_the_pointwise_share_is_that_of_pairs_which_moved_the_right_way() -> None:
    entries = np.array([[1, 0], [0, 1]], np.float32)
    old = unit(np.array([[1.0, 1.0], [1.0, 1.0]]))
    new = unit(np.array([[2.0, 1.0], [1.0, 2.0]]))  # each towards an entry: the first its own, the second not
    pairs, same = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([True, False, True, False])

    assert pointwise_shares(new, old, entries, pairs, same) == (0.5, 0.5, 0.5)
    assert pointwise_shares(new, old, entries, pairs[:2], same[:2]) == (1.0, 1.0, 1.0)
    assert pointwise_shares(old, old, entries, pairs, same) == (1.0, 1.0, 1.0)  # no nearer, no farther
    only_same = pointwise_shares(new, old, entries, pairs[[0, 2]], same[[0, 2]])
    assert only_same[:2] == (0.5, 0.5)
    assert math.isnan(only_same.different)
    with pytest.raises(ValueError, match="4 pairs but 2 flags"):
        pointwise_shares(new, old, entries, pairs, same[:2])


def test_sampled_pairs_are_half_of_one_class_and_stay_the_same() -> None:
    _, labels, _, gallery_labels = world(3)
    labels = np.where(np.arange(40) < 5, -1, labels)

    pairs = sampled_pairs(labels, gallery_labels, count=200, seed=0)

    same = labels[pairs[:, 0]] == gallery_labels[pairs[:, 1]]
    assert (len(pairs), int(same.sum())) == (200, 100)
    assert (labels[pairs[:, 0]] >= 0).all()
    assert pairs.tolist() == sampled_pairs(labels, gallery_labels, count=200, seed=0).tolist()
    assert len(np.unique(pairs[:, 0])) > 25
    alone = sampled_pairs(np.array([0, 0]), np.array([0, 0, 0]), count=10, seed=0)
    assert len(alone) == 5  # there is no other class


def test_old_entries_have_the_share_of_the_best_answers_that_is_counted_by_hand() -> None:
    is_old = np.array([True, True, False, False, False])
    scores = np.array([[5.0, 4, 3, 2, 1], [1, 2, 3, 4, 5], [3, 3, 3, 3, 3], [5, 4, 3, 2, 1]])
    relevant = np.array([[1, 0, 1, 0, 0], [0, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], np.bool_)

    shares = old_shares(scores, relevant, is_old, top=4)

    assert shares.found[:3].tolist() == [2 / 4, 1 / 4, 2 / 4]  # equal scores: the lower column first
    assert shares.expected[:3].tolist() == [1 / 2, 1 / 4, 1.0]
    assert np.isnan([shares.found[3], shares.expected[3]]).all()  # nothing to find
    assert old_shares(scores, relevant, is_old).found[:3].tolist() == [2 / 5] * 3  # fewer than ten entries
    with pytest.raises(ValueError, match=r"scores \(4, 5\), relevant \(4, 5\), is_old \(4,\)"):
        old_shares(scores, relevant, is_old[:4])
