"""The mutation list: take a guard away, and a named test fails.

| guard removed | test that fails |
| --- | --- |
| append-only trigger | test_triggers.py::test_an_entry_is_never_changed_and_deleted_only_with_its_photo |
| change counter (number first, or none) | test_counter.py::test_a_follower_never_finds_a_number_below_one_it_has_read |
| filter plan (filtering after the cut) | test_filter_plan.py::test_filtered_search_is_exact_at_every_share |
| fencing check | test_jobs.py and test_jobs_races.py (a worker that lost its lease writes nothing) |

Here each is done: the guard's own assertion runs on a deliberately broken variant and must fail. The fencing check is
demonstrated beside its tests.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.db import connection, transaction
from django.db.models import Max

from searchapp.models import ChangeKind, GalleryChange, GalleryCounter
from tests.searchapp.galleries import shop
from tests.searchapp.gallery_guards import (
    assert_entries_are_append_only,
    assert_filters_are_exact,
    assert_numbers_become_visible_in_order,
)

pytestmark = pytest.mark.database


@pytest.mark.django_db
@pytest.mark.parametrize("trigger", ["gallery_entry_no_update", "gallery_entry_no_delete"])
def test_without_the_append_only_trigger_its_test_fails(
    data_dir: Path, photos: list[bytes], trigger: str
) -> None:
    shop(photos)
    assert_entries_are_append_only()
    on_table = "" if connection.vendor == "sqlite" else " ON searchapp_galleryentry"
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TRIGGER {trigger}{on_table}")  # taken back with the test's transaction

    with pytest.raises(AssertionError, match="the database obeyed"):
        assert_entries_are_append_only()


@pytest.mark.django_db(transaction=True)
def test_with_numbers_taken_before_the_work_the_counters_test_fails() -> None:
    """A number handed out early and committed late, as by an auto-increment column: the gap a follower falls into."""
    GalleryCounter.objects.update(value=0)
    handed_out = iter(range(1, 1000))
    lock = threading.Lock()
    last_waits = threading.Barrier(2, timeout=20)

    def write_early_number(subject_id: int) -> None:
        with lock:
            number = next(handed_out)
        if number == 1:
            last_waits.wait()  # the first number commits after all others
        GalleryChange.objects.create(sequence=number, kind=ChangeKind.ITEM_CHANGED, subject_id=subject_id)
        if number == 40:
            last_waits.wait()

    with pytest.raises(AssertionError, match="became visible after higher ones"):
        assert_numbers_become_visible_in_order(write_early_number)


@pytest.mark.django_db(transaction=True)
def test_without_the_counter_row_the_counters_test_fails() -> None:
    """Reading the highest number and adding one, without the row that serialises writers."""
    both_read = threading.Barrier(2, timeout=20)
    readers = iter(range(1, 1000))

    def write_highest_plus_one(subject_id: int) -> None:
        number = (GalleryChange.objects.aggregate(highest=Max("sequence"))["highest"] or 0) + 1
        if next(readers) <= 2:
            both_read.wait()
        with transaction.atomic():
            GalleryChange.objects.create(sequence=number, kind=ChangeKind.ITEM_CHANGED, subject_id=subject_id)

    with pytest.raises(AssertionError, match=r"share one|became visible"):
        assert_numbers_become_visible_in_order(write_highest_plus_one)


def test_filtering_after_the_cut_fails_the_filter_test() -> None:
    def search_then_filter(index: Any, code: np.ndarray[Any, Any], k: int, where: Any) -> Any:
        found = index.search(code, k)
        inside = np.isin(found.entry_ids % 100, list(where.category_ids))
        return type(found)(found.entry_ids[inside], found.hamming[inside])

    with pytest.raises(AssertionError, match="not the nearest inside the filter"):
        assert_filters_are_exact(search_then_filter)


def test_scanning_a_fixed_surplus_fails_the_filter_test() -> None:
    """The other wrong plan: take ten times as many and hope that enough of them pass."""

    def search_ten_times(index: Any, code: np.ndarray[Any, Any], k: int, where: Any) -> Any:
        found = index.search(code, 10 * k)
        inside = np.flatnonzero(np.isin(found.entry_ids % 100, list(where.category_ids)))[:k]
        return type(found)(found.entry_ids[inside], found.hamming[inside])

    with pytest.raises(AssertionError, match="not the nearest inside the filter"):
        assert_filters_are_exact(search_ten_times)
