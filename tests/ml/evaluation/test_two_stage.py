"""The whole-gallery form of the two-stage answer ranks as the product's own search does."""

import numpy as np
import pytest

from ml.evaluation.two_stage import CodedSet, answer_values, two_stage_scores
from ml.protocol import Calibration

FIRST = Calibration(intercept=-4.0, code_weight=3.0, embedding_weight=5.0, strong=0.9, weak=0.4, pool_size=20)
SECOND = Calibration(intercept=-6.0, code_weight=6.0, embedding_weight=2.0, strong=0.9, weak=0.4, pool_size=7)


def coded(count: int, seed: int) -> CodedSet:
    random = np.random.default_rng(seed)
    signs = np.where(random.random((count, 64)) < 0.5, -1, 1).astype(np.float32)
    vectors = random.standard_normal((count, 16)).astype(np.float32)
    return CodedSet(signs, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_pools_come_first_in_the_order_of_their_odds_and_the_rest_by_code() -> None:
    queries, gallery = coded(3, 0), coded(60, 1)
    producers = np.arange(60) % 2

    scores = two_stage_scores(queries, gallery, producers, [FIRST, SECOND])

    code, cosine = queries.signs @ gallery.signs.T / 64, queries.embeddings @ gallery.embeddings.T
    for row in range(3):
        pool = set()
        for position, calibration in enumerate((FIRST, SECOND)):
            columns = [column for column in range(60) if column % 2 == position]
            nearest = sorted(columns, key=lambda column: (-code[row, column], column))
            for column in nearest[: calibration.pool_size]:
                odds = calibration.intercept + calibration.code_weight * code[row, column]
                assert scores[row, column] == pytest.approx(
                    odds + calibration.embedding_weight * cosine[row, column], abs=1e-5
                )
                pool.add(column)
        outside = [column for column in range(60) if column not in pool]
        assert len(pool) == 27
        assert scores[row, outside].max() < scores[row, sorted(pool)].min()
        by_score = sorted(outside, key=lambda column: (-scores[row, column], column))
        assert by_score == sorted(outside, key=lambda column: (-code[row, column], column))


def test_what_is_hidden_is_not_in_the_answer_and_takes_no_place_in_a_pool() -> None:
    gallery = coded(10, 1)
    queries = CodedSet(gallery.signs[:1], gallery.embeddings[:1])
    hidden = np.zeros((1, 10), np.bool_)
    hidden[0, 0] = True
    tiny = Calibration(-4.0, 3.0, 5.0, 0.9, 0.4, pool_size=1)

    scores = two_stage_scores(queries, gallery, np.zeros(10, np.int64), [tiny], hidden=hidden)

    assert scores[0, 0] == -np.inf
    assert (scores[0] > -1000).sum() == 1  # the pool of one holds the next nearest


def test_figures_of_known_rankings() -> None:
    scores = np.array([[3.0, 2.0, 1.0, -np.inf], [3.0, 2.0, 1.0, 0.0], [1.0, 2.0, 3.0, -np.inf]])
    relevant = np.array([[True, False, True, True], [False, False, True, False], [False] * 3 + [True]])

    values = answer_values(scores, relevant)

    assert values["map"][:2] == pytest.approx([(1 + 2 / 3) / 2, 1 / 3])
    assert values["recall_at_1"][:2].tolist() == [1.0, 0.0]
    assert values["recall_at_10"][:2].tolist() == [1.0, 1.0]
    assert values["mrr"][:2] == pytest.approx([1.0, 1 / 3])
    assert all(
        np.isnan(found[2]) for found in values.values()
    )  # its only relevant entry is not in its gallery
