"""The two-stage search against the exact scan, its growing pools, its producers and its refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ml.protocol import Calibration
from ml.retrieval import exact, two_stage
from ml.retrieval.columns import EntryColumns, EntryFilter, ItemColumns
from ml.retrieval.index import CodeMatches
from ml.retrieval.naive import NaiveIndex
from ml.retrieval.two_stage import QueryVectors
from ml.retrieval.view import GalleryView
from tests.ml.retrieval.galleries import CODE_BITS, DIMENSION, make_entries, make_items, some_codes, unit

ITEMS = make_items(60)
ENTRIES = make_entries(600, ITEMS, producers=("1.0", "2.0"))
VIEW = GalleryView.build(ENTRIES, ITEMS)
CALIBRATION = Calibration(
    intercept=-2.0, code_weight=3.0, embedding_weight=5.0, strong=0.7, weak=0.3, pool_size=100
)
BOTH = {"1.0": CALIBRATION, "2.0": replace(CALIBRATION, intercept=-1.0, code_weight=4.0)}


def queries(count: int) -> list[QueryVectors]:
    embeddings = unit(np.random.default_rng(7).standard_normal((count, DIMENSION)))
    return [QueryVectors(code, embedding) for code, embedding in zip(some_codes(count), embeddings)]


def whole(calibrations: dict[str, Calibration]) -> dict[str, Calibration]:
    return {name: replace(calibration, pool_size=10_000) for name, calibration in calibrations.items()}


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize(
    "where",
    [None, EntryFilter(vertical=0), EntryFilter(category_ids=frozenset({1, 2}), tag_ids=frozenset({1}))],
)
def test_pools_that_hold_everything_answer_as_the_exact_scan_does(
    group: bool, where: EntryFilter | None
) -> None:
    for query in queries(8):
        hits = two_stage.search(VIEW, query, k=15, where=where, calibrations=whole(BOTH), group=group).hits
        expected = exact.search(VIEW, query, k=15, where=where, calibrations=BOTH, group=group)
        assert [hit.entry_id for hit in hits] == [hit.entry_id for hit in expected]
        for mine, theirs in zip(hits, expected):
            assert mine.score == pytest.approx(theirs.score)
            assert mine._replace(score=0.0) == theirs._replace(score=0.0)


def test_every_number_of_a_hit_can_be_worked_out_by_hand() -> None:
    query = queries(1)[0]
    hit = two_stage.search(VIEW, query, k=1, calibrations=whole(BOTH)).hits[0]
    row = ENTRIES.entry_ids.tolist().index(hit.entry_id)
    hamming = int(np.unpackbits(ENTRIES.codes[row] ^ query.packed_code).sum())
    cosine = float(ENTRIES.embeddings[row].astype(np.float64) @ query.embedding)
    used = BOTH[hit.producer]
    odds = used.intercept + used.code_weight * (1 - 2 * hamming / CODE_BITS) + used.embedding_weight * cosine
    assert (hit.hamming, hit.item_id, hit.image_id) == (
        hamming,
        ENTRIES.item_ids[row],
        ENTRIES.image_ids[row],
    )
    assert hit.producer == ENTRIES.producer_names[ENTRIES.producers[row]]
    assert hit.cosine == pytest.approx(cosine, abs=1e-6)
    assert hit.score == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-6)
    assert hit.strength == "strong"


def test_small_pools_find_nearly_all_of_the_exact_answer() -> None:
    """100 of about 300 entries per producer; on this seed the fused top 10 lies in the pools 0.8 of the time
    or more.
    """
    found = 0
    for query in queries(16):
        outcome = two_stage.search(VIEW, query, k=10, calibrations=BOTH)
        expected = {hit.item_id for hit in exact.search(VIEW, query, k=10, calibrations=BOTH)}
        found += len(expected & {hit.item_id for hit in outcome.hits})
        assert outcome.considered == 200
        assert not outcome.exhausted
    assert found >= 0.8 * 160


def test_each_item_appears_once_by_its_best_image() -> None:
    for query in queries(4):
        grouped = two_stage.search(VIEW, query, k=20, calibrations=whole(BOTH)).hits
        alone = two_stage.search(VIEW, query, k=600, calibrations=whole(BOTH), group=False).hits
        best: dict[int, int] = {}
        for hit in alone:
            best.setdefault(hit.item_id, hit.entry_id)
        assert [(hit.item_id, hit.entry_id) for hit in grouped] == list(best.items())[:20]


def crowded(owned: int, others: int) -> tuple[GalleryView, QueryVectors]:
    """One item owns `owned` photos equal to the query; `others` items have one far photo each."""
    items = ItemColumns.of(
        range(1, others + 2), [0] * (others + 1), [0] * (others + 1), [None] * (others + 1)
    )
    count = owned + others
    embedding = unit(np.random.default_rng(0).standard_normal((1, DIMENSION)))
    codes = np.zeros((count, CODE_BITS // 8), np.uint8)
    codes[owned:, :3] = 255
    entries = EntryColumns(
        np.arange(count),
        np.arange(count),
        np.concatenate([np.ones(owned, np.int64), np.arange(2, others + 2)]),
        np.zeros(count, np.int16),
        codes,
        np.repeat(embedding, count, axis=0).astype(np.float16),
        ("1.0",),
    )
    return GalleryView.build(entries, items), QueryVectors(codes[0], embedding[0])


def test_the_pool_grows_past_an_item_that_owns_a_thousand_photos() -> None:
    view, query = crowded(1000, 30)
    outcome = two_stage.search(view, query, k=10, calibrations={"1.0": CALIBRATION})
    # 100, 200, 400, 800, then 1600 takes in everything; ties among the far ones go to the smaller entry id.
    assert [hit.item_id for hit in outcome.hits] == [1, *range(2, 11)]
    assert outcome.hits[0].entry_id == 0
    assert (outcome.considered, outcome.exhausted) == (1030, True)


def test_the_pool_stops_growing_as_soon_as_there_are_enough_items() -> None:
    view, query = crowded(150, 3000)
    outcome = two_stage.search(view, query, k=10, calibrations={"1.0": CALIBRATION})
    assert len(outcome.hits) == 10
    assert (outcome.considered, outcome.exhausted) == (200, False)


def test_fewer_items_than_asked_for_exhaust_the_gallery() -> None:
    view, query = crowded(1000, 4)
    outcome = two_stage.search(view, query, k=50, calibrations={"1.0": CALIBRATION})
    assert [hit.item_id for hit in outcome.hits] == [1, 2, 3, 4, 5]
    assert (outcome.considered, outcome.exhausted) == (1004, True)


def test_equal_scores_are_ordered_by_entry_id_across_producers_and_delta() -> None:
    items = ItemColumns.of(range(40), [0] * 40, [0] * 40, [None] * 40)
    embedding = unit(np.random.default_rng(0).standard_normal((1, DIMENSION)))
    entries = EntryColumns(
        np.random.default_rng(1).permutation(40),
        np.arange(40),
        np.arange(40),
        np.arange(40, dtype=np.int16) % 2,
        np.zeros((40, CODE_BITS // 8), np.uint8),
        np.repeat(embedding, 40, axis=0).astype(np.float16),
        ("1.0", "2.0"),
    )
    view = GalleryView.build(entries.taken(slice(0, 25)), items).with_changes(entries.taken(slice(25, None)))
    same = {"1.0": CALIBRATION, "2.0": CALIBRATION}
    query = QueryVectors(entries.codes[0], embedding[0])
    for group in (True, False):
        hits = two_stage.search(view, query, k=12, calibrations=same, group=group).hits
        assert [hit.entry_id for hit in hits] == list(range(12))
        assert len({hit.score for hit in hits}) == 1


def test_an_older_producer_is_not_crowded_out_by_nearer_native_codes() -> None:
    """Every native code is nearer than any older one; the older entries hold the right embedding all the
    same.
    """
    items = ItemColumns.of(range(400), [0] * 400, [0] * 400, [None] * 400)
    wanted, other = unit(np.eye(DIMENSION)[:2])
    codes = np.zeros((400, CODE_BITS // 8), np.uint8)
    codes[:50, :2] = 255
    embeddings = np.where(np.arange(400)[:, None] < 50, wanted, other).astype(np.float16)
    producers = np.where(np.arange(400) < 50, 0, 1).astype(np.int16)
    ids = np.arange(400)
    view = GalleryView.build(EntryColumns(ids, ids, ids, producers, codes, embeddings, ("1.0", "2.0")), items)
    calibrations = {name: replace(CALIBRATION, pool_size=20) for name in ("1.0", "2.0")}
    query = QueryVectors(np.zeros(CODE_BITS // 8, np.uint8), wanted)
    hits = two_stage.search(view, query, k=10, calibrations=calibrations).hits
    assert [hit.producer for hit in hits] == ["1.0"] * 10


def test_strength_words_follow_each_producers_own_limits() -> None:
    limits = {
        "1.0": replace(CALIBRATION, strong=0.0, weak=0.0),
        "2.0": replace(CALIBRATION, strong=1.1, weak=1.05),
    }
    hits = two_stage.search(VIEW, queries(1)[0], k=30, calibrations=limits, group=False).hits
    assert {(hit.producer, hit.strength) for hit in hits} == {("1.0", "strong"), ("2.0", "weak")}
    middle = {name: replace(CALIBRATION, strong=1.1, weak=0.0) for name in BOTH}
    hits = two_stage.search(VIEW, queries(1)[0], k=30, calibrations=middle).hits
    assert {hit.strength for hit in hits} == {"fair"}


def test_ranking_survives_probabilities_that_saturate() -> None:
    steep = {name: replace(CALIBRATION, code_weight=4000.0) for name in BOTH}
    hits = two_stage.search(VIEW, queries(1)[0], k=20, calibrations=steep, group=False).hits
    assert hits[0].score == hits[9].score == 1.0
    assert [hit.hamming for hit in hits] == sorted(hit.hamming for hit in hits)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_embedding_that_is_not_finite_is_refused(value: float) -> None:
    query = queries(1)[0]
    embedding = query.embedding.copy()
    embedding[3] = value
    with pytest.raises(ValueError, match="not finite"):
        two_stage.search(VIEW, replace(query, embedding=embedding), k=5, calibrations=BOTH)


def test_queries_of_another_shape_and_k_below_one_are_refused() -> None:
    query = queries(1)[0]
    with pytest.raises(ValueError, match=r"the embedding is float32 \(3,\)"):
        two_stage.search(VIEW, replace(query, embedding=np.zeros(3, np.float32)), k=5, calibrations=BOTH)
    with pytest.raises(ValueError, match="the code is uint8"):
        two_stage.search(VIEW, replace(query, packed_code=np.zeros(3, np.uint8)), k=5, calibrations=BOTH)
    with pytest.raises(ValueError, match="k is 0"):
        two_stage.search(VIEW, query, k=0, calibrations=BOTH)


def test_a_producer_without_calibration_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no calibration for producers \['2.0'\], only for \['1.0'\]"):
        two_stage.search(VIEW, queries(1)[0], k=5, calibrations={"1.0": CALIBRATION})


def test_an_empty_gallery_answers_with_nothing() -> None:
    empty = GalleryView.build(
        EntryColumns.empty(code_bits=CODE_BITS, dimension=DIMENSION), ItemColumns.empty()
    )
    outcome = two_stage.search(empty, queries(1)[0], k=5, calibrations={})
    assert (outcome.hits, outcome.considered, outcome.exhausted) == ((), 0, True)


def test_a_filter_that_nothing_passes_answers_with_nothing() -> None:
    where = EntryFilter(category_ids=frozenset({12345}))
    outcome = two_stage.search(VIEW, queries(1)[0], k=5, where=where, calibrations=BOTH)
    assert (outcome.hits, outcome.exhausted) == ((), True)


class AheadOfItsView(NaiveIndex):
    """An engine that already knows an entry its view does not, as a shared cluster may."""

    def search(self, *args: object, **kwargs: object) -> CodeMatches:
        matches = super().search(*args, **kwargs)  # type: ignore[arg-type]
        return CodeMatches(np.append(777_777_777, matches.entry_ids), np.append(np.int32(0), matches.hamming))

    build = classmethod(lambda cls, _, entries, items: cls(*_parts(entries, items)))  # type: ignore[assignment]


def _parts(entries: EntryColumns, items: ItemColumns) -> tuple[object, ...]:
    plain = NaiveIndex.build("", entries, items)
    return plain._entries, plain._items, plain._code_bytes


def test_an_entry_the_view_does_not_know_is_left_out() -> None:
    ahead = GalleryView.build(ENTRIES, ITEMS, engine=AheadOfItsView.build)
    query = queries(1)[0]
    hits = two_stage.search(ahead, query, k=10, calibrations=BOTH).hits
    assert hits == two_stage.search(VIEW, query, k=10, calibrations=BOTH).hits
