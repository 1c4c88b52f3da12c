"""Writes to the catalogue: checked, told to the followers, and nothing left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model

from searchapp.exceptions import BadImage, Conflict, InvalidInput, NotFound
from searchapp.models import (
    AuditEvent,
    Category,
    ChangeKind,
    EvaluationQuery,
    GalleryChange,
    GalleryCounter,
    GalleryEntry,
    Item,
    ItemImage,
    Job,
    Tag,
)
from searchapp.services import catalogue
from searchapp.services.holding_out import hold_out
from tests.searchapp.galleries import encode_missing, item_with_photos

pytestmark = [pytest.mark.django_db, pytest.mark.database]
OnCommit = Callable[..., Any]


def changes_since(sequence: int) -> list[tuple[str, int]]:
    rows = GalleryChange.objects.filter(sequence__gt=sequence).order_by("sequence", "kind", "subject_id")
    return list(rows.values_list("kind", "subject_id"))


def now() -> int:
    return GalleryCounter.objects.get().value


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# --- categories


def test_a_path_makes_its_categories_once() -> None:
    leaf = catalogue.category_ensure("Fruit>Apple >  Granny Smith", vertical="product")
    again = catalogue.category_ensure("Fruit > Apple > Granny Smith", vertical="product")

    assert leaf == again
    assert list(Category.objects.values_list("path", "slug")) == [
        ("Fruit", "fruit"),
        ("Fruit > Apple", "apple"),
        ("Fruit > Apple > Granny Smith", "granny-smith"),
    ]


def test_slugs_stay_unique_when_names_do_not() -> None:
    paths = ("Tops > Tees", "Men > Tees", "Men Tees", "苹果", "梨")
    assert [catalogue.category_ensure(path).slug for path in paths] == [
        "tees",
        "men-tees",
        "men-tees-2",
        "category",
        "category-2",
    ]


@pytest.mark.parametrize(
    "path", ["", " > Apple", "Fruit > ", "a > > b", "x" * 121, "a\x00b", "a\nb", " > ".join(["y" * 100] * 6)]
)
def test_a_path_with_a_bad_step_is_refused_and_makes_nothing(path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        catalogue.category_ensure(path)
    assert list(refused.value.fields) == ["category"]
    assert Category.objects.count() == 0


def test_a_category_of_one_vertical_is_not_used_for_the_other() -> None:
    catalogue.category_ensure("Towers", vertical="landmark")
    with pytest.raises(InvalidInput, match="holds landmarks, not products"):
        catalogue.category_ensure("Towers", vertical="product")
    with pytest.raises(InvalidInput, match="allowed: product, landmark"):
        catalogue.category_ensure("Other", vertical="shop")
    assert Category.objects.count() == 1


def test_renaming_and_moving_takes_everything_beneath_along_and_tells_the_followers(
    photos: list[bytes],
) -> None:
    item = catalogue.item_create(
        sku="a", title="Granny", category=catalogue.category_ensure("Fruit > Apple > Green")
    )
    catalogue.category_ensure("Fruit > Apples and pears")  # shares letters, not the branch
    before = now()

    catalogue.category_update(category=Category.objects.get(path="Fruit > Apple"), name="Äpfel", parent=None)

    assert list(Category.objects.values_list("path", flat=True)) == [
        "Fruit",
        "Fruit > Apples and pears",
        "Äpfel",
        "Äpfel > Green",
    ]
    assert Category.objects.get(path="Äpfel").slug == "apple"  # models know it by this name
    item.refresh_from_db()
    assert item.search_text == "Granny\nÄpfel Green"
    assert changes_since(before) == [(ChangeKind.ITEM_CHANGED, item.pk)]


def test_a_category_cannot_be_moved_into_itself_or_onto_another() -> None:
    leaf = catalogue.category_ensure("A > B > C")
    top, middle = Category.objects.get(path="A"), Category.objects.get(path="A > B")
    catalogue.category_ensure("B")

    with pytest.raises(InvalidInput, match="cannot lie in itself"):
        catalogue.category_update(category=top, parent=leaf)
    with pytest.raises(Conflict, match="'B' already"):
        catalogue.category_update(category=middle, parent=None)

    assert sorted(Category.objects.values_list("path", flat=True)) == ["A", "A > B", "A > B > C", "B"]


def test_a_category_that_holds_something_is_not_deleted_and_the_count_is_told() -> None:
    leaf = catalogue.category_ensure("A > B")
    for number in range(3):
        catalogue.item_create(sku=f"s{number}", category=leaf)

    with pytest.raises(Conflict, match="holds 3 items and 0 categories"):
        catalogue.category_delete(category=leaf)
    with pytest.raises(Conflict, match="holds 0 items and 1 categories"):
        catalogue.category_delete(category=Category.objects.get(path="A"))
    assert Category.objects.count() == 2

    catalogue.items_delete(items=Item.objects.all())
    catalogue.category_delete(category=leaf)
    assert list(Category.objects.values_list("path", flat=True)) == ["A"]
    assert AuditEvent.objects.filter(action="category.delete", subject="A > B").count() == 1


# --- items


def test_an_item_is_stored_with_what_text_search_reads() -> None:
    category = catalogue.category_ensure("Hats > Wool")

    item = catalogue.item_create(
        sku="hat-1", category=category, title=" Red hat ", description="Warm", price="19.90", currency="eur",
        tags=["Red ", "wool", "red"], latitude="59.3", longitude=18, url="https://example.org/hat",
    )  # fmt: skip

    item.refresh_from_db()
    assert (item.title, str(item.price), item.currency, item.latitude) == ("Red hat", "19.90", "EUR", 59.3)
    assert item.search_text == "Red hat\nWarm\nHats Wool\nred wool"
    assert sorted(Tag.objects.values_list("name", flat=True)) == ["red", "wool"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"sku": ""}, "sku"),
        ({"sku": "x" * 121}, "sku"),
        ({"sku": "a\r\nSet-Cookie: x"}, "sku"),
        ({"sku": ".."}, "sku"),
        ({"title": "x" * 301}, "title"),
        ({"title": "a\x00b"}, "title"),
        ({"price": "-1"}, "price"),
        ({"price": "NaN"}, "price"),
        ({"price": "12,50"}, "price"),
        ({"price": "1.999"}, "price"),
        ({"price": "1e99"}, "price"),
        ({"currency": "EURO"}, "currency"),
        ({"url": "javascript:alert(1)"}, "url"),
        ({"url": "ftp://example.org/a"}, "url"),
        ({"latitude": "91", "longitude": "0"}, "latitude"),
        ({"latitude": "nan", "longitude": "0"}, "latitude"),
        ({"latitude": "10"}, "longitude"),
        ({"tags": ["x" * 81]}, "tags"),
        ({"tags": [str(number) for number in range(61)]}, "tags"),
        ({"description": "x" * 20_001}, "description"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_stored(fields: dict[str, Any], wrong: str) -> None:
    category = catalogue.category_ensure("A")
    before = now()
    with pytest.raises(InvalidInput) as refused:
        catalogue.item_create(**{"sku": "s", "category": category, **fields})
    assert list(refused.value.fields) == [wrong]
    assert (Item.objects.count(), Tag.objects.count(), now()) == (0, 0, before)


def test_a_sku_is_used_once() -> None:
    category = catalogue.category_ensure("A")
    catalogue.item_create(sku="s", category=category)
    with pytest.raises(Conflict, match="'s' already"):
        catalogue.item_create(sku="s", category=category)
    with pytest.raises(InvalidInput, match="category: it is required"):
        catalogue.item_create(sku="t")


def test_an_update_that_changes_nothing_writes_nothing() -> None:
    item = catalogue.item_create(sku="s", category=catalogue.category_ensure("A"), price="2", tags=["x"])
    before = now()

    catalogue.item_update(item=item, price="2.00", title="", tags=["X"])
    assert now() == before

    updated = catalogue.item_update(item=item, price="3", tags=["y"])
    assert changes_since(before) == [(ChangeKind.ITEM_CHANGED, item.pk)]
    assert [tag.name for tag in updated.tags.all()] == ["y"]
    assert updated.search_text == "A\ny"


# --- photos


def test_a_photo_waits_for_one_job_however_many_are_added(data_dir: Path, photos: list[bytes]) -> None:
    item = item_with_photos("a", photos[:3])
    again = catalogue.image_add(item=item, data=photos[0], filename="other name.png")

    assert again == item.images.get(position=0)
    assert [image.position for image in item.images.all()] == [0, 1, 2]
    assert list(Job.objects.values_list("kind", flat=True)) == ["encode_images"]


def test_a_picture_that_is_none_leaves_no_row_and_no_file(data_dir: Path) -> None:
    item = catalogue.item_create(sku="s", category=catalogue.category_ensure("A"))
    with pytest.raises(BadImage):
        catalogue.image_add(item=item, data=b"%PDF-1.4")
    assert (ItemImage.objects.count(), Job.objects.count(), files_in(data_dir)) == (0, 0, [])


def test_a_photo_for_an_item_that_is_gone_leaves_no_file(data_dir: Path, photos: list[bytes]) -> None:
    item = catalogue.item_create(sku="s", category=catalogue.category_ensure("A"))
    Item.objects.filter(pk=item.pk).delete()
    with pytest.raises(NotFound, match="'s' is gone"):
        catalogue.image_add(item=item, data=photos[0])
    assert files_in(data_dir / "media") == []


def test_deleting_an_item_takes_photos_entries_and_files_and_leaves_tombstones(
    data_dir: Path, photos: list[bytes], django_capture_on_commit_callbacks: OnCommit
) -> None:
    user = get_user_model().objects.create_user("anna")
    gone, kept = item_with_photos("gone", photos[:2], "A"), item_with_photos("kept", photos[1:2], "A")
    encode_missing()
    entries = list(GalleryEntry.objects.filter(image__item=gone).order_by("pk").values_list("pk", flat=True))
    before, gone_id = now(), gone.pk

    with django_capture_on_commit_callbacks(execute=True):
        catalogue.item_delete(item=gone, user=user)

    assert changes_since(before) == [
        *((ChangeKind.ENTRY_REMOVED, entry) for entry in entries),
        (ChangeKind.ITEM_REMOVED, gone_id),
    ]
    assert len(entries) == 2
    assert list(GalleryEntry.objects.values_list("image__item__sku", flat=True)) == ["kept"]
    image = kept.images.get()
    assert files_in(data_dir / "media") == sorted([Path(image.path).name, Path(image.thumbnail).name])
    event = AuditEvent.objects.get(action="item.delete")
    assert (event.subject, event.actor, event.before["category"]) == ("gone", user, "A")


def test_deleting_a_photo_keeps_the_item_and_a_file_that_another_row_uses(
    data_dir: Path, photos: list[bytes], django_capture_on_commit_callbacks: OnCommit
) -> None:
    item, other = item_with_photos("a", photos[:2]), item_with_photos("b", photos[:1])
    encode_missing()
    first = item.images.get(position=0)
    entry, before = first.entries.get().pk, now()

    for _ in range(2):
        with django_capture_on_commit_callbacks(execute=True):
            catalogue.image_delete(image=first)

    assert changes_since(before) == [(ChangeKind.ENTRY_REMOVED, entry), (ChangeKind.ITEM_CHANGED, item.pk)]
    assert item.images.count() == 1
    assert (data_dir / "media" / other.images.get().path).exists()


def test_a_file_claimed_while_it_is_being_removed_is_put_back(
    data_dir: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from searchapp.services import media

    image = item_with_photos("a", photos[:1]).images.get()
    answers = iter([False, True])  # nobody needs it; by the time it was moved aside, somebody does
    monkeypatch.setattr(media, "_is_used", lambda _: next(answers))

    assert media.media_remove_unused([(image.image_sha256, (image.path, image.thumbnail))]) == 0
    assert (data_dir / "media" / image.path).exists()
    assert len(files_in(data_dir / "media")) == 2


def test_retrying_a_failed_photo_clears_the_reason_and_makes_a_job(
    data_dir: Path, photos: list[bytes]
) -> None:
    image = item_with_photos("a", photos[:1]).images.get()
    Job.objects.all().delete()
    ItemImage.objects.filter(pk=image.pk).update(failure="broken")

    assert catalogue.image_retry(image=image).failure == ""
    assert Job.objects.filter(kind="encode_images", state="queued").count() == 1


# --- evaluation queries of a catalogue without splits


def test_one_photo_in_eight_is_held_out_by_its_content_and_stays_that_way(data_dir: Path) -> None:
    from tests.searchapp.pictures import encoded, gradient

    for number in range(40):
        item_with_photos(f"i{number}", [encoded(gradient(30 + number, 20), "PNG")], "Big")
    for number in range(7):
        item_with_photos(f"s{number}", [encoded(gradient(80 + number, 20), "PNG")], "Small")
    expected = {image.image_sha256 for image in ItemImage.objects.filter(item__category__path="Big")
                if int(image.image_sha256, 16) % 8 == 0}  # fmt: skip

    held = hold_out(["Big", "Small"])
    again = hold_out(["Big", "Small"])

    assert held == again == len(expected)
    assert 0 < held < 20
    assert set(EvaluationQuery.objects.values_list("image_sha256", flat=True)) == expected
    assert set(EvaluationQuery.objects.values_list("relevance", flat=True)) == {"category"}


def test_changing_an_item_that_was_deleted_meanwhile_says_so(data_dir: Path) -> None:
    item = catalogue.item_create(sku="gone", category=catalogue.category_ensure("Fruit"))
    stale = Item.objects.get(pk=item.pk)
    catalogue.item_delete(item=item)

    with pytest.raises(NotFound, match="gone"):
        catalogue.item_update(item=stale, title="New")
