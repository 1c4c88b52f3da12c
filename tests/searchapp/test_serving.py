"""The reference this process answers from is immutable, follows every committed change, and is replaced whole."""

import dataclasses
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from django.db import connection
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings

from ml.retrieval.columns import EntryFilter
from ml.retrieval.index import EngineFactory
from ml.retrieval.view import GalleryView
from searchapp.exceptions import Unavailable
from searchapp.models import (
    Deployment,
    GalleryChange,
    GalleryCounter,
    GalleryEntry,
    ItemImage,
    Job,
    JobState,
    ModelVersion,
)
from searchapp.services import arms, catalogue, serving, versions
from searchapp.services.announcing import announce, announced
from searchapp.services.gallery import NewEntry, entries_add, gallery_transaction
from searchapp.services.gallery_columns import read_items
from searchapp.services.gallery_views import view_rebuilt
from searchapp.services.jobs import JobRun
from tests.searchapp.galleries import encode_missing, item_with_photos, shop
from tests.searchapp.lineages import descendant

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def served_entry_ids() -> set[int]:
    return set(serving.follow_once().champion.view.compacted_entries().entry_ids.tolist())


def row_entry_ids() -> set[int]:
    return set(GalleryEntry.objects.values_list("pk", flat=True))


def test_a_fresh_installation_serves_an_empty_gallery_by_the_shipped_version(data_dir: Path) -> None:
    reference = serving.follow_once()

    assert reference.champion.version.name == "1.0"
    assert len(reference.champion.view) == 0
    assert reference.sequence == 0


def test_the_view_holds_exactly_the_rows(data_dir: Path, photos: list[bytes]) -> None:
    shop(photos)

    view = serving.follow_once().champion.view

    entries = view.compacted_entries()
    rows = {row.pk: row for row in GalleryEntry.objects.select_related("image")}
    assert set(entries.entry_ids.tolist()) == set(rows)
    for position, entry_id in enumerate(entries.entry_ids.tolist()):
        row = rows[entry_id]
        assert entries.codes[position].tobytes() == bytes(row.code)
        assert entries.embeddings[position].astype("<f2").tobytes() == bytes(row.embedding)
        assert entries.image_ids[position] == row.image_id
        assert entries.item_ids[position] == row.image.item_id
    assert view.counts_by_producer == {"1.0": 6}


