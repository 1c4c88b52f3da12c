"""Batched retrieval metrics against the query-by-query oracle of ml.evaluation.metrics."""

from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ml.evaluation import retrieval
from ml.evaluation.metrics import Ranking, average_precision, recall_at
from ml.evaluation.retrieval import RetrievalValues, retrieval_values, signs_of

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def by_oracle(scores: Floats, label: int, gallery_labels: Ints, left_out: int | None) -> dict[str, float]:
    """Every metric of one query, from the naive ranking and plain loops."""
    ids = np.arange(len(gallery_labels))
    ranking = Ranking.of(scores, gallery_labels, ids, label=label, left_out=left_out)
    wanted = int(ranking.relevant.sum())
    if label < 0 or wanted == 0:
        return dict.fromkeys([field.name for field in fields(RetrievalValues)], float("nan"))
    order = [row for row in np.lexsort((ids, -scores)) if row != left_out]
    nearest = [int(gallery_labels[row]) for row in order[:5]]
    votes = Counter(found for found in nearest if found >= 0)
    winner = next((one for one in nearest if votes[one] == max(votes.values())), -1) if votes else -1
    values = {f"recall_at_{k}": recall_at(ranking, k) for k in (1, 5, 10)}
    values |= {f"precision_at_{k}": float(ranking.relevant[:k].mean()) for k in (10, 100)}
    values |= {
        "map_at_100": average_precision(ranking, 100),
        "map_at_1000": average_precision(ranking, 1000),
        "map_at_r": average_precision(ranking, wanted),
        "map": average_precision(ranking),
        "knn_5": float(winner == label),
    }
    return values


def assert_equal_to_oracle(
    queries: Floats, labels: Ints, gallery: Floats, gallery_labels: Ints, left_out: Ints | None = None
) -> None:
    scores = queries @ gallery.T
    deep = retrieval_values(queries, labels, gallery, gallery_labels, left_out=left_out).per_query()
    shallow, thousand = (
        retrieval_values(
            queries, labels, gallery, gallery_labels, left_out=left_out, deep=False, thousand=asked
        ).per_query()
        for asked in (False, True)
    )
    assert set(deep) - set(shallow) == {"map"}
    assert set(thousand) - set(shallow) == {"map_at_1000"}
    for row, label in enumerate(labels):
        out = None if left_out is None or left_out[row] < 0 else int(left_out[row])
        expected = by_oracle(scores[row], int(label), gallery_labels, out)
        for found in (deep, shallow, thousand):
            assert {name: values[row] for name, values in found.items()} == pytest.approx(
                {name: expected[name] for name in found}, abs=1e-10, nan_ok=True
            )


def small_integers(rng: np.random.Generator, count: int, width: int) -> Floats:
    return rng.integers(-1, 2, (count, width)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([1, 3, 7, 40, 130, 260]),
    width=st.integers(1, 6),
    classes=st.integers(1, 6),
    leave_out=st.booleans(),
)
def test_every_metric_equals_the_oracle_where_scores_tie_in_their_dozens(
    seed: int, size: int, width: int, classes: int, leave_out: bool
) -> None:
    rng = np.random.default_rng(seed)
    left_out = rng.integers(-1, size, 5) if leave_out else None
    assert_equal_to_oracle(
        small_integers(rng, 5, width),
        rng.integers(-1, classes, 5),
        small_integers(rng, size, width),
        rng.integers(-1, classes, size),
        left_out,
    )


def test_every_metric_equals_the_oracle_on_unit_vectors_with_copies_in_several_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, 16))
    labels = rng.integers(0, 8, 400)
    vectors = (centres[labels] + rng.normal(size=(400, 16))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[200:220] = vectors[:20]  # copies: equal scores among different ones
    monkeypatch.setattr(retrieval, "_BLOCK_SCORES", 7 * 340)
    assert_equal_to_oracle(vectors[:60], labels[:60], vectors[60:], labels[60:])


def test_hamming_answers_tie_as_the_oracle_of_the_distances_says() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (300, 2)).astype(np.uint8)  # 16 bits: seventeen distances among 280 entries
    labels = rng.integers(0, 5, 300)
    signs = signs_of(codes)
    assert_equal_to_oracle(signs[:20], labels[:20], signs[20:], labels[20:])

    distances = np.bitwise_count(codes[:20, None] ^ codes[None, 20:]).sum(axis=2, dtype=np.int64)
    assert (signs[:20] @ signs[20:].T == 16 - 2 * distances).all()
    values = retrieval_values(signs[:20], labels[:20], signs[20:], labels[20:])
    assert values.map is not None
    for row in range(20):
        ranking = Ranking.of(-distances[row].astype(float), labels[20:], np.arange(280), label=labels[row])
        assert values.map[row] == pytest.approx(average_precision(ranking), abs=1e-10)


