"""The assertions behind three guards of the gallery, so that the mutation tests can run them on a broken variant."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from django.db import DatabaseError, connection, transaction

from ml.retrieval.columns import EntryColumns, EntryFilter, ItemColumns
from ml.retrieval.faiss_index import FaissIndex
from ml.retrieval.naive import NaiveIndex
from searchapp.models import ChangeKind, GalleryChange, GalleryEntry
from searchapp.services.gallery import gallery_transaction


def assert_entries_are_append_only() -> None:
    """No entry can be changed, and none deleted while its photo is there: asked of the database, not of a service."""
    entry = GalleryEntry.objects.order_by("pk").first()
    assert entry is not None
    before = list(GalleryEntry.objects.order_by("pk").values())
    for statement in (
        f"UPDATE searchapp_galleryentry SET provenance = 'solved' WHERE id = {entry.pk}",
        f"UPDATE searchapp_galleryentry SET code = embedding WHERE id = {entry.pk}",
        f"DELETE FROM searchapp_galleryentry WHERE id = {entry.pk}",
        "DELETE FROM searchapp_galleryentry",
    ):
        assert _is_refused(statement), f"the database obeyed: {statement}"
    assert list(GalleryEntry.objects.order_by("pk").values()) == before


def _is_refused(statement: str) -> bool:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
            transaction.set_rollback(True)  # it went through: take it back
    except DatabaseError:
        return True
    return False


def assert_numbers_become_visible_in_order(write: Callable[[int], None]) -> None:
    """Eight writers commit at random moments while a follower polls: it must never find a number below one it has.

    `write` records one change for its argument in a transaction of its own. Needs committed transactions.
    """
    done = threading.Event()
    seen: list[int] = []
    missed: set[int] = set()

    def follow() -> None:
        newest = 0
        while True:
            last_look = done.is_set()
            for number in GalleryChange.objects.order_by("sequence").values_list("sequence", flat=True):
                if number not in seen:
                    if number < newest:
                        missed.add(number)
                    seen.append(number)
            newest = max(seen, default=0)
            if last_look:
                break
        connection.close()

    def writer(first: int) -> None:
        try:
            for step in range(6):
                write(first + step)
        finally:
            connection.close()

    follower = threading.Thread(target=follow)
    writers = [threading.Thread(target=writer, args=(100 * number,)) for number in range(8)]
    for thread in (follower, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    follower.join()
    assert not missed, (
        f"numbers {sorted(missed)} became visible after higher ones: a follower has passed them by"
    )
    assert sorted(seen) == list(range(1, 49)), "numbers are missing, or two transactions share one"


def write_one_change(subject_id: int) -> None:
    with gallery_transaction() as changes:
        changes.record(ChangeKind.ITEM_CHANGED, [subject_id])
        time.sleep(0.001 * (subject_id % 5))


def assert_filters_are_exact(search: Callable[..., Any] | None = None) -> None:
    """At every share a filter may keep, the filtered answer equals the oracle's, member by member, and is full.

    `search(index, code, k, where)` is how the index under test is asked; the product asks it plainly.
    """
    ask = search or (lambda index, code, k, where: index.search(code, k, where))
    generator = np.random.default_rng(7)
    count = 3000
    items = ItemColumns.of(
        range(count),
        (number % 100 for number in range(count)),
        [0] * count,
        [float(number) for number in range(count)],
    )
    ids = np.arange(count, dtype=np.int64)
    entries = EntryColumns(
        ids, ids, ids, np.zeros(count, np.int16), generator.integers(0, 256, (count, 16), np.uint8),
        np.zeros((count, 8), np.float16), ("1.0",),
    )  # fmt: skip
    index, oracle = FaissIndex.build("1.0", entries, items), NaiveIndex.build("1.0", entries, items)
    for kept in (1, 10, 50, 95):
        where = EntryFilter(category_ids=frozenset(range(kept)))
        for code in generator.integers(0, 256, (3, 16), np.uint8):
            found, expected = ask(index, code, 20, where), oracle.search(code, 20, where)
            assert found.entry_ids.tolist() == expected.entry_ids.tolist(), (
                f"{kept} % kept: not the nearest inside the filter"
            )
            assert found.hamming.tolist() == expected.hamming.tolist()