def test_following_applies_adds_and_deletions_without_reading_everything_again(
    data_dir: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = shop(photos)
    before = serving.follow_once()
    monkeypatch.setattr(arms, "view_rebuilt", None)  # a rebuild now would fail

    item_with_photos("late", photos[8:10])
    encode_missing()
    catalogue.item_delete(item=items[0])

    assert served_entry_ids() == row_entry_ids()
    assert len(row_entry_ids()) == 7
    assert len(before.champion.view) == 6  # who still holds the old reference sees the old state


def test_a_changed_item_is_filtered_by_its_new_price_category_and_tags(
    data_dir: Path, photos: list[bytes]
) -> None:
    apple = shop(photos)[0]
    serving.follow_once()
    drink = catalogue.category_ensure("Drink", vertical="product")

    catalogue.item_update(item=apple, category=drink, price="99", tags=["rare"])

    items = serving.follow_once().champion.view.items
    where = EntryFilter(category_ids=frozenset({drink.pk}), price_min=90.0)
    passing = items.passing(where)
    assert [items.slots_of(np.array([apple.pk]))[0]] == np.flatnonzero(passing).tolist()


def test_a_deleted_photo_leaves_the_view_and_its_item_stays(data_dir: Path, photos: list[bytes]) -> None:
    item = item_with_photos("two", photos[:2])
    encode_missing()
    serving.follow_once()

    catalogue.image_delete(image=item.images.earliest("pk"))

    assert served_entry_ids() == row_entry_ids()
    assert len(row_entry_ids()) == 1


def test_an_unchanged_gallery_costs_two_reads_and_keeps_the_reference(
    data_dir: Path, photos: list[bytes], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    shop(photos)
    reference = serving.follow_once()

    with django_assert_num_queries(2):
        again = serving.follow_once()

    assert again is reference


def test_changes_that_were_pruned_lead_to_a_rebuild_from_rows(data_dir: Path, photos: list[bytes]) -> None:
    shop(photos)
    serving.follow_once()
    item_with_photos("late", photos[8:9])
    encode_missing()
    GalleryChange.objects.all().delete()

    assert served_entry_ids() == row_entry_ids()
    assert len(row_entry_ids()) == 7


def test_a_database_that_was_put_back_to_an_earlier_state_is_read_afresh(
    data_dir: Path, photos: list[bytes]
) -> None:
    items = shop(photos)
    serving.follow_once()
    GalleryChange.objects.all().delete()
    ItemImage.objects.filter(item=items[0]).delete()
    GalleryCounter.objects.update(value=1)

    assert served_entry_ids() == row_entry_ids()


def test_replaying_a_change_that_is_applied_already_changes_nothing(
    data_dir: Path, photos: list[bytes]
) -> None:
    shop(photos)
    reference = serving.follow_once()
    arm = reference.champion

    again = arms.arm_followed(arm, 0, reference.sequence)  # everything once more

    assert (
        again.view.compacted_entries().entry_ids.tolist() == arm.view.compacted_entries().entry_ids.tolist()
    )


def test_a_newer_row_of_the_view_takes_the_place_of_the_older_one(
    data_dir: Path, photos: list[bytes]
) -> None:
    """Two increments of one lineage: the champion 1.1 sees 1.0's rows until a photo has one of its own."""
    shop(photos)
    old = versions.champion()
    reference = serving.follow_once()
    newer = old.version
    newer.pk, newer.minor, newer.digest = None, 1, "f" * 64
    newer.save(force_insert=True)
    entry = GalleryEntry.objects.order_by("pk").first()
    assert entry is not None
    flipped = bytes(255 - byte for byte in bytes(entry.code))
    with gallery_transaction() as changes:
        solved = NewEntry(entry.image_id, entry.image_sha256, flipped, bytes(entry.embedding))
        entries_add(changes, version=newer, entries=[solved])

    known = reference.champion.calibrations
    as_new = dataclasses.replace(
        reference.champion, version=newer, calibrations={**known, "1.1": known["1.0"]}
    )
    followed = arms.arm_followed(as_new, reference.sequence, GalleryCounter.objects.get().value)
    entries = followed.view.compacted_entries()

    assert followed.view.counts_by_producer == {"1.0": 5, "1.1": 1}
    assert entries.codes[entries.image_ids == entry.image_id].tobytes() == flipped
    old_view = serving.follow_once().champion.view  # the champion is 1.0 still and keeps its own row
    assert old_view.counts_by_producer == {"1.0": 6}


def test_when_the_pointer_moves_the_new_arm_is_loaded_beside_the_old_one(
    data_dir: Path, photos: list[bytes]
) -> None:
    shop(photos)
    before = serving.follow_once()
    live = versions.champion()
    Deployment.objects.filter(pk=live.pk).update(ended_at=live.created_at)
    moved = Deployment.objects.create(version=live.version, view=live.view, previous=live)

    after = serving.follow_once()

    assert after is not before
    assert after.champion.deployment_id == moved.pk
    assert before.champion.deployment_id == live.pk
    assert len(after.champion.view) == len(before.champion.view) == 6


def test_an_arm_that_cannot_be_loaded_leaves_the_old_reference_in_place(
    data_dir: Path, photos: list[bytes]
) -> None:
    shop(photos)
    before = serving.follow_once()
    live = versions.champion()
    broken = live.version
    broken.pk, broken.major, broken.digest = None, 2, "e" * 64
    broken.save(force_insert=True)
    Deployment.objects.filter(pk=live.pk).update(ended_at=live.created_at)
    Deployment.objects.create(version=broken, view=live.view)

    with pytest.raises(FileNotFoundError):
        serving.follow_once()

    assert serving._follower.reference is before


def test_a_move_that_was_announced_is_followed_without_loading_anything(
    data_dir: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(photos)
    serving.follow_once()
    second, live = descendant(), versions.champion()
    job = Job.objects.create(
        kind="promote", state=JobState.RUNNING, checkpoint={"announced": [second.pk, ""]}
    )

    serving.prepare()
    item_with_photos("late", photos[8:9])
    encode_missing()
    monkeypatch.setattr(serving, "arm_opened", None)  # loading anything now would fail
    monkeypatch.setattr(arms, "arm_opened", None)
    serving.prepare()
    Deployment.objects.filter(pk=live.pk).update(ended_at=live.created_at)
    moved = Deployment.objects.create(version=second, view=second.views.get(), previous=live)

    champion = serving.follow_once().champion
    assert (champion.version, champion.deployment_id, len(champion.view)) == (second, moved.pk, 7)
    assert champion.name == "champion"
    Job.objects.filter(pk=job.pk).update(state=JobState.DONE)
    serving.prepare()
    assert serving._follower.prepared is None


def test_only_what_takes_long_to_load_is_announced_and_waited_for(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = versions.default_version_ensure()
    run = JobRun(Job.objects.create(kind="promote", state=JobState.RUNNING, fence=1))
    slept: list[float] = []
    clock = iter(range(100))
    monkeypatch.setattr("searchapp.services.announcing.time.sleep", slept.append)
    monkeypatch.setattr("searchapp.services.announcing.time.monotonic", lambda: next(clock) / 4)

    announce(run, version, "", load_seconds=0.4)
    assert (announced(), slept) == (None, [])
    announce(run, version, "f" * 64, load_seconds=1.0)

    assert announced() == (version, "f" * 64)
    assert len(slept) >= 2


def test_items_read_by_id_are_the_same_as_all_items(data_dir: Path, photos: list[bytes]) -> None:
    items = shop(photos)
    everything, some = read_items(), read_items([item.pk for item in items])

    assert everything.item_ids.tolist() == some.item_ids.tolist()
    assert everything.tag_ids.tolist() == some.tag_ids.tolist()
    assert np.array_equal(everything.prices, some.prices, equal_nan=True)


@pytest.mark.django_db(transaction=True)
def test_until_the_thread_has_loaded_the_gallery_searching_is_unavailable_then_it_follows(
    data_dir: Path, photos: list[bytes], settings: Settings
) -> None:
    settings.GALLERY_FOLLOW_SECONDS = 0.05
    shop(photos)
    release = threading.Event()
    loaded = serving._loaded

    def waits(*arguments: object) -> object:
        release.wait(10)
        connection.close()
        return loaded(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(serving, "_loaded", waits)
        with pytest.raises(Unavailable, match="being loaded") as refused:
            serving.current()
        assert refused.value.retry_after_seconds >= 1
        release.set()
        wait_until(lambda: serving._follower.reference is not None)
    assert len(serving.current().champion.view) == 6

    item_with_photos("late", photos[8:9])
    encode_missing()

    wait_until(lambda: len(serving.current().champion.view) == 7, seconds=2.0)
    serving.stop_follower()


def wait_until(happened: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


@pytest.mark.parametrize("is_step_last", [True, False])
def test_a_repairs_step_beside_a_change_is_not_overlooked(
    data_dir: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch, *, is_step_last: bool
) -> None:
    shop(photos)
    serving.follow_once()
    rebuilt: list[bool] = []

    def counted(
        version: ModelVersion, *, engine: EngineFactory, corrector_digest: str
    ) -> tuple[GalleryView, int]:
        rebuilt.append(True)
        return view_rebuilt(version, engine=engine, corrector_digest=corrector_digest)

    monkeypatch.setattr(arms, "view_rebuilt", counted)

    item_with_photos("b", photos[8:9])
    GalleryCounter.objects.update(
        value=GalleryCounter.objects.get().value + 1
    )  # as index_audit --repair does
    if not is_step_last:
        encode_missing()
    serving.follow_once()

    assert rebuilt == [True]
    assert served_entry_ids() == row_entry_ids()