def test_average_precision_at_a_thousand_looks_at_a_thousand_places_and_asks_for_no_more() -> None:
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 256, (2_300, 2)).astype(np.uint8)
    signs, labels = signs_of(codes), rng.choice(2, 2_300, p=[0.95, 0.05])  # more and fewer than a thousand
    queries = (signs[:12], labels[:12])
    for deep in (False, True):
        values = retrieval_values(*queries, signs[12:], labels[12:], deep=deep, thousand=True)
        assert values.map_at_1000 is not None
        for row in range(12):
            expected = by_oracle(signs[row] @ signs[12:].T, int(labels[row]), labels[12:], None)
            assert values.map_at_1000[row] == pytest.approx(expected["map_at_1000"], abs=1e-10)
            assert abs(expected["map_at_1000"] - expected["map"]) > 0.001


def test_the_two_zeros_of_floats_are_one_score() -> None:
    keys = retrieval._keys(np.array([[-0.0, 0.0, 1e-30, -1e-30]], np.float32), np.zeros((1, 4), np.bool_))
    assert np.argsort(keys[0]).tolist() == [2, 0, 1, 3]
    assert keys[0, 0] >> 32 == keys[0, 1] >> 32


def test_a_hand_made_ranking_has_its_hand_made_values() -> None:
    gallery = np.array([[0.9], [0.8], [0.7], [0.6], [0.5], [0.4]], np.float32)
    values = retrieval_values(
        np.ones((1, 1), np.float32), np.array([1]), gallery, np.array([0, 1, 0, 1, 2, 1])
    )
    assert {name: found[0] for name, found in values.per_query().items()} == pytest.approx(
        {
            "recall_at_1": 0,
            "recall_at_5": 1,
            "recall_at_10": 1,
            "precision_at_10": 3 / 6,  # the gallery ends at six
            "precision_at_100": 3 / 6,
            "map_at_100": (1 / 2 + 2 / 4 + 3 / 6) / 3,
            "map_at_r": (1 / 2) / 3,
            "knn_5": 0.0,  # two of 0, two of 1: the nearest of them is a 0
            "map": (1 / 2 + 2 / 4 + 3 / 6) / 3,
        }
    )


def test_a_query_in_the_gallery_finds_its_neighbour_and_not_itself() -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    labels = np.array([0, 0, 1])
    assert retrieval_values(vectors, labels, vectors, labels).recall_at_1.tolist() == [1, 1, 1]

    values = retrieval_values(vectors, labels, vectors, labels, left_out=np.arange(3))
    assert values.recall_at_1.tolist()[:2] == [1, 1]
    assert values.precision_at_10.tolist()[:2] == [1 / 2, 1 / 2]
    assert np.isnan(values.recall_at_1[2])  # nothing else of its class is there
    assert values.means()["recall_at_1"] == 1.0


def test_shapes_that_do_not_match_and_values_that_are_not_finite_are_refused() -> None:
    good, labels = np.ones((2, 3), np.float32), np.array([0, 1])
    with pytest.raises(ValueError, match=r"queries are \(2, 3\) and gallery \(2, 2\)"):
        retrieval_values(good, labels, good[:, :2], labels)
    with pytest.raises(ValueError, match="2 queries with 1 labels"):
        retrieval_values(good, labels[:1], good, labels)
    with pytest.raises(ValueError, match="left_out must give each of 2 queries a row below 2"):
        retrieval_values(good, labels, good, labels, left_out=np.array([0, 2]))
    with pytest.raises(ValueError, match="gallery hold values that are not finite"):
        retrieval_values(good, labels, good * np.float32("nan"), labels)


def test_an_empty_gallery_gives_no_query_a_value() -> None:
    values = retrieval_values(
        np.ones((2, 3), np.float32), np.array([0, 1]), np.ones((0, 3), np.float32), np.array([], np.int64)
    )
    assert all(np.isnan(found).all() for found in values.per_query().values())


def test_recall_never_falls_with_k_and_random_embeddings_find_by_chance() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = (rng.normal(size=(count, 16)).astype(np.float32) for count in (2_000, 1_000))
    labels = np.arange(2_000) % 10

    found = retrieval_values(queries, np.arange(1_000) % 10, gallery, labels).means()

    assert found["recall_at_1"] <= found["recall_at_5"] <= found["recall_at_10"]
    assert found["recall_at_1"] == pytest.approx(0.1, abs=0.03)  # three standard errors
    assert found["recall_at_10"] == pytest.approx(1 - 0.9**10, abs=0.05)


def test_embeddings_that_are_constant_within_a_class_are_ranked_perfectly() -> None:
    centres = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0].astype(np.float32)
    labels = np.arange(200) % 10

    found = retrieval_values(centres[labels[:50]], labels[:50], centres[labels], labels).means()

    assert found["map"] == found["map_at_r"] == found["recall_at_1"] == found["knn_5"] == 1.0
