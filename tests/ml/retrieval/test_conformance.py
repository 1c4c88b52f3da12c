"""What every engine under a gallery view promises, run against each of them; the naive one is the oracle."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml.retrieval.columns import NO_IDS, EntryColumns, EntryFilter, Ids, ItemColumns
from ml.retrieval.faiss_index import FaissIndex, FaissSettings
from ml.retrieval.index import CodeIndex, EngineFactory
from ml.retrieval.milvus_index import milvus_engine
from ml.retrieval.naive import NaiveIndex
from tests.ml.retrieval.galleries import CODE_BITS, DIMENSION, make_entries, make_items, some_codes

ITEMS = make_items(60)
ENTRIES = make_entries(400, ITEMS).of_producer("1.0")
CODES = some_codes(6)
# An inverted file over 400 rows, with few enough probes to be approximate.
IVF = FaissSettings(ivf_from_rows=1, lists=8, probes=3, max_ivf_k=200)

FILTERS = {
    "nothing set": EntryFilter(),
    "no category": EntryFilter(category_ids=frozenset()),
    "unknown category": EntryFilter(category_ids=frozenset({99})),
    "one category": EntryFilter(category_ids=frozenset({3})),
    "most categories": EntryFilter(category_ids=frozenset(range(9))),
    "vertical": EntryFilter(vertical=1),
    "one tag": EntryFilter(tag_ids=frozenset({1})),
    "both tags": EntryFilter(tag_ids=frozenset({1, 2})),
    "unknown tag": EntryFilter(tag_ids=frozenset({77})),
    "cheap": EntryFilter(price_max=3.0),
    "dear": EntryFilter(price_min=15.5),
    "price range": EntryFilter(price_min=2.0, price_max=2.0),
    "image left out": EntryFilter(excluded_image_ids=frozenset(ENTRIES.image_ids[:40].tolist())),
    "items left out": EntryFilter(excluded_item_ids=frozenset(ITEMS.item_ids[:30].tolist())),
    "everything": EntryFilter(
        category_ids=frozenset(range(8)),
        vertical=0,
        tag_ids=frozenset({1}),
        price_min=1.0,
        price_max=18.0,
        excluded_image_ids=frozenset(ENTRIES.image_ids[::7].tolist()),
        excluded_item_ids=frozenset(ITEMS.item_ids[::9].tolist()),
    ),
}


@pytest.fixture(scope="module")
def milvus_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("milvus")
    return str(folder / "gallery.db")


@pytest.fixture(params=["naive", "faiss flat", "faiss ivf", "milvus"])
def engine(request: pytest.FixtureRequest) -> EngineFactory:
    if request.param == "naive":
        return NaiveIndex.build
    if request.param == "milvus":
        return milvus_engine(request.getfixturevalue("milvus_uri"))
    return partial(FaissIndex.build, settings=IVF if request.param == "faiss ivf" else None)


@pytest.fixture(params=["naive", "faiss flat", "milvus"])
def exact_engine(request: pytest.FixtureRequest) -> EngineFactory:
    if request.param == "naive":
        return NaiveIndex.build
    if request.param == "milvus":
        return milvus_engine(request.getfixturevalue("milvus_uri"))
    return FaissIndex.build


def changed(
    index: CodeIndex,
    *,
    added: EntryColumns | None = None,
    removed: Ids = NO_IDS,
    items: ItemColumns | None = None,
    removed_items: Ids = NO_IDS,
) -> CodeIndex:
    return index.updated(
        added=added if added is not None else nothing(),
        removed_entry_ids=removed,
        changed_items=items if items is not None else ItemColumns.empty(),
        removed_item_ids=removed_items,
    )


def nothing() -> EntryColumns:
    return EntryColumns.empty(code_bits=CODE_BITS, dimension=DIMENSION, producer_names=("1.0",))


def answers(
    index: CodeIndex, *, k: int, where: EntryFilter | None = None
) -> Iterator[tuple[list[int], list[int]]]:
    for code in CODES:
        matches = index.search(code, k, where)
        yield matches.entry_ids.tolist(), matches.hamming.tolist()


def assert_same_as_oracle(
    index: CodeIndex, oracle: CodeIndex, *, k: int, where: EntryFilter | None = None
) -> None:
    assert list(answers(index, k=k, where=where)) == list(answers(oracle, k=k, where=where))


@pytest.fixture(scope="module")
def oracle() -> NaiveIndex:
    return NaiveIndex.build("1.0", ENTRIES, ITEMS)


@pytest.mark.parametrize("k", [1, 10, 399])
def test_answers_are_the_nearest_codes_with_ties_by_entry_id(
    exact_engine: EngineFactory, oracle: NaiveIndex, k: int
) -> None:
    assert_same_as_oracle(exact_engine("1.0", ENTRIES, ITEMS), oracle, k=k)


@pytest.mark.parametrize("name", FILTERS)
def test_a_filtered_answer_is_exact_within_the_filter(
    engine: EngineFactory, oracle: NaiveIndex, name: str
) -> None:
    index = engine("1.0", ENTRIES, ITEMS)
    # An open filter is no filter, and unfiltered the inverted file is exact only beyond its max_ivf_k.
    approximate = name == "nothing set" and not getattr(index, "is_exact", True)
    for k in (500,) if approximate else (1, 12, 500):
        assert_same_as_oracle(index, oracle, k=k, where=FILTERS[name])


def test_the_filters_of_this_suite_keep_shares_from_nothing_to_all(oracle: NaiveIndex) -> None:
    kept = {name: len(oracle.search(CODES[0], 1000, where)) for name, where in FILTERS.items()}
    assert kept["no category"] == kept["unknown category"] == kept["unknown tag"] == 0
    assert kept["nothing set"] == 400
    assert 0 < kept["price range"] < 20 < kept["one category"] < 100 < kept["vertical"] < 300
    assert 300 < kept["most categories"] < 400


def test_the_inverted_file_finds_nine_in_ten_of_the_nearest(oracle: NaiveIndex) -> None:
    """Its recall is a property of the data; here 3 of 8 lists are read, and 0.9 is the least this seed may
    give.
    """
    index = FaissIndex.build("1.0", ENTRIES, ITEMS, settings=IVF)
    assert not index.is_exact
    found = expected = 0
    for code in CODES:
        farthest = oracle.search(code, 10).hamming[-1]
        matches = index.search(code, 10)
        assert len(matches) == 10
        assert (np.diff(matches.hamming) >= 0).all()
        found += int((matches.hamming <= farthest).sum())
        expected += 10
    assert found >= 0.9 * expected


def test_the_inverted_file_itself_answers_and_does_not_leave_it_to_the_scan() -> None:
    """FAISS's counting scanner finds nothing unless its limit is set, and the scan behind it would hide that."""
    index = FaissIndex.build("1.0", ENTRIES, ITEMS, settings=IVF)
    assert index._ivf is not None
    for code in CODES:
        distances, rows = index._probed(index._ivf, code, 10)
        assert len(rows) == 10
        assert distances.tolist() == np.bitwise_count(ENTRIES.codes[rows] ^ code).sum(axis=1).tolist()


