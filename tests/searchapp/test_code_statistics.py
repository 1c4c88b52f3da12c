"""What is counted of stored codes is what a count from nothing finds, whatever was done in between."""

import time
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from ml.methods.lifelong.labels import LabelSet
from searchapp.models import (
    AuditEvent,
    Category,
    CodeGram,
    CodeTally,
    CountedEntry,
    EvaluationQuery,
    GalleryEntry,
    Item,
    ItemImage,
    ModelVersion,
    Provenance,
)
from searchapp.services import catalogue, versions
from searchapp.services import code_statistics as statistics
from searchapp.services.gallery import gallery_transaction
from tests.searchapp.coded_rows import BITS, entries_of, items_of, put_in_use, version_of
from tests.searchapp.galleries import shop
from tests.searchapp.imports import apple, csv_catalogue, imported

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def label_sets() -> dict[int, LabelSet]:
    return {pk: (pk,) for pk in Category.objects.values_list("pk", flat=True)}


def assert_as_counted_from_nothing(version: ModelVersion) -> None:
    kept = statistics.statistics_of(version.lineage, label_sets(), version.code_bits)
    told = statistics.recounted(version.lineage, label_sets(), version.code_bits)
    assert kept.items_of_sets() == told.items_of_sets()
    assert all(
        (kept.tallies[labels].code_sum == told.tallies[labels].code_sum).all() for labels in told.tallies
    )
    assert (kept.gram == told.gram).all()


def count(version: ModelVersion, images: Any = None) -> int:
    photos = ItemImage.objects.all() if images is None else images
    with gallery_transaction():
        return statistics.entries_count(version=version, image_ids=[photo.pk for photo in photos])


def photos_of(items: list[Item]) -> list[ItemImage]:
    return list(ItemImage.objects.filter(item__in=items).order_by("pk"))


@pytest.fixture
def first() -> ModelVersion:
    """1.0, in use."""
    version = version_of("1.0")
    put_in_use(version)
    return version


@pytest.fixture
def fruit(first: ModelVersion) -> list[Item]:
    """Three items of Fruit > Apple with two photos each, and two of Drink with one, coded by 1.0; none counted."""
    items = items_of(catalogue.category_ensure("Fruit > Apple"), [2, 2, 2])
    items += items_of(catalogue.category_ensure("Drink"), [1, 1])
    entries_of(first, photos_of(items), seed=1)
    return items


def held(version: ModelVersion) -> dict[str, int]:
    paths = dict(Category.objects.values_list("pk", "path"))
    return {paths[pk]: items for pk, items in statistics.counted_items(version.lineage).items()}


def test_photos_are_counted_once_and_a_second_call_changes_nothing(
    first: ModelVersion, fruit: list[Item]
) -> None:
    assert statistics.uncounted(first) == [photo.pk for photo in photos_of(fruit)]

    assert count(first) == 8
    assert count(first) == 0

    assert held(first) == {"Fruit > Apple": 6, "Drink": 2}
    assert statistics.uncounted(first) == []
    assert_as_counted_from_nothing(first)


def test_encoded_photos_of_a_shop_are_counted(data_dir: Path, photos: list[bytes]) -> None:
    shop(photos)
    version = versions.champion().version
    count(version)
    assert held(version) == {"Fruit > Apple": 3, "Drink": 3}
    assert_as_counted_from_nothing(version)


def test_nothing_counted_has_statistics_of_nothing(first: ModelVersion) -> None:
    empty = statistics.statistics_of(first.lineage, {}, BITS)
    assert (empty.items, empty.gram.shape) == (0, (BITS, BITS))
    assert not empty.gram.any()
    assert not CodeGram.objects.exists()


def test_a_photo_whose_code_was_solved_anew_is_counted_by_that_code_alone(
    first: ModelVersion, fruit: list[Item]
) -> None:
    count(first)
    second = version_of("1.1", parent=first)
    solved = entries_of(second, photos_of(fruit[:1]), seed=2, provenance=Provenance.SOLVED)

    assert statistics.uncounted(second) == [entry.image_id for entry in solved]
    assert count(second) == 2

    assert held(first) == {"Fruit > Apple": 6, "Drink": 2}
    assert set(CountedEntry.objects.filter(entry__producer=second).values_list("pk", flat=True)) == {
        entry.pk for entry in solved
    }
    assert_as_counted_from_nothing(second)
    # Going back: what stands for these photos is the old entry again.
    assert statistics.uncounted(first) == [entry.image_id for entry in solved]
    assert count(first) == 2
    assert not CountedEntry.objects.filter(entry__producer=second).exists()
    assert_as_counted_from_nothing(first)


