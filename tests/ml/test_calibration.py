"""Calibration: the fit finds what made the data, thresholds keep promises, the pool keeps the top 10."""

import numpy as np
import pytest

from ml.training.calibration import (
    Fusion,
    OpenSet,
    Similarities,
    calibrate,
    choose_pool_size,
    fit_fusion,
    pool_recall,
    strong_threshold,
    weak_threshold,
)


def made(fusion: Fusion, *, queries: int = 60, entries: int = 400, seed: int = 0) -> Similarities:
    """Similarities whose relevance is drawn from a known fusion."""
    random = np.random.default_rng(seed)
    code = random.uniform(-1, 1, (queries, entries))
    cosine = random.uniform(-1, 1, (queries, entries))
    return Similarities(code, cosine, random.random((queries, entries)) < fusion.probability(code, cosine))


def test_the_fit_recovers_the_weights_that_made_the_data() -> None:
    truth = Fusion(intercept=-8.0, code_weight=4.0, embedding_weight=6.0)

    pairs = made(truth, queries=300)
    found = fit_fusion(pairs, pairs, pool=400)

    total = found.code_weight + found.embedding_weight
    assert found.embedding_weight / total == pytest.approx(0.6, abs=0.1)
    assert total == pytest.approx(10.0, abs=1.0)
    assert found.intercept == pytest.approx(-8.0, abs=1.0)


def test_scores_are_calibrated_probabilities_on_new_data() -> None:
    truth = Fusion(-2.0, 3.5, 3.5)
    pairs = made(truth, queries=200)
    found = fit_fusion(pairs, pairs, pool=400)
    fresh = made(truth, queries=200, seed=1)

    scores = found.probability(fresh.code, fresh.cosine)
    for low in (0.1, 0.3, 0.5, 0.7, 0.9):
        inside = (scores >= low - 0.05) & (scores < low + 0.05)
        assert fresh.relevant[inside].mean() == pytest.approx(scores[inside].mean(), abs=0.03)


@pytest.mark.parametrize(
    ("truth", "zero"), [(Fusion(-1, -2, 4), "code_weight"), (Fusion(-1, 4, -2), "embedding_weight")]
)
def test_a_similarity_that_misleads_gets_no_weight(truth: Fusion, zero: str) -> None:
    found = fit_fusion(made(truth), made(truth, seed=1), pool=400)

    assert getattr(found, zero) == 0.0
    assert max(found.code_weight, found.embedding_weight) > 1.0


def test_the_mix_serves_trained_and_unseen_classes_alike() -> None:
    trained, unseen = made(Fusion(-2, 7, 0)), made(Fusion(-2, 0, 7), seed=1)

    assert fit_fusion(trained, trained, pool=400).embedding_weight == 0.0
    both = fit_fusion(trained, unseen, pool=400)
    assert both.code_weight > 0
    assert both.embedding_weight > 0


def test_similarities_that_point_the_wrong_way_are_refused() -> None:
    pairs = made(Fusion(0.0, -3.0, -3.0))
    with pytest.raises(ValueError, match="relevance falls with similarity"):
        fit_fusion(pairs, pairs, pool=400)


def test_a_fit_without_relevant_pairs_is_refused() -> None:
    pairs = made(Fusion(-2, 3, 4))
    nothing = Similarities(pairs.code, pairs.cosine, np.zeros_like(pairs.relevant))
    with pytest.raises(ValueError, match="0 of 24000 candidate pairs are relevant"):
        fit_fusion(nothing, pairs, pool=400)


def test_strong_is_reached_by_at_most_its_limit_every_group_counting_alike() -> None:
    best = np.concatenate([np.linspace(0, 0.5, 200), np.linspace(0.3, 0.9, 100)])
    groups = ("a",) * 200 + ("b",) * 100

    threshold = strong_threshold(OpenSet(best, groups))

    assert (best[:200] >= threshold).sum() == 0
    assert (best[200:] >= threshold).sum() == 6  # 6 % of one group of two is 3 % of all
    assert (best[200:] >= np.nextafter(threshold, 0.0)).sum() == 7


def test_weak_hides_a_tenth_of_the_correct_best_results() -> None:
    fusion = Fusion(0.0, 1.0, 1.0)
    pairs = made(Fusion(-1, 6, 6), queries=300)
    scores = fusion.probability(pairs.code, pairs.cosine)
    best = scores.argmax(axis=1)
    rows = np.arange(300)
    correct = pairs.relevant[rows, best]

    weak = weak_threshold(pairs, fusion)

    assert (scores[rows, best][correct] < weak).mean() == pytest.approx(0.1, abs=0.01)


def test_the_pool_is_the_smallest_that_keeps_the_exact_top_ten() -> None:
    random = np.random.default_rng(0)
    cosine = random.uniform(-1, 1, (20, 3000))
    code = np.round((cosine + random.normal(0, 0.1, cosine.shape)) * 64) / 64
    pairs = Similarities(code, cosine, cosine > 0.9)
    fusion = Fusion(-1.0, 1.0, 5.0)

    size = choose_pool_size(pairs, fusion)

    assert pool_recall(pairs, fusion, size) >= 0.98
    assert size > 50
    assert pool_recall(pairs, fusion, 50) < 0.98


def test_the_pool_is_everything_when_codes_say_nothing() -> None:
    random = np.random.default_rng(0)
    pairs = Similarities(
        random.uniform(-1, 1, (10, 400)), random.uniform(-1, 1, (10, 400)), np.zeros((10, 400), bool)
    )

    assert choose_pool_size(pairs, Fusion(0.0, 0.0, 1.0)) == 400


def test_pool_recall_equals_a_loop_over_queries() -> None:
    pairs, fusion = made(Fusion(-2, 3, 4)), Fusion(-2.0, 3.0, 4.0)
    expected = []
    for code, cosine in zip(pairs.code, pairs.cosine):
        exact = set(np.argsort(-fusion.probability(code, cosine))[:10].tolist())
        expected.append(len(exact & set(np.argsort(-code, kind="stable")[:50].tolist())) / 10)

    assert pool_recall(pairs, fusion, 50) == pytest.approx(np.mean(expected))


def test_weak_never_exceeds_strong_and_open_queries_must_be_open() -> None:
    known = made(Fusion(-2, 3, 4))
    nothing = np.zeros_like(known.relevant)
    unknown = Similarities(known.code - 0.9, known.cosine - 0.9, nothing)

    calibration = calibrate(known, known, unknown, ("a",) * 60)
    assert calibration.weak <= calibration.strong
    with pytest.raises(ValueError, match="open-set queries must have no relevant entry"):
        calibrate(known, known, known, ("a",) * 60)
