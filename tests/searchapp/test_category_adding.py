"""A category comes with its photos in one step: rows, files and jobs together, or nothing of it."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from searchapp.exceptions import InvalidInput
from searchapp.models import (
    AuditEvent,
    Category,
    EvaluationQuery,
    GalleryChange,
    Item,
    ItemImage,
    Job,
    JobState,
    OutboxMessage,
)
from searchapp.services import catalogue, learning
from searchapp.services.category_adding import NamedPhoto, PhotoBatch, category_add, photos_add
from tests.searchapp.api_cast import user_make
from tests.searchapp.galleries import item_with_photos, shop
from tests.searchapp.trainings import class_photos

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("data_dir")]


def named(photos: list[bytes]) -> list[NamedPhoto]:
    return [NamedPhoto(f"photo-{number}.jpg", data) for number, data in enumerate(photos)]


def of(photos: list[bytes], **more: Any) -> PhotoBatch:
    return PhotoBatch(photos=named(photos), **more)


def zip_of(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def sue() -> User:
    return user_make("sue", is_staff=True)


def kinds() -> list[str]:
    return sorted(Job.objects.values_list("kind", flat=True))


def test_in_a_gallery_in_use_it_waits_and_one_job_encodes_and_one_learns(
    photos: list[bytes], sue: User
) -> None:
    shop(photos)
    Job.objects.all().delete()
    fruit = Category.objects.get(path="Fruit")

    category = category_add(
        name="Papaya", parent=fruit, tags=["Green", "fresh"], batch=of(photos[6:9]), user=sue
    )

    assert (category.path, category.slug, category.learn_asked_at is not None) == (
        "Fruit > Papaya",
        "papaya",
        True,
    )
    item = Item.objects.get(category=category)
    assert (item.sku, item.title) == ("papaya", "Papaya")
    assert sorted(item.tags.values_list("name", flat=True)) == ["fresh", "green"]
    assert list(item.images.values_list("position", flat=True)) == [0, 1, 2]
    assert kinds() == ["encode_images", "learn_categories"]
    assert set(Job.objects.values_list("created_by", flat=True)) == {sue.pk}
    assert OutboxMessage.objects.count() == 2
    assert GalleryChange.objects.filter(kind="item_changed", subject_id=item.pk).exists()
    event = AuditEvent.objects.get(action="category.add")
    assert (event.actor_name, event.subject, event.after["photos"]) == ("sue", "Fruit > Papaya", 3)


def test_in_an_empty_gallery_it_is_stock_and_nothing_is_learned(photos: list[bytes]) -> None:
    category = category_add(name="Papaya", batch=of(photos[:2]))

    assert category.learn_asked_at is None
    assert kinds() == ["encode_images"]


def test_photos_of_several_products_become_an_item_each_with_a_sku_nobody_has(photos: list[bytes]) -> None:
    item_with_photos("papaya-2", [photos[9]])

    category = category_add(name="Papaya", tags=["green"], batch=of(photos[:3]), one_item=False)

    found = Item.objects.filter(category=category).order_by("pk")
    assert [item.sku for item in found] == ["papaya-1", "papaya-3", "papaya-4"]
    assert [item.images.count() for item in found] == [1, 1, 1]
    assert {item.title for item in found} == {"Papaya"}
    assert [list(item.tags.values_list("name", flat=True)) for item in found] == [["green"]] * 3


def test_a_product_that_has_the_sku_keeps_it(photos: list[bytes]) -> None:
    item_with_photos("papaya", [photos[9]])

    category = category_add(name="Papaya", batch=of(photos[:1]))

    assert Item.objects.get(category=category).sku == "papaya-2"


def test_a_zip_gives_every_photo_in_it_once_whatever_folder_it_lies_in(
    photos: list[bytes], data_dir: Path
) -> None:
    archive = zip_of(
        data_dir,
        {"a/one.jpg": photos[0], "b/c/two.JPG": photos[1], "again.jpg": photos[0], "notes.txt": b"hello"},
    )

    category = category_add(name="Papaya", batch=PhotoBatch(photos=named(photos[2:4]), archive=archive))

    assert ItemImage.objects.filter(item__category=category).count() == 4
    assert files_in(data_dir / "imports") == []


def test_one_photo_in_eight_is_held_out(data_packs: Path) -> None:
    many = next(iter(class_photos(data_packs, 1, 24).values()))

    category = category_add(name="Papaya", batch=of(many))

    chosen = [sha for sha in ItemImage.objects.values_list("image_sha256", flat=True) if sha[-1] in "08"]
    assert chosen
    found = EvaluationQuery.objects.filter(category=category)
    assert sorted(found.values_list("image_sha256", flat=True)) == sorted(chosen)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"name": "Apple"}, "name", "exists already"),
        ({"name": "a > b"}, "name", "no >"),
        ({"tags": ["x" * 81]}, "tags", "is longer than 80"),
        ({"batch": PhotoBatch(photos=[NamedPhoto("../list.pdf", b"%PDF-1.4")])}, "photos", "list.pdf: That"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(
    photos: list[bytes], data_dir: Path, change: dict[str, Any], field: str, words: str
) -> None:
    apple = catalogue.category_ensure("Apple")
    before = files_in(data_dir)

    with pytest.raises(InvalidInput) as refused:
        category_add(**{"name": "Papaya", "batch": of(photos[:2]), **change})

    assert list(refused.value.fields) == [field]
    assert words in refused.value.fields[field]
    assert list(Category.objects.all()) == [apple]
    assert not Item.objects.exists()
    assert not Job.objects.exists()
    assert files_in(data_dir) == before


def test_everything_that_is_wrong_is_told_at_once(photos: list[bytes], data_dir: Path) -> None:
    catalogue.category_ensure("Apple")
    batch = PhotoBatch(
        photos=[*named(photos[:1]), NamedPhoto("list.pdf", b"%PDF-1.4"), NamedPhoto("none.jpg", b"")],
        archive=zip_of(data_dir, {"readme.txt": b"no photo"}),
    )

    with pytest.raises(InvalidInput) as refused:
        category_add(name="Apple", tags=["x" * 81], batch=batch)

    assert sorted(refused.value.fields) == ["archive", "name", "photos", "tags"]
    lines = refused.value.fields["photos"].splitlines()
    assert [line.partition(":")[0] for line in lines] == ["list.pdf", "none.jpg"]
    assert refused.value.fields["archive"] == "no photo is in it"


def test_on_request_the_photos_that_cannot_be_used_are_left_out_unless_none_is_left(
    photos: list[bytes],
) -> None:
    bad = NamedPhoto("list.pdf", b"%PDF-1.4")

    category = category_add(
        name="Papaya", batch=PhotoBatch(photos=[bad, *named(photos[:2])], leave_out_unusable=True)
    )
    with pytest.raises(InvalidInput, match=r"list\.pdf"):
        category_add(name="Plum", batch=PhotoBatch(photos=[bad], leave_out_unusable=True))

    assert ItemImage.objects.filter(item__category=category).count() == 2
    assert not Category.objects.filter(name="Plum").exists()


def test_a_trouble_at_the_very_end_takes_rows_and_files_back(
    photos: list[bytes], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(photos)
    before = files_in(data_dir / "media"), GalleryChange.objects.count(), Job.objects.count()

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(learning, "learn_start", full)
    with pytest.raises(OSError, match="No space"):
        category_add(name="Papaya", batch=of(photos[6:9]))

    assert not Category.objects.filter(name="Papaya").exists()
    assert (files_in(data_dir / "media"), GalleryChange.objects.count(), Job.objects.count()) == before


def test_more_photos_of_a_waiting_category_come_to_its_product_and_to_the_same_job(
    photos: list[bytes],
) -> None:
    shop(photos)
    category = category_add(name="Papaya", batch=of(photos[6:8]))
    waiting = Job.objects.get(kind="learn_categories")

    added = photos_add(category=category, batch=of(photos[7:10]))

    assert added == 2  # one of them was there
    assert Item.objects.get(category=category).images.count() == 4
    assert Job.objects.get(kind="learn_categories") == waiting


def test_more_photos_of_known_stock_are_encoded_and_learn_nothing(photos: list[bytes]) -> None:
    items = shop(photos)
    Job.objects.all().delete()

    photos_add(category=items[0].category, batch=of(photos[6:8]))

    assert kinds() == ["encode_images"]
    assert (
        Item.objects.filter(category=items[0].category).count() == 4
    )  # a product of their own: there are several
    assert Item.objects.get(sku="apple").images.count() == 2


def test_a_photo_added_while_the_category_is_being_learned_asks_for_another_job(photos: list[bytes]) -> None:
    shop(photos)
    category = category_add(name="Papaya", batch=of(photos[6:8]))
    Job.objects.filter(kind="learn_categories").update(state=JobState.RUNNING)

    photos_add(category=category, batch=of(photos[8:9]))

    states = (
        Job.objects.filter(kind="learn_categories").order_by("created_at").values_list("state", flat=True)
    )
    assert list(states) == [JobState.RUNNING, JobState.QUEUED]


def test_no_photo_at_all_is_refused_where_photos_are_the_point(photos: list[bytes]) -> None:
    category = category_add(name="Papaya")

    with pytest.raises(InvalidInput) as refused:
        photos_add(category=category, batch=PhotoBatch())

    assert list(refused.value.fields) == ["photos"]
    assert not Job.objects.exists()
