"""Shifted photos and moved labels are found, and what is as usual raises no alarm."""

import io
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.utils import timezone
from PIL import Image
from pytest_django.fixtures import Settings

from ml.methods.lifelong.drift import Limits, crowding
from ml.methods.lifelong.labels import Centring, similarity
from searchapp.exceptions import Conflict
from searchapp.models import (
    Category,
    CountedEntry,
    EvaluationQuery,
    GalleryEntry,
    Item,
    ItemImage,
    Job,
    JobState,
    ModelVersion,
    PhotoFeature,
)
from searchapp.services import catalogue, category_moves, code_drift, drift_photos, drift_watch
from searchapp.services.category_labels import ANCESTOR_WEIGHT
from searchapp.services.code_statistics import entries_count
from searchapp.services.drift_measuring import LEAST_NEW
from searchapp.services.gallery import gallery_transaction
from searchapp.services.jobs import job_run_here
from searchapp.services.learning import learn_ask
from tests.searchapp.coded_rows import entries_of, items_of, put_in_use, version_of
from tests.searchapp.galleries import encode_missing, item_with_photos
from tests.searchapp.trainings import class_photos

pytestmark = [pytest.mark.django_db, pytest.mark.database]

KNOWN, HELD_OUT = 20, 6  # photos of a class that the shop begins with; those of them that are held out
CLASSES = 3


@pytest.fixture(autouse=True)
def _no_heartbeat(settings: Settings) -> None:
    """The lease's thread has a connection of its own and cannot see this test's rows."""
    settings.JOB_LEASE_SECONDS = 3600


# --- real photos, through the product