@pytest.mark.parametrize("k", [400, 401, 10**9])
def test_k_beyond_the_gallery_gives_every_entry_once_and_never_minus_one(
    engine: EngineFactory, k: int
) -> None:
    matches = engine("1.0", ENTRIES, ITEMS).search(CODES[0], k)
    assert sorted(matches.entry_ids.tolist()) == sorted(ENTRIES.entry_ids.tolist())


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(engine: EngineFactory, k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}, it must be at least 1"):
        engine("1.0", ENTRIES, ITEMS).search(CODES[0], k)


@pytest.mark.parametrize("code", [np.zeros(4, np.uint8), np.zeros(8, np.int64), np.zeros((1, 8), np.uint8)])
def test_a_code_of_another_shape_or_dtype_is_refused(engine: EngineFactory, code: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the code is"):
        engine("1.0", ENTRIES, ITEMS).search(code, 5)


def test_an_empty_index_answers_with_nothing_and_can_grow(engine: EngineFactory, oracle: NaiveIndex) -> None:
    empty = engine("1.0", nothing(), ITEMS)
    assert len(empty) == 0
    assert len(empty.search(CODES[0], 5)) == 0
    assert len(empty.search(CODES[0], 5, FILTERS["vertical"])) == 0

    grown = changed(empty, added=ENTRIES)

    assert len(grown) == 400
    assert_same_as_oracle(grown, oracle, k=20)


def test_added_entries_are_found_and_removed_ones_are_not(
    exact_engine: EngineFactory, oracle: NaiveIndex
) -> None:
    new = make_entries(50, ITEMS, first_id=5001, seed=0).of_producer("1.0")
    gone = np.concatenate([ENTRIES.entry_ids[::3], new.entry_ids[:5]])
    later = changed(changed(exact_engine("1.0", ENTRIES, ITEMS), added=new), removed=gone)
    expected = changed(changed(oracle, added=new), removed=gone)

    assert len(later) == len(expected) == 400 + 50 - 134 - 5
    for where in (None, FILTERS["vertical"], FILTERS["most categories"], FILTERS["everything"]):
        for k in (1, 30, 1000):
            assert_same_as_oracle(later, expected, k=k, where=where)


def test_a_smaller_id_added_later_wins_a_tie_among_hundreds(exact_engine: EngineFactory) -> None:
    """The order of arrival is not the order of ids, and no margin taken beyond k covers this many ties."""
    like = make_entries(300, ITEMS, first_id=2001).of_producer("1.0")
    same = replace(like, codes=np.repeat(like.codes[:1], 300, axis=0))
    index = changed(exact_engine("1.0", same.taken(slice(100, None)), ITEMS), added=same.taken(slice(0, 100)))

    matches = index.search(same.codes[0], 10)

    assert matches.entry_ids.tolist() == same.entry_ids[:10].tolist()
    assert matches.hamming.tolist() == [0] * 10


def test_replaying_a_change_changes_nothing(engine: EngineFactory) -> None:
    new = make_entries(20, ITEMS, first_id=7001, seed=3).of_producer("1.0")
    gone = ENTRIES.entry_ids[:30]
    once = changed(engine("1.0", ENTRIES, ITEMS), added=new, removed=gone)
    before = list(answers(once, k=10**6))

    twice = changed(once, added=new, removed=np.concatenate([gone, [999_999_999]]))
    twice = changed(twice, added=ENTRIES.taken(slice(30, 60)), removed_items=np.array([123_456_789]))

    assert len(twice) == 400 + 20 - 30
    assert list(answers(twice, k=10**6)) == before


def test_an_id_repeated_in_one_batch_is_added_once(engine: EngineFactory) -> None:
    new = make_entries(5, ITEMS, first_id=7001, seed=3).of_producer("1.0")
    index = changed(engine("1.0", ENTRIES, ITEMS), added=EntryColumns.concatenated([new, new]))
    assert len(index) == 405


def test_an_entry_both_added_and_removed_is_removed(engine: EngineFactory) -> None:
    new = make_entries(4, ITEMS, first_id=8001, seed=4).of_producer("1.0")
    index = changed(engine("1.0", ENTRIES, ITEMS), added=new, removed=new.entry_ids[:1])
    assert len(index) == 403
    assert int(new.entry_ids[0]) not in index.search(new.codes[0], 403).entry_ids


def test_a_removed_entry_can_come_back(engine: EngineFactory) -> None:
    index = engine("1.0", ENTRIES, ITEMS)
    first = ENTRIES.taken(slice(0, 1))
    index = changed(changed(index, removed=first.entry_ids), added=first)
    assert len(index) == 400
    assert int(first.entry_ids[0]) in index.search(first.codes[0], 400).entry_ids


def test_removing_an_item_removes_its_entries(engine: EngineFactory) -> None:
    item_id = int(ENTRIES.item_ids[0])
    theirs = set(ENTRIES.entry_ids[ENTRIES.item_ids == item_id].tolist())

    index = changed(engine("1.0", ENTRIES, ITEMS), removed_items=np.array([item_id]))

    assert len(index) == 400 - len(theirs)
    assert theirs.isdisjoint(index.search(CODES[0], 400).entry_ids.tolist())


def test_a_changed_item_moves_its_entries_into_another_filter(engine: EngineFactory) -> None:
    item_id = int(ENTRIES.item_ids[0])
    theirs = sorted(ENTRIES.entry_ids[ENTRIES.item_ids == item_id].tolist())
    moved = ItemColumns.of([item_id], [55], [1], [9.99], {8: [item_id]})
    wanted = EntryFilter(
        category_ids=frozenset({55}), vertical=1, tag_ids=frozenset({8}), price_min=9.99, price_max=9.99
    )
    index = engine("1.0", ENTRIES, ITEMS)
    assert len(index.search(CODES[0], 400, wanted)) == 0

    index = changed(index, items=moved)

    assert sorted(index.search(CODES[0], 400, wanted).entry_ids.tolist()) == theirs
    old = EntryFilter(category_ids=frozenset({int(ITEMS.category_ids[ITEMS.item_ids == item_id][0])}))
    assert set(theirs).isdisjoint(index.search(CODES[0], 400, old).entry_ids.tolist())


def test_a_new_item_and_its_entries_arrive_in_one_change(engine: EngineFactory) -> None:
    item = ItemColumns.of([9001], [42], [0], [None], {5: [9001]})
    new = make_entries(6, item, first_id=9101, seed=5).of_producer("1.0")
    where = EntryFilter(category_ids=frozenset({42}), tag_ids=frozenset({5}))

    index = changed(engine("1.0", ENTRIES, ITEMS), added=new, items=item)

    assert sorted(index.search(CODES[0], 50, where).entry_ids.tolist()) == sorted(new.entry_ids.tolist())
    assert len(index.search(CODES[0], 50, EntryFilter(category_ids=frozenset({42}), price_max=1e9))) == 0


def test_an_older_local_index_goes_on_answering_for_its_own_state() -> None:
    """Not promised by Milvus, whose collection is shared and changes in place."""
    for build in (NaiveIndex.build, FaissIndex.build, partial(FaissIndex.build, settings=IVF)):
        index = build("1.0", ENTRIES, ITEMS)
        before = list(answers(index, k=400, where=FILTERS["vertical"]))
        changed(
            index,
            added=make_entries(30, ITEMS, first_id=7001).of_producer("1.0"),
            removed=ENTRIES.entry_ids[:200],
            removed_items=ITEMS.item_ids[:20],
        )
        assert len(index) == 400
        assert list(answers(index, k=400, where=FILTERS["vertical"])) == before


SHARES = [0.0, 1 / 400, 0.01, 0.1, 0.5, 0.75, 0.9, 1.0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**16),
    share=st.sampled_from(SHARES),
    k=st.integers(1, 450),
    delta=st.integers(0, 40),
    removed_share=st.sampled_from([0.0, 0.05, 0.6]),
)
def test_faiss_is_exact_at_every_share_a_filter_keeps(
    seed: int, share: float, k: int, delta: int, removed_share: float
) -> None:
    """One item per entry, so that a category can keep any share, in base and delta, among tombstones."""
    rng = np.random.default_rng(seed)
    count = 400 + delta
    kept = np.zeros(count, bool)
    kept[rng.permutation(count)[: round(share * count)]] = True
    items = ItemColumns.of(range(count), kept.astype(int).tolist(), [0] * count, [None] * count)
    entries = make_entries(count, items, seed=seed)
    entries = EntryColumns(
        entries.entry_ids,
        entries.image_ids,
        np.arange(count),
        entries.producers,
        entries.codes,
        entries.embeddings,
        ("1.0",),
    )
    base, new = (
        entries.taken(slice(0, 400)).of_producer("1.0"),
        entries.taken(slice(400, None)).of_producer("1.0"),
    )
    gone = rng.permutation(entries.entry_ids)[: round(removed_share * count)]
    where = EntryFilter(category_ids=frozenset({1}))
    ivf = FaissSettings(ivf_from_rows=1, lists=8, probes=2)
    code = some_codes(1, seed=seed)[0]

    expected = changed(NaiveIndex.build("1.0", base, items), added=new, removed=gone).search(code, k, where)

    for choice in (None, ivf):
        index = changed(FaissIndex.build("1.0", base, items, settings=choice), added=new, removed=gone)
        for _ in range(2):  # the second time from the remembered scope
            matches = index.search(code, k, where)
            assert matches.entry_ids.tolist() == expected.entry_ids.tolist()
            assert matches.hamming.tolist() == expected.hamming.tolist()


@pytest.mark.parametrize("code_bits", [64, 128, 256])
def test_faiss_keeps_the_tie_order_at_every_code_length(code_bits: int) -> None:
    entries = make_entries(3000, ITEMS, code_bits=code_bits).of_producer("1.0")
    index, oracle = FaissIndex.build("1.0", entries, ITEMS), NaiveIndex.build("1.0", entries, ITEMS)
    for code in some_codes(3, code_bits=code_bits):
        for k in (1, 50, 700):
            mine, theirs = index.search(code, k), oracle.search(code, k)
            assert mine.entry_ids.tolist() == theirs.entry_ids.tolist()
            assert mine.hamming.tolist() == theirs.hamming.tolist()