def test_a_category_that_waits_to_be_learned_is_not_counted_before_it_is(
    first: ModelVersion, fruit: list[Item]
) -> None:
    pear = Category.objects.create(name="Pear", path="Pear", slug="pear", learn_asked_at=timezone.now())
    items = items_of(pear, [1, 1])
    entries_of(first, photos_of(items), seed=3)

    assert count(first) == 8
    assert held(first) == {"Fruit > Apple": 6, "Drink": 2}

    second = version_of("1.1", parent=first, labels=["pear"])
    assert statistics.uncounted(second) == [photo.pk for photo in photos_of(items)]
    assert count(second) == 2
    assert held(second) == {"Fruit > Apple": 6, "Drink": 2, "Pear": 2}
    # Back with a version that does not know it, it waits again.
    assert statistics.uncounted(first) == [photo.pk for photo in photos_of(items)]
    assert count(first) == 2
    assert held(first) == {"Fruit > Apple": 6, "Drink": 2}
    assert_as_counted_from_nothing(first)


def test_another_category_takes_the_counts_and_the_held_out_photos_along_and_no_code_changes(
    first: ModelVersion, fruit: list[Item]
) -> None:
    count(first)
    apple, drink = fruit[0].category, fruit[-1].category
    query = EvaluationQuery.objects.create(
        source="q", split="one-in-eight", relevance="category", item=fruit[0], category=apple,
        image_sha256="0" * 64, upload_sha256="0" * 64, extension="jpg",
    )  # fmt: skip
    codes = dict(GalleryEntry.objects.values_list("pk", "code"))

    catalogue.item_update(item=fruit[0], category=drink)

    assert held(first) == {"Fruit > Apple": 4, "Drink": 4}
    assert_as_counted_from_nothing(first)
    query.refresh_from_db()
    assert query.category == drink
    assert {pk: bytes(code) for pk, code in codes.items()} == {
        pk: bytes(code) for pk, code in GalleryEntry.objects.values_list("pk", "code")
    }


def test_into_a_category_that_waits_codes_are_taken_out_of_the_count(
    first: ModelVersion, fruit: list[Item]
) -> None:
    count(first)
    pear = Category.objects.create(name="Pear", path="Pear", slug="pear", learn_asked_at=timezone.now())
    catalogue.item_update(item=fruit[0], category=pear)
    assert held(first) == {"Fruit > Apple": 4, "Drink": 2}
    assert statistics.uncounted(first) == []
    assert_as_counted_from_nothing(first)


def test_deleted_photos_and_items_are_subtracted(first: ModelVersion, fruit: list[Item]) -> None:
    count(first)
    gone = photos_of(fruit[:2])

    catalogue.image_delete(image=gone[0])
    assert held(first) == {"Fruit > Apple": 5, "Drink": 2}
    assert_as_counted_from_nothing(first)

    catalogue.items_delete(items=[fruit[1], fruit[3], fruit[4]])
    assert held(first) == {"Fruit > Apple": 3}
    assert_as_counted_from_nothing(first)
    assert CodeTally.objects.count() == 1

    assert count(first) == 0  # what was deleted never returns
    catalogue.items_delete(items=[fruit[0], fruit[2]])
    assert (CodeTally.objects.count(), CountedEntry.objects.count()) == (0, 0)
    assert not statistics.statistics_of(first.lineage, {}, BITS).gram.any()


def test_a_new_name_and_another_place_in_the_tree_change_no_statistics(
    first: ModelVersion, fruit: list[Item]
) -> None:
    count(first)
    before = list(CodeTally.objects.order_by("pk").values_list("category", "items", "code_sum"))
    apple, drink = fruit[0].category, fruit[-1].category

    catalogue.category_update(category=apple, name="Äpfel")
    catalogue.category_update(category=Category.objects.get(pk=apple.pk), parent=drink)

    assert before == list(CodeTally.objects.order_by("pk").values_list("category", "items", "code_sum"))
    assert held(first) == {"Drink > Äpfel": 6, "Drink": 2}


