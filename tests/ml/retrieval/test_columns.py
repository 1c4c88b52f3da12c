"""The columns, the float16 conversion and the price rounding a view rests on."""

import numpy as np
import pytest

from ml.retrieval.columns import EntryColumns, EntryFilter, ItemColumns, widened
from ml.retrieval.faiss_index import FaissIndex
from tests.ml.retrieval.galleries import make_entries, make_items, some_codes


def test_widening_equals_the_plain_conversion_for_every_finite_half() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    wide = widened(halves)
    assert wide.dtype == np.float32
    assert np.array_equal(wide, halves.astype(np.float32))
    assert np.array_equal(np.signbit(wide), np.signbit(halves))


def test_items_are_sorted_and_tags_follow_them() -> None:
    items = ItemColumns.of([30, 10, 20], [3, 1, 2], [0, 1, 0], [None, 1.0, 2.0], {7: [30, 10], 8: [20]})
    assert items.item_ids.tolist() == [10, 20, 30]
    assert items.category_ids.tolist() == [1, 2, 3]
    assert np.isnan(items.prices).tolist() == [False, False, True]
    assert items.rows_of_tag(7).tolist() == [0, 2]
    assert items.rows_of_tag(9).tolist() == []


def test_bad_items_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending without repeats"):
        ItemColumns.of([1, 1], [0, 0], [0, 0], [None, None])
    with pytest.raises(ValueError, match=r"tags name items that are not listed: \[5\]"):
        ItemColumns.of([1], [0], [0], [None], {7: [5]})
    with pytest.raises(ValueError, match="columns differ in length"):
        ItemColumns(
            np.array([1, 2]),
            np.zeros(1, np.int32),
            np.zeros(2, np.int8),
            np.zeros(2, np.float32),
            np.empty(0, np.int64),
            np.empty(0, np.int32),
        )


def test_bad_entries_are_refused() -> None:
    ids, codes, halves = np.array([1]), np.zeros((1, 8), np.uint8), np.zeros((1, 4), np.float16)
    with pytest.raises(ValueError, match="embeddings are float32"):
        EntryColumns(ids, ids, ids, np.zeros(1, np.int16), codes, halves.astype(np.float32), ("1.0",))
    with pytest.raises(ValueError, match="codes are uint8"):
        EntryColumns(ids, ids, ids, np.zeros(1, np.int16), codes[:, 0], halves, ("1.0",))
    with pytest.raises(ValueError, match=r"producers must lie in \[0, 1\)"):
        EntryColumns(ids, ids, ids, np.ones(1, np.int16), codes, halves, ("1.0",))


def test_a_price_bound_is_rounded_as_stored_prices_are() -> None:
    """9.99 has no exact float32: the stored price is a little below the bound as typed."""
    items = ItemColumns.of([1], [0], [0], [9.99])
    entries = make_entries(1, items).of_producer("1.0")
    index = FaissIndex.build("1.0", entries, items)
    code = some_codes(1)[0]
    assert len(index.search(code, 1, EntryFilter(price_min=9.99))) == 1
    assert len(index.search(code, 1, EntryFilter(price_max=9.99))) == 1
    assert len(index.search(code, 1, EntryFilter(price_min=10.0))) == 0


def test_a_filter_says_whether_it_restricts_anything() -> None:
    assert EntryFilter().is_open
    assert not EntryFilter(category_ids=frozenset()).is_open
    assert not EntryFilter(price_min=0.0).is_open
    assert not EntryFilter(excluded_image_ids=frozenset({3})).is_open
    assert EntryFilter(vertical=1, excluded_item_ids=frozenset({3})).scope == EntryFilter(vertical=1)


def test_entries_already_in_order_are_sliced_not_copied() -> None:
    entries = make_entries(50, make_items(5))
    ordered = entries.of_producer("1.0")
    assert np.shares_memory(ordered.of_producer("1.0").codes, ordered.codes)
    assert not np.shares_memory(ordered.codes, entries.codes)
    assert np.array_equal(ordered.entry_ids, np.sort(entries.entry_ids))


def test_rewritten_rows_are_another_producer_s_and_the_table_they_came_from_stays() -> None:
    entries = make_entries(6, make_items(3))
    codes, embeddings = some_codes(2, seed=9), np.ones((2, entries.dimension), np.float32)
    before = entries.codes.copy()

    changed = entries.rewritten(np.array([1, 4]), codes=codes, embeddings=embeddings, producer="9.0")

    assert changed.producer_names == (*entries.producer_names, "9.0")
    assert [changed.producer_names[at] for at in changed.producers[[1, 4]]] == ["9.0", "9.0"]
    assert np.array_equal(changed.codes[[1, 4]], codes)
    assert np.array_equal(changed.embeddings[[1, 4]], embeddings.astype(np.float16))
    kept = [0, 2, 3, 5]
    assert np.array_equal(changed.codes[kept], entries.codes[kept])
    assert np.array_equal(changed.producers[kept], entries.producers[kept])
    assert np.array_equal(entries.codes, before)
    again = changed.rewritten(np.array([0]), codes=codes[:1], embeddings=embeddings[:1], producer="9.0")
    assert again.producer_names == changed.producer_names
