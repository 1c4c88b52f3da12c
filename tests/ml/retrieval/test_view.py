"""A view changes by making a new one, splits by producer, and folds its delta without changing an answer."""

import numpy as np
import pytest

from ml.retrieval.columns import EntryColumns, ItemColumns
from ml.retrieval.faiss_index import FaissIndex
from ml.retrieval.naive import NaiveIndex
from ml.retrieval.rows import IdLookup
from ml.retrieval.view import GalleryView
from tests.ml.retrieval.galleries import CODE_BITS, DIMENSION, make_entries, make_items, some_codes

ITEMS = make_items(40)
ENTRIES = make_entries(300, ITEMS, producers=("1.0", "1.1", "2.0"))


def content(view: GalleryView) -> dict[int, tuple[int, int, str, bytes, bytes]]:
    """Every entry of a view, read from its rows."""
    entries = view.compacted_entries()
    return {
        int(entry_id): (
            int(entries.image_ids[row]),
            int(entries.item_ids[row]),
            entries.producer_names[entries.producers[row]],
            entries.codes[row].tobytes(),
            entries.embeddings[row].tobytes(),
        )
        for row, entry_id in enumerate(entries.entry_ids.tolist())
    }


def test_entries_are_counted_by_producer() -> None:
    view = GalleryView.build(ENTRIES, ITEMS)
    counts = np.bincount(ENTRIES.producers).tolist()
    assert view.counts_by_producer == dict(zip(("1.0", "1.1", "2.0"), counts))
    assert len(view) == 300


def test_a_change_makes_a_new_view_and_leaves_the_old_one() -> None:
    old = GalleryView.build(ENTRIES, ITEMS)
    before = content(old)
    item = ItemColumns.of([9001], [1], [0], [None])
    added = make_entries(20, item, first_id=9101, producers=("2.0", "3.0"))

    new = old.with_changes(added, ENTRIES.entry_ids[:10], item, ITEMS.item_ids[:2])

    gone = set(ENTRIES.entry_ids[:10].tolist())
    gone |= set(ENTRIES.entry_ids[np.isin(ENTRIES.item_ids, ITEMS.item_ids[:2])].tolist())
    assert content(old) == before
    assert set(content(new)) == (set(before) - gone) | set(added.entry_ids.tolist())
    assert new.changed_rows == len(gone) + int((added.producers == 0).sum())
    assert new.counts_by_producer["3.0"] == int((added.producers == 1).sum())


def test_a_change_shares_the_base_arrays() -> None:
    old = GalleryView.build(ENTRIES, ITEMS)
    new = old.with_changes(make_entries(5, ITEMS, first_id=9101), ENTRIES.entry_ids[:5])
    for name, pool in old.pools.items():
        assert np.shares_memory(new.pools[name].rows.base.codes, pool.rows.base.codes)
        assert np.shares_memory(new.pools[name].rows.base.embeddings, pool.rows.base.embeddings)


def test_replaying_changes_in_any_grouping_gives_the_same_entries() -> None:
    first, second = make_entries(15, ITEMS, first_id=9101), make_entries(15, ITEMS, first_id=9201, seed=2)
    gone = np.concatenate([ENTRIES.entry_ids[:40], first.entry_ids[:4]])
    start = GalleryView.build(ENTRIES, ITEMS)

    stepwise = start.with_changes(first).with_changes(second, gone)
    replayed = stepwise.with_changes(second, gone).with_changes(removed_entry_ids=gone)
    at_once = start.with_changes(EntryColumns.concatenated([first, second]), gone)

    assert content(stepwise) == content(replayed) == content(at_once)
    assert len(replayed) == 300 + 30 - 44


def test_folding_the_delta_changes_no_entry_and_no_answer() -> None:
    moved = ItemColumns.of(ITEMS.item_ids[:3].tolist(), [77] * 3, [0] * 3, [1.0] * 3, {4: ITEMS.item_ids[:3]})
    view = GalleryView.build(ENTRIES, ITEMS).with_changes(
        make_entries(30, ITEMS, first_id=9101), ENTRIES.entry_ids[:50], moved, ITEMS.item_ids[5:6]
    )

    folded = view.compacted()

    assert folded.changed_rows == 0
    assert content(folded) == content(view)
    assert folded.items.compacted().item_ids.tolist() == view.items.compacted().item_ids.tolist()
    assert folded.items.compacted().rows_of_tag(4).tolist() == view.items.compacted().rows_of_tag(4).tolist()
    for name, pool in view.pools.items():
        for code in some_codes(4):
            mine, theirs = pool.index.search(code, 25), folded.pools[name].index.search(code, 25)
            assert mine.entry_ids.tolist() == theirs.entry_ids.tolist()
            assert mine.hamming.tolist() == theirs.hamming.tolist()