def code_written_behind_the_services_back(entry: GalleryEntry) -> None:
    flipped = bytes([bytes(entry.code)[0] ^ 1]) + bytes(entry.code)[1:]
    on_table = "" if connection.vendor == "sqlite" else " ON searchapp_galleryentry"
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TRIGGER gallery_entry_no_update{on_table}")  # back with the test's transaction
    GalleryEntry.objects.filter(pk=entry.pk).update(code=flipped)


def test_a_byte_changed_behind_the_services_back_is_found_and_named(
    first: ModelVersion, fruit: list[Item]
) -> None:
    count(first)
    before = statistics.codes_check(first.lineage)
    assert (before.checked, before.changed) == (8, ())
    victim = GalleryEntry.objects.get(image=photos_of(fruit)[2])

    code_written_behind_the_services_back(victim)

    after = statistics.codes_check(first.lineage)
    assert after.changed == (
        statistics.ChangedCode(victim.image_sha256, fruit[1].sku, "1.0", "Fruit > Apple"),
    )
    assert (after.checked, after.digest != before.digest) == (8, True)
    drink = statistics.codes_check(first.lineage, [fruit[-1].category_id])
    assert (drink.checked, drink.changed) == (2, ())


def test_what_was_changed_behind_the_services_back_can_be_deleted_and_the_rest_is_counted_right(
    first: ModelVersion, fruit: list[Item]
) -> None:
    count(first)
    code_written_behind_the_services_back(GalleryEntry.objects.get(image=photos_of(fruit)[2]))

    catalogue.item_delete(item=fruit[1])

    assert held(first) == {"Fruit > Apple": 4, "Drink": 2}
    assert_as_counted_from_nothing(first)


def test_codes_counted_under_a_category_without_a_label_set_are_refused(
    first: ModelVersion, fruit: list[Item]
) -> None:
    count(first)
    with pytest.raises(ValueError, match="'Drink', which has no label set"):
        statistics.statistics_of(first.lineage, {fruit[0].category_id: (0,)}, BITS)
    with pytest.raises(ValueError, match="128 bits"):
        statistics.statistics_of(first.lineage, label_sets(), 128)


def test_categories_of_one_label_set_are_summed(first: ModelVersion, fruit: list[Item]) -> None:
    count(first)
    same: dict[int, LabelSet] = dict.fromkeys(label_sets(), (0,))
    kept, told = (
        found(first.lineage, same, BITS) for found in (statistics.statistics_of, statistics.recounted)
    )
    assert kept.items_of_sets() == told.items_of_sets() == {(0,): 8}
    assert (kept.tallies[(0,)].code_sum == told.tallies[(0,)].code_sum).all()


def test_an_import_that_moves_an_item_moves_what_is_counted_of_it(
    data_dir: Path, tmp_path: Path, photos: list[bytes]
) -> None:
    drink = {**apple(2), "category": "Drink"}
    imported(csv_catalogue(tmp_path / "shop", photos[:3], [apple(0), apple(1), drink]))
    version = versions.champion().version
    count(version)

    moved = {**apple(1), "category": "Drink"}
    imported(csv_catalogue(tmp_path / "shop", photos[:3], [apple(0), moved, drink]))

    assert held(version) == {"Fruit > Apple": 1, "Drink": 2}
    assert_as_counted_from_nothing(version)
    told = AuditEvent.objects.get(action="items.relabel")
    assert (told.before["items"], told.after["items"]) == ({"Fruit > Apple": 1}, {"Drink": 1})
    assert told.before["codes_digest"] == told.after["codes_digest"]


def test_five_thousand_entries_are_counted_in_two_seconds(
    first: ModelVersion, django_assert_max_num_queries: Any
) -> None:
    category = catalogue.category_ensure("Big")
    items = items_of(category, [1] * 5000)
    entries_of(first, photos_of(items), seed=4)

    started = time.process_time()
    with django_assert_max_num_queries(150):
        assert count(first) == 5000
    assert time.process_time() - started < 2

    started = time.process_time()
    with gallery_transaction():
        statistics.images_forget([photo.pk for photo in photos_of(items)])
    assert time.process_time() - started < 2
    assert not CountedEntry.objects.exists()
