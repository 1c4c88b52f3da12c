"""Items nearest to a code alone, against plain numpy over every entry."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.retrieval import code_search
from ml.retrieval.code_search import CodeHit
from ml.retrieval.columns import NO_IDS, EntryColumns, EntryFilter, ItemColumns
from ml.retrieval.view import GalleryView
from tests.ml.retrieval.galleries import CODE_BITS, DIMENSION, make_entries, make_items, some_codes

ITEMS = make_items(60)
ENTRIES = make_entries(600, ITEMS, producers=("1.0", "1.1"))
VIEW = GalleryView.build(ENTRIES, ITEMS)


def oracle(
    entries: EntryColumns, code: NDArray[np.uint8], k: int, *, limit: int = CODE_BITS
) -> list[CodeHit]:
    hamming = np.unpackbits(entries.codes ^ code, axis=1).sum(axis=1)
    best: dict[int, CodeHit] = {}
    for row in sorted(range(len(entries)), key=lambda row: (hamming[row], entries.entry_ids[row])):
        if hamming[row] <= limit:
            item = int(entries.item_ids[row])
            name = entries.producer_names[entries.producers[row]]
            hit = CodeHit(
                item, int(entries.image_ids[row]), int(entries.entry_ids[row]), int(hamming[row]), name
            )
            best.setdefault(item, hit)
    return list(best.values())[:k]


@pytest.mark.parametrize("k", [1, 3, 25, 60, 100])
def test_the_items_nearest_to_a_code_are_found_whatever_made_their_entries(k: int) -> None:
    for code in some_codes(8):
        assert list(code_search.search(VIEW, code, k=k)) == oracle(ENTRIES, code, k)


@pytest.mark.parametrize("limit", [0, 8, 14, CODE_BITS])
def test_nothing_that_differs_in_more_bits_is_found(limit: int) -> None:
    for code in some_codes(8):
        found = code_search.search(VIEW, code, k=60, max_hamming=limit)

        assert list(found) == oracle(ENTRIES, code, 60, limit=limit)
        assert all(hit.hamming <= limit for hit in found)


@pytest.mark.parametrize(
    "where",
    [EntryFilter(vertical=0), EntryFilter(tag_ids=frozenset({2}), price_max=12.0), EntryFilter(vertical=7)],
)
def test_a_filter_acts_before_the_cut(where: EntryFilter) -> None:
    passing = set(ITEMS.item_ids[VIEW.items.passing(where)].tolist())
    inside = ENTRIES.taken(np.isin(ENTRIES.item_ids, list(passing)))
    for code in some_codes(4):
        assert list(code_search.search(VIEW, code, k=10, where=where)) == oracle(inside, code, 10)


def test_one_item_with_hundreds_of_photos_leaves_room_for_the_others() -> None:
    """The crowd fills the first pools alone, and all of it is equally near."""
    items = make_items(6)
    ids = np.arange(1, 506)
    owner = np.where(ids <= 500, items.item_ids[0], items.item_ids[np.maximum(ids - 500, 0) % 6])
    codes = np.zeros((505, CODE_BITS // 8), np.uint8)
    codes[500:, 0] = 255
    entries = EntryColumns(
        ids, ids, owner, np.zeros(505, np.int16), codes, np.zeros((505, DIMENSION), np.float16), ("1.0",)
    )
    view = GalleryView.build(entries, items)

    found = code_search.search(view, np.zeros(CODE_BITS // 8, np.uint8), k=6)

    assert [hit.item_id for hit in found] == items.item_ids.tolist()
    assert [(hit.hamming, hit.entry_id) for hit in found[:2]] == [(0, 1), (8, 501)]


def test_changes_since_the_base_count() -> None:
    code = some_codes(1)[0]
    first = code_search.search(VIEW, code, k=1)[0]
    added = make_entries(20, ITEMS, first_id=9000, seed=3, producers=("1.1",))
    removed = np.array([first.entry_id])
    view = VIEW.with_changes(added=added, removed_entry_ids=removed)
    named = EntryColumns.concatenated(
        [
            ENTRIES.taken(ENTRIES.entry_ids != first.entry_id),
            EntryColumns(
                added.entry_ids, added.image_ids, added.item_ids, np.ones(20, np.int16), added.codes,
                added.embeddings, ENTRIES.producer_names,
            ),
        ]
    )  # fmt: skip

    assert list(code_search.search(view, code, k=60)) == oracle(named, code, 60)
    wanted = ITEMS.item_ids.tolist()
    assert code_search.hits_of_items(view, code, wanted) == {
        hit.item_id: hit for hit in oracle(named, code, 60)
    }


def test_items_are_measured_by_their_nearest_entry_and_unknown_ones_left_out() -> None:
    code = some_codes(3)[2]
    expected = {hit.item_id: hit for hit in oracle(ENTRIES, code, 60)}
    wanted = [*list(expected)[5:9], 7]

    found = code_search.hits_of_items(VIEW, code, wanted)

    assert found == {item_id: expected[item_id] for item_id in wanted[:-1]}


def test_an_empty_gallery_has_nothing_near() -> None:
    view = GalleryView.build(
        EntryColumns.empty(code_bits=CODE_BITS, dimension=DIMENSION), ItemColumns.empty()
    )

    assert code_search.search(view, some_codes(1)[0], k=5) == ()
    assert code_search.hits_of_items(view, some_codes(1)[0], NO_IDS) == {}


def test_a_code_of_another_length_and_no_result_at_all_are_refused() -> None:
    short = np.zeros(CODE_BITS // 8 - 1, np.uint8)
    with pytest.raises(ValueError, match=r"expected uint8 \(8,\)"):
        code_search.search(VIEW, short, k=5)
    with pytest.raises(ValueError, match=r"expected uint8 \(8,\)"):
        code_search.hits_of_items(VIEW, short, [1])
    with pytest.raises(ValueError, match="k is 0"):
        code_search.search(VIEW, some_codes(1)[0], k=0)