def test_a_hundred_random_changes_end_where_the_oracle_ends() -> None:
    rng = np.random.default_rng(0)
    view = GalleryView.build(ENTRIES, ITEMS)
    oracle = GalleryView.build(ENTRIES, ITEMS, engine=NaiveIndex.build)
    pool_of_new = make_entries(400, ITEMS, first_id=20_001, seed=9, producers=("1.0", "1.1", "2.0"))
    every_id = np.concatenate([ENTRIES.entry_ids, pool_of_new.entry_ids])
    for step in range(100):
        added = pool_of_new.taken(rng.permutation(400)[: rng.integers(0, 6)])
        gone = rng.choice(every_id, rng.integers(0, 6))
        view, oracle = view.with_changes(added, gone), oracle.with_changes(added, gone)
        if step % 37 == 36:
            view = view.compacted()
    assert view.counts_by_producer == oracle.counts_by_producer
    for name, pool in oracle.pools.items():
        matches = view.pools[name].index.search(some_codes(1)[0], 1000)
        expected = pool.index.search(some_codes(1)[0], 1000)
        assert matches.entry_ids.tolist() == expected.entry_ids.tolist()
        assert (view.pools[name].rows.rows_of(matches.entry_ids) >= 0).all()


def test_an_empty_view_can_be_built_and_filled() -> None:
    view = GalleryView.build(
        EntryColumns.empty(code_bits=CODE_BITS, dimension=DIMENSION), ItemColumns.empty()
    )
    assert len(view) == 0
    assert view.counts_by_producer == {}
    filled = view.with_changes(ENTRIES, changed_items=ITEMS)
    assert content(filled) == content(GalleryView.build(ENTRIES, ITEMS))


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    view = GalleryView.build(ENTRIES, ITEMS)
    before = content(view)
    stranger = make_entries(3, ItemColumns.of([5], [0], [0], [None]), first_id=9101)
    with pytest.raises(ValueError, match=r"items the view does not know: \[5\]"):
        view.with_changes(stranger)
    with pytest.raises(ValueError, match="added entries have 128 bits"):
        view.with_changes(make_entries(3, ITEMS, first_id=9101, code_bits=128))
    with pytest.raises(ValueError, match=r"items that are not listed: \[5\]"):
        GalleryView.build(stranger, ITEMS)
    with pytest.raises(ValueError, match="an entry id is repeated"):
        GalleryView.build(EntryColumns.concatenated([ENTRIES, ENTRIES]), ITEMS)
    assert content(view) == before


def test_an_item_deleted_and_entered_again_is_found_again() -> None:
    item_id = int(ENTRIES.item_ids[0])
    theirs = ENTRIES.taken(ENTRIES.item_ids == item_id)
    back = ITEMS.taken(np.flatnonzero(ITEMS.item_ids == item_id))
    view = GalleryView.build(ENTRIES, ITEMS).with_changes(removed_item_ids=np.array([item_id]))
    with pytest.raises(ValueError, match="items the view does not know"):
        view.with_changes(theirs)

    again = view.with_changes(theirs, changed_items=back)

    assert content(again) == content(GalleryView.build(ENTRIES, ITEMS))


@pytest.mark.parametrize("ids", [[5, 6, 7, 8], [5, 7, 8, 12], [5, 900, 10**12], []])
def test_ids_are_looked_up_alike_whatever_their_gaps(ids: list[int]) -> None:
    wanted = np.array([4, 5, 6, 7, 8, 12, 13, 900, 10**12, -(10**15), 2**62])
    expected = [ids.index(int(one)) if one in ids else -1 for one in wanted]
    assert IdLookup(np.array(ids, np.int64)).rows(wanted).tolist() == expected


def test_remembered_filters_stay_within_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from ml.retrieval import faiss_index
    from ml.retrieval.columns import EntryFilter

    entries = make_entries(2000, ITEMS).of_producer("1.0")
    index = FaissIndex.build("1.0", entries, ITEMS)
    monkeypatch.setattr(faiss_index, "SCOPE_CACHE_BYTES", 10_000)
    for category in range(10):
        index.search(some_codes(1)[0], 5, EntryFilter(category_ids=frozenset({category})))
    assert index.remembered_bytes <= 10_000