def darkened(photo: bytes) -> bytes:
    """As a camera takes it that gets half of the light."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo)).convert("RGB").point(lambda value: value // 2).save(buffer, "JPEG")
    return buffer.getvalue()


def stocked(packs: Path) -> None:
    """Three classes with 20 photos, an item each, six of them held out; every second photo of the pack is left over."""
    for name, photos in class_photos(packs, CLASSES, 2 * KNOWN).items():
        for number, photo in enumerate(photos[::2]):
            item = item_with_photos(f"{name}-{number}", [photo], f"Fruit > {name}")
            if number < HELD_OUT:
                held_out(item.images.get())
    encode_missing()


def later(packs: Path, *, dark: bool) -> None:
    for name, photos in class_photos(packs, CLASSES, 2 * KNOWN).items():
        for number, photo in enumerate(photos[1::2]):
            new = darkened(photo) if dark else photo
            item_with_photos(f"{name}-later-{number}", [new], f"Fruit > {name}")
    encode_missing()


def held_out(photo: ItemImage) -> None:
    EvaluationQuery.objects.create(
        source=f"test:{photo.pk}",
        split="test",
        image_sha256=photo.image_sha256,
        upload_sha256=photo.upload_sha256,
        extension=photo.extension,
        relevance="category",
        item=photo.item,
        category=photo.item.category,
    )


def looked() -> dict[str, Any]:
    job = job_run_here(drift_watch.watch_start())
    assert job.state == JobState.DONE, job.error
    return dict(job.result or {})


def test_darker_photos_raise_an_alarm_with_its_measured_reason_and_the_same_ones_as_they_are_none(
    data_packs: Path, data_dir: Path
) -> None:
    stocked(data_packs)
    first = looked()
    later(data_packs, dark=False)
    usual = looked()
    Item.objects.filter(sku__contains="later").delete()
    later(data_packs, dark=True)

    shifted = looked()

    assert first["shift_untold"] == f"not enough new photos to tell (0 of {LEAST_NEW} needed)"
    assert first["remedy"] == "none"
    assert (usual["shift"]["photos"], usual["shift"]["held_out"]) == (CLASSES * KNOWN, CLASSES * HELD_OUT)
    assert (usual["remedy"], usual["due"]) == ("none", [])
    assert usual["shift"]["statistic"] < Limits().partial_from
    assert shifted["shift"]["has_fired"] is True
    assert shifted["shift"]["statistic"] > max(Limits().partial_from, 2 * usual["shift"]["statistic"])
    assert shifted["due"] == ["shift"]
    assert shifted["remedy"] in {"partial", "full"}
    assert f"{CLASSES * KNOWN} photos of {CLASSES * KNOWN} items" in shifted["reasons"][0]


# --- rows alone


@pytest.fixture
def version() -> ModelVersion:
    """1.0, in use."""
    made = version_of("1.0")
    put_in_use(made)
    return made


def category(path: str) -> Category:
    return catalogue.category_ensure(path, waits=False)


def photos_in(
    version: ModelVersion, where: Category, count: int, *, at: float = 0.0, held: int = 0, seed: int = 0
) -> list[ItemImage]:
    """New photos of an item each, whose features lie around `at`; the first `held` of them are held out."""
    items = items_of(where, [1] * count)
    photos = list(ItemImage.objects.filter(item__in=items).select_related("item__category").order_by("pk"))
    features = np.random.default_rng([seed, where.pk]).normal(at, 1.0, (count, 4)).astype("<f4")
    PhotoFeature.objects.bulk_create(
        PhotoFeature(image_sha256=photo.image_sha256, trunk=version, feature=feature.tobytes())
        for photo, feature in zip(photos, features, strict=True)
    )
    entries_of(version, photos, seed=seed)
    for photo in photos[:held]:
        held_out(photo)
    return photos


def test_a_photo_less_than_are_needed_tells_nothing_and_one_more_does(version: ModelVersion) -> None:
    apple = category("Apple")
    photos_in(version, apple, 60, held=20)
    looked()
    photos_in(version, apple, LEAST_NEW - 1, at=3.0, seed=1)
    few = looked()
    photos_in(version, apple, 1, at=3.0, seed=2)

    enough = looked()

    assert few["shift"] is None
    assert few["shift_untold"] == f"not enough new photos to tell ({LEAST_NEW - 1} of {LEAST_NEW} needed)"
    assert (enough["shift"]["photos"], enough["shift_untold"]) == (LEAST_NEW, "")
    # In standard deviations as 40 remembered photos tell them: which ones depends on their ids.
    assert enough["shift"]["statistic"] == pytest.approx(3.0, abs=1.0)
    assert enough["remedy"] == "full"


def test_held_out_photos_of_too_few_items_tell_nothing(version: ModelVersion) -> None:
    apple = category("Apple")
    photos_in(version, apple, 60, held=9)
    looked()
    photos_in(version, apple, 40, at=3.0, seed=1)

    found = looked()

    assert found["shift"] is None
    assert found["shift_untold"] == "held-out photos show 9 items, an alarm needs at least 10"
    assert found["remedy"] == "none"


def test_an_alarm_stays_as_long_as_the_newest_photos_are_shifted_and_is_not_got_used_to(
    version: ModelVersion,
) -> None:
    apple = category("Apple")
    photos_in(version, apple, 60, held=20)
    looked()
    photos_in(version, apple, 40, at=1.0, seed=1)
    first = looked()
    photos_in(version, apple, 40, at=1.0, seed=2, held=10)

    again = looked()

    assert (first["due"], again["due"]) == (["shift"], ["shift"])
    assert (first["shift"]["photos"], again["shift"]["photos"]) == (40, 80)
    assert again["shift"]["held_out"] == 20
    assert again["usual"] == first["usual"]


def test_photos_of_a_category_that_waits_are_left_aside_and_watched_from_when_it_is_known(
    version: ModelVersion,
) -> None:
    apple, kiwi = category("Apple"), category("Kiwi")
    learn_ask([kiwi])
    photos_in(version, apple, 60, held=20)
    looked()
    photos_in(version, kiwi, 40, at=5.0)
    waiting = looked()
    version.label_registry = [kiwi.slug]
    version.save()
    known = looked()
    photos_in(version, kiwi, 40, at=5.0, seed=1)

    later_ones = looked()

    assert waiting["shift_untold"] == f"not enough new photos to tell (0 of {LEAST_NEW} needed)"
    assert [row["categories"] for row in waiting["usual"]] == [[apple.pk]]
    assert known["shift"] is None
    assert [row["categories"] for row in known["usual"]] == [[apple.pk], [kiwi.pk]]
    assert (later_ones["shift"]["photos"], later_ones["remedy"]) == (40, "none")


def test_what_a_category_is_known_by_holds_nothing_held_out_and_nothing_later(version: ModelVersion) -> None:
    apple = category("Apple")
    before = photos_in(version, apple, 12, held=4)
    cuts = drift_photos.cuts_now(version, {})
    after = photos_in(version, apple, 5, seed=1, held=2)

    known = drift_photos.usual_photos(cuts, [apple.pk])
    asked = drift_photos.held_out_photos(cuts)
    new = drift_photos.new_photos(cuts)

    assert {photo.image_sha256 for photo in known} == {photo.image_sha256 for photo in before[4:]}
    assert {photo.image_sha256 for photo in asked} == {photo.image_sha256 for photo in before[:4]}
    assert [photo.image_sha256 for photo in new] == [photo.image_sha256 for photo in reversed(after)]
    assert drift_photos.cuts_from(drift_photos.cuts_as_rows(cuts)) == cuts


def test_a_version_with_another_trunk_begins_anew(version: ModelVersion) -> None:
    apple = category("Apple")
    photos_in(version, apple, 60, held=20)
    looked()
    photos_in(version, apple, 40, at=3.0, seed=1)
    alarmed = looked()
    other = version_of("2.0")
    put_in_use(other)

    fresh = looked()

    assert alarmed["remedy"] == "full"
    assert fresh["remedy"] == "none"
    assert fresh["usual"][0]["photo"] > alarmed["usual"][0]["photo"]
    assert drift_watch.look_at(version).remedy == "full"


# --- when it looks


def changed(*, minutes: int) -> None:
    """The last look was so long ago."""
    Job.objects.filter(kind=drift_watch.KIND).update(created_at=timezone.now() - timedelta(minutes=minutes))


def photo_added(version: ModelVersion, where: Category) -> None:
    photo = items_of(where, [1])[0].images.get()
    with gallery_transaction() as changes:
        changes.record("entry_added", [entry.pk for entry in entries_of(version, [photo], seed=3)])  # type: ignore[arg-type]


def test_it_looks_again_once_the_gallery_has_changed_and_some_time_has_passed(version: ModelVersion) -> None:
    assert drift_watch.watch_if_due() is None  # nothing is there
    apple = category("Apple")
    photo_added(version, apple)
    first = drift_watch.watch_if_due()
    assert first is not None
    changed(minutes=60)
    assert drift_watch.watch_if_due() is None  # it waits to be run
    job_run_here(first)
    assert drift_watch.watch_if_due() is None  # nothing has changed since

    photo_added(version, apple)
    changed(minutes=9)
    early = drift_watch.watch_if_due()
    changed(minutes=11)
    adding = Job.objects.create(kind="import_catalogue")
    meanwhile = drift_watch.watch_if_due()
    adding.delete()

    assert (early, meanwhile) == (None, None)
    assert drift_watch.watch_if_due() is not None


def test_asking_twice_is_one_look_and_an_empty_gallery_is_refused(version: ModelVersion) -> None:
    with pytest.raises(Conflict, match="no photo of the catalogue is encoded"):
        drift_watch.watch_start()
    assert Job.objects.count() == 0
    photo_added(version, category("Apple"))

    assert drift_watch.watch_start() == drift_watch.watch_start()


# --- labels and codes


@pytest.fixture
def counted(version: ModelVersion) -> list[Item]:
    """Four items of Apple and six of Pear, a photo each, all counted."""
    items = items_of(category("Apple"), [1] * 4) + items_of(category("Pear"), [1] * 6)
    photos = list(ItemImage.objects.order_by("pk"))
    entries_of(version, photos, seed=4)
    with gallery_transaction():
        entries_count(version=version, image_ids=[photo.pk for photo in photos])
    return items


def codeword(items: Sequence[Item]) -> Any:
    codes = GalleryEntry.objects.filter(image__item__in=items).values_list("code", flat=True)
    bits = np.stack([np.unpackbits(np.frombuffer(bytes(code), np.uint8)) for code in codes]).astype(np.int64)
    return np.where((2 * bits - 1).sum(axis=0) >= 0, 1, -1)


def test_nothing_counted_is_said_to_be_unknown(version: ModelVersion) -> None:
    assert code_drift.labels_moved(version.lineage) is None
    assert code_drift.codes_crowded(version) is None


def test_items_that_get_another_category_drift_by_the_distance_of_codewords_and_back_again_not_at_all(
    version: ModelVersion, counted: list[Item]
) -> None:
    apple, pear = counted[:4], counted[4:]
    before = code_drift.labels_moved(version.lineage)
    for item in pear[:2]:
        catalogue.item_update(item=item, category=category("Apple"))

    moved = looked()["labels"]

    similarity_of_words = float((codeword(apple) * codeword(pear)).mean())
    assert before is not None
    assert (before.entries, before.moved, before.lost) == (10, 0, 0.0)
    assert (moved["entries"], moved["moved"]) == (10, 2)
    assert moved["lost"] == pytest.approx(2 * (1 - similarity_of_words) / 10)
    for item in pear[:2]:
        catalogue.item_update(item=item, category=category("Pear"))
    assert code_drift.labels_moved(version.lineage) == before


def test_enough_moved_labels_call_for_new_codes(version: ModelVersion, counted: list[Item]) -> None:
    catalogue.item_update(item=counted[0], category=category("Pear"))

    found = looked()

    assert (found["remedy"], found["due"]) == ("full", ["labels"])
    assert found["reasons"][0].startswith(
        "1 of 10 stored entries have other labels than their codes were made for"
    )


def test_codes_of_a_category_that_was_merged_away_are_told_as_moved_and_stay_as_they_are(
    version: ModelVersion, counted: list[Item]
) -> None:
    codes = list(GalleryEntry.objects.order_by("pk").values_list("pk", "code"))
    words = codeword(counted[:4]), codeword(counted)
    category_moves.categories_merge(source=category("Pear"), into=category("Apple"))

    found = code_drift.labels_moved(version.lineage)

    assert found is not None
    assert (found.entries, found.moved) == (10, 6)
    assert found.lost == pytest.approx(6 * (1 - float((words[0] * words[1]).mean())) / 10)
    assert list(GalleryEntry.objects.order_by("pk").values_list("pk", "code")) == codes


def test_a_category_that_holds_only_what_others_were_made_for_has_the_word_of_those(
    version: ModelVersion, counted: list[Item]
) -> None:
    fig = category("Fig")
    for item in counted[4:6]:
        catalogue.item_update(item=item, category=fig)

    found = code_drift.labels_moved(version.lineage)

    words = codeword(counted[4:]), codeword(counted[4:6])
    assert found is not None
    assert found.lost == pytest.approx(2 * (1 - float((words[0] * words[1]).mean())) / 10)


def test_a_photo_that_is_encoded_anew_is_made_for_the_category_it_has_then(
    version: ModelVersion, counted: list[Item]
) -> None:
    catalogue.item_update(item=counted[0], category=category("Pear"))
    increment = version_of("1.1", parent=version)
    photo = counted[0].images.get()
    entries_of(increment, [photo], seed=9)

    with gallery_transaction():
        entries_count(version=increment, image_ids=[photo.pk])

    found = code_drift.labels_moved(version.lineage)
    assert found is not None
    assert found.moved == 0
    assert CountedEntry.objects.get(image=photo).made_as == category("Pear")


@pytest.mark.parametrize(
    ("root", "shared"),
    [("", 0.0), ("Fruit > ", ANCESTOR_WEIGHT**2 / (1 + ANCESTOR_WEIGHT**2))],
)
def test_crowding_is_that_of_the_codewords_against_what_labels_ask(
    version: ModelVersion, root: str, shared: float
) -> None:
    groups = [
        items_of(category(path), [1] * count)
        for path, count in ((f"{root}Apple", 4), (f"{root}Pear", 6), ("Drink", 2))
    ]
    photos = list(ItemImage.objects.order_by("pk"))
    entries_of(version, photos, seed=4)
    with gallery_transaction():
        entries_count(version=version, image_ids=[photo.pk for photo in photos])

    found = code_drift.codes_crowded(version)

    rows = np.array(
        [[1.0, 0.0, 0.0], [shared, (1 - shared**2) ** 0.5, 0.0], [0.0, 0.0, 1.0]]
    )  # as alike as labels
    target = Centring.of(np.array([4, 6, 2]) @ rows, 12)(similarity(rows, rows))
    wanted = crowding(np.stack([codeword(items) for items in groups]).astype(np.int8), target)
    assert found is not None
    assert (found.categories, found.crowding.nearest) == (3, wanted.nearest)
    assert found.crowding.smallest == pytest.approx(wanted.smallest)
    assert found.crowding.mean == pytest.approx(wanted.mean)
