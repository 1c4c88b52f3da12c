"""The two-stage cost curve against one query at a time, and at both of its ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ml.evaluation import two_stage_cost
from ml.evaluation.hamming import hamming_values
from ml.evaluation.metrics import Ranking, average_precision
from ml.evaluation.retrieval import retrieval_values, signs_of
from ml.evaluation.two_stage_cost import CurvePoint, full_scan_bytes, two_stage_bytes, two_stage_curve

Side = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]


def sides(seed: int, queries: int, entries: int, *, classes: int = 4) -> tuple[Side, Side]:
    """Noisy codes and embeddings of a few classes; a third of the entries are copies of others."""
    rng = np.random.default_rng(seed)
    count = queries + entries
    labels = rng.integers(0, classes, count)
    flips = rng.random((count, 16)) < 0.25
    codes = np.packbits(rng.integers(0, 2, (classes, 16))[labels] ^ flips, axis=1)
    embeddings = rng.normal(size=(classes, 6))[labels] + rng.normal(size=(count, 6))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    copies = entries // 3
    codes[count - copies :], embeddings[count - copies :] = codes[:copies], embeddings[:copies]
    labels[rng.integers(0, count, 2)] = -1
    parts = (codes, embeddings.astype(np.float32), labels)
    return tuple(part[:queries] for part in parts), tuple(part[queries:] for part in parts)  # type: ignore[return-value]


def curve_of(queries: Side, gallery: Side, pool: int) -> tuple[CurvePoint, ...]:
    return two_stage_curve(*queries, *gallery, pool_sizes=(pool,), code_weight=1, embedding_weight=1)


def one_at_a_time(queries: Side, gallery: Side, pool: int, code_weight: float, weight: float) -> list[float]:
    found = []
    stored = gallery[1].astype(np.float16).astype(np.float32)
    products = np.vecdot(queries[1][:, None], stored)
    for code, cosines, label in zip(queries[0], products, queries[2]):
        distances = [sum(int(a ^ b).bit_count() for a, b in zip(code, other)) for other in gallery[0]]
        drawn = sorted(range(len(distances)), key=lambda row: (distances[row], row))[:pool]
        places: list[tuple[int, float]] = [(0, -distance) for distance in distances]
        for row in drawn:
            places[row] = (1, (16 - 2 * distances[row]) * (code_weight / 16) + weight * float(cosines[row]))
        steps = {place: step for step, place in enumerate(sorted(set(places)))}
        scores = np.array([steps[place] for place in places], np.float64)
        ranking = Ranking.of(scores, gallery[2], np.arange(len(scores)), label=int(label))
        found.append(average_precision(ranking, 100) if label >= 0 else float("nan"))
    return found


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    entries=st.sampled_from([1, 30, 150, 260]),
    weights=st.sampled_from([(1.0, 1.0), (0.3, 0.7), (0.0, 1.0), (2.0, 0.0)]),
    block=st.sampled_from([1, 1_000_000]),
)
def test_every_point_is_what_one_query_at_a_time_gives(
    seed: int, entries: int, weights: tuple[float, float], block: int
) -> None:
    queries, gallery = sides(seed, 4, entries)
    pools = (0, 1, 40, 99, 100, 200, 1000)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(two_stage_cost, "_BLOCK_PAIRS", block)
        curve = two_stage_curve(
            *queries, *gallery, pool_sizes=pools, code_weight=weights[0], embedding_weight=weights[1]
        )
    assert [point.pool_size for point in curve] == list(pools)
    for point in curve:
        expected = one_at_a_time(queries, gallery, point.pool_size, *weights)
        assert point.map_at_100 == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_no_pool_is_the_codes_alone_and_all_entries_are_a_full_fused_scan() -> None:
    queries, gallery = sides(1, 30, 300)
    codes_alone, everything = two_stage_curve(
        *queries, *gallery, pool_sizes=(0, 300), code_weight=0.4, embedding_weight=0.6
    )

    by_code = hamming_values(queries[0], queries[2], gallery[0], gallery[2])
    assert codes_alone.map_at_100 == pytest.approx(by_code.map_at_100, abs=1e-10, nan_ok=True)

    def columns(side: Side) -> NDArray[np.float32]:
        embeddings = side[1].astype(np.float16) if side is gallery else side[1]
        return np.hstack(
            [signs_of(side[0]) * np.float32((0.4 / 16) ** 0.5), embeddings * np.float32(0.6**0.5)]
        ).astype(np.float32)

    scan = retrieval_values(columns(queries), queries[2], columns(gallery), gallery[2])
    # Copies tie exactly here, and to a rounding step or not at all in the long inner product.
    assert everything.map_at_100 == pytest.approx(scan.map_at_100, abs=5e-3, nan_ok=True)


def test_a_larger_pool_answers_better_where_embeddings_know_more_than_codes() -> None:
    queries, gallery = sides(2, 60, 600, classes=12)
    curve = two_stage_curve(
        *queries, *gallery, pool_sizes=(0, 60, 200), code_weight=0.5, embedding_weight=0.5
    )
    means = [float(np.nanmean(point.map_at_100)) for point in curve]
    assert means[0] + 0.01 < means[1] < means[2] - 0.001


def test_the_pool_is_drawn_by_row_among_equally_near_entries() -> None:
    codes, embeddings = np.zeros((3, 1), np.uint8), np.array([[0, 1], [0.6, 0.8], [1, 0]], np.float32)
    query = (codes[:1], np.array([[1, 0]], np.float32), np.array([1]))
    gallery = (codes, embeddings, np.array([0, 0, 1]))

    curve = two_stage_curve(*query, *gallery, pool_sizes=(2, 3), code_weight=1, embedding_weight=1)

    assert [point.map_at_100[0] for point in curve] == pytest.approx(
        [1 / 3, 1.0]
    )  # the best embedding is the third row


def test_bytes_are_all_codes_and_the_pools_embeddings() -> None:
    assert full_scan_bytes(8000, 128) == 8000 * 512
    assert two_stage_bytes(8000, 32, 128, 500) == 8000 * 4 + 500 * 256
    assert two_stage_bytes(100, 64, 128, 500) == 100 * 8 + 100 * 256  # there are no more than 100
    queries, gallery = sides(0, 2, 30)
    curve = two_stage_curve(*queries, *gallery, pool_sizes=(10, 50), code_weight=1, embedding_weight=1)
    assert [point.bytes_read for point in curve] == [30 * 2 + 10 * 12, 30 * 2 + 30 * 12]


def test_embeddings_are_read_as_they_are_stored() -> None:
    codes = np.zeros((2, 1), np.uint8)
    near = np.float32(0.6) + np.array([[0, 0], [1e-5, 0]], np.float32)  # one and the same in float16
    curve = two_stage_curve(
        codes[:1], np.array([[1, 0]], np.float32), np.array([1]), codes, near, np.array([0, 1]),
        pool_sizes=(2,), code_weight=0, embedding_weight=1,
    )  # fmt: skip
    assert curve[0].map_at_100.tolist() == [(1 + 1 / 2) / 2]  # first or second


def test_an_empty_gallery_gives_no_value_and_bad_input_is_refused() -> None:
    queries, gallery = sides(0, 2, 30)
    curve = curve_of(queries, (gallery[0][:0], gallery[1][:0], gallery[2][:0]), 5)
    assert np.isnan(curve[0].map_at_100).all()
    with pytest.raises(ValueError, match=r"pool sizes are \(-1,\)"):
        curve_of(queries, gallery, -1)
    with pytest.raises(ValueError, match=r"embeddings of queries are \(2, 6\) and of the gallery \(30, 5\)"):
        curve_of(queries, (gallery[0], gallery[1][:, :5], gallery[2]), 5)
    with pytest.raises(ValueError, match=r"gallery codes are \(29, 2\)"):
        curve_of(queries, (gallery[0][:29], *gallery[1:]), 5)
