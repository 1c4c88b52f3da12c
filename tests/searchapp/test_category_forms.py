"""Adding a category with its photos, learning those that wait, and who may."""

import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from searchapp.models import Category, Item, ItemImage, Job, JobState
from tests.searchapp.api_cast import session_client, user_make
from tests.searchapp.galleries import item_with_photos, shop
from tests.searchapp.new_categories import (
    CATEGORIES,
    learned,
    learning_job,
    page_of,
    papaya_added,
    upload,
)
from tests.searchapp.test_pages_search import text_of

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def sue(data_dir: Path) -> User:
    return user_make("sue", is_staff=True, is_superuser=True)


@pytest.fixture
def admin(sue: User) -> Client:
    return session_client(sue)


@pytest.fixture
def papaya(sue: User, photos: list[bytes]) -> Category:
    return papaya_added(photos, sue)


# --- adding


def test_a_category_is_added_with_photos_and_a_zip_and_its_page_is_shown(
    admin: Client, photos: list[bytes]
) -> None:
    shop(photos)
    Job.objects.all().delete()
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("any/folder/three.jpg", photos[8])
    form = {"name": "Papaya", "parent": str(Category.objects.get(path="Fruit").pk), "vertical": "product"}
    form |= {"tag_names": "Green, fresh", "products": "each"}
    files = {"photos": [upload(photos[6]), upload(photos[7])], "archive": upload(packed.getvalue(), "p.zip")}

    response = admin.post(CATEGORIES + "add/", {**form, **files})

    category = Category.objects.get(path="Fruit > Papaya")
    assert (response.status_code, response["Location"]) == (302, page_of(category))
    assert Item.objects.filter(category=category, tags__name="green").count() == 3
    assert sorted(Job.objects.values_list("kind", flat=True)) == ["encode_images", "learn_categories"]
    page = text_of(admin.get(response["Location"]))
    assert "Papaya was added." in page
    assert "Waits for its turn: one training runs at a time." in page


def test_every_unusable_photo_is_named_and_what_was_typed_stays(admin: Client, photos: list[bytes]) -> None:
    form = {"name": "Papaya", "parent": "", "vertical": "product", "tag_names": "green"}
    files = {"photos": [upload(photos[0]), upload(b"%PDF-1.4", "list.pdf"), upload(b"x", "odd.jpg")]}

    response = admin.post(CATEGORIES + "add/", {**form, **files})

    page = response.content.decode()
    assert response.status_code == 400
    assert "list.pdf: That file is a PDF." in page
    assert "odd.jpg: " in page
    assert 'value="Papaya"' in page
    assert 'name="leave_out"' in page
    assert not Category.objects.exists()


def test_with_scripts_only_the_problems_are_exchanged_so_that_chosen_files_stay_chosen(
    admin: Client, photos: list[bytes]
) -> None:
    form = {
        "name": "Papaya",
        "parent": "",
        "vertical": "product",
        "photos": [upload(b"%PDF-1.4", "list.pdf")],
    }
    htmx = {"HX-Request": "true"}

    refused = admin.post(CATEGORIES + "add/", form, headers=htmx)
    form |= {"photos": [upload(photos[0]), upload(b"%PDF-1.4", "list.pdf")], "leave_out": "on"}
    added = admin.post(CATEGORIES + "add/", form, headers=htmx)

    assert refused.status_code == 200
    assert refused.content.decode().lstrip().startswith('<div id="form-problems"')
    assert "list.pdf" in text_of(refused)
    assert added["HX-Redirect"] == page_of(Category.objects.get())
    assert ItemImage.objects.count() == 1


def test_a_name_alone_is_enough_and_photos_come_later(admin: Client, photos: list[bytes]) -> None:
    admin.post(CATEGORIES + "add/", {"name": "Papaya", "parent": "", "vertical": "product"})
    category = Category.objects.get()
    empty = text_of(admin.get(page_of(category)))

    response = admin.post(f"{CATEGORIES}{category.pk}/photos/", {"photos": [upload(photos[0])]})
    nothing = admin.post(f"{CATEGORIES}{category.pk}/photos/", {})

    assert "It has no photos of its own yet." in empty
    assert response["Location"] == page_of(category)
    assert ItemImage.objects.get().item.category == category
    assert nothing.status_code == 400
    assert "choose one or more, or a zip of them" in text_of(nothing)


def test_the_small_window_of_an_items_form_still_asks_for_name_and_place_alone(admin: Client) -> None:
    page = admin.get(CATEGORIES + "add/?_popup=1").content.decode()
    answer = admin.post(
        CATEGORIES + "add/?_popup=1", {"name": "Plum", "parent": "", "vertical": "product", "_popup": "1"}
    )

    assert 'name="archive"' not in page
    assert answer.status_code == 200
    assert Category.objects.get().name == "Plum"


# --- the list


def test_the_list_tells_them_apart_and_one_button_learns_all_that_wait(
    admin: Client, papaya: Category, photos: list[bytes]
) -> None:
    Job.objects.filter(kind="learn_categories").delete()
    item_with_photos("plum", [photos[9]], "Plum")  # as an import brings it
    waiting_page = text_of(admin.get(CATEGORIES))
    overview = text_of(admin.get("/admin/"))
    only = text_of(admin.get(CATEGORIES, {"learning": "waiting"}))
    known = text_of(admin.get(CATEGORIES, {"learning": "known"}))

    response = admin.post(f"{CATEGORIES}learn/", follow=True)

    assert "2 categories with photos wait to be learned." in waiting_page
    assert "2 categories wait to be learned" in overview
    assert ("Papaya" in only, "Drink" in only) == (True, False)
    assert ("Papaya" in known, "Drink" in known) == (False, True)
    assert learning_job().payload == {"categories": []}
    assert "wait to be learned" not in text_of(response)


def test_the_lists_action_learns_those_chosen(admin: Client, papaya: Category) -> None:
    Job.objects.filter(kind="learn_categories").delete()

    admin.post(CATEGORIES, {"action": "learn_selected", "_selected_action": [str(papaya.pk)]})

    assert learning_job().payload == {"categories": ["papaya"]}


def test_stock_among_those_chosen_is_refused_by_name(admin: Client, papaya: Category) -> None:
    Job.objects.filter(kind="learn_categories").delete()
    drink = Category.objects.get(name="Drink")

    chosen = [str(papaya.pk), str(drink.pk)]
    page = admin.post(CATEGORIES, {"action": "learn_selected", "_selected_action": chosen}, follow=True)

    assert "drink: known already" in text_of(page)
    assert not Job.objects.filter(kind="learn_categories").exists()


# --- who may


def test_who_may_only_look_sees_the_page_without_buttons_and_cannot_change_anything(
    papaya: Category, photos: list[bytes]
) -> None:
    viewer = user_make("vera", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_category"))
    client = session_client(viewer)

    page = client.get(page_of(papaya))
    codes = [
        client.post(f"{CATEGORIES}{papaya.pk}/{name}/").status_code for name in ("photos", "learn", "cancel")
    ]
    codes += [client.post(f"{CATEGORIES}learn/").status_code, client.get(f"{CATEGORIES}add/").status_code]

    assert page.status_code == 200
    assert "Add photos" not in text_of(page)
    assert 'id="cancel-learning"' not in page.content.decode()
    assert codes == [403] * 5
    assert learning_job().state == JobState.QUEUED


def test_only_an_operator_is_offered_to_undo_and_everybody_who_may_look_sees_the_proof(
    papaya: Category,
) -> None:
    learned(papaya)
    editor = user_make("edda", is_staff=True)
    names = ("view_category", "change_category")
    editor.user_permissions.set(Permission.objects.filter(codename__in=names))

    page = text_of(session_client(editor).get(page_of(papaya)))

    assert "stored codes checked · 0 changed" in page
    assert "Undo" not in page
    assert "Add photos" not in page  # that makes items, which takes a right of its own


def test_without_a_right_to_categories_there_is_no_page_and_strangers_sign_in_first(
    papaya: Category, anonymous: Client
) -> None:
    nobody = session_client(user_make("nils", is_staff=True))

    assert nobody.get(page_of(papaya)).status_code == 403
    assert anonymous.get(page_of(papaya))["Location"].startswith("/admin/login/")
    assert anonymous.post(f"{CATEGORIES}{papaya.pk}/cancel/").status_code == 302
    assert learning_job().state == JobState.QUEUED


@pytest.mark.parametrize("name", ["photos", "learn", "cancel"])
def test_nothing_is_changed_by_a_link_or_without_the_forms_token(
    sue: User, papaya: Category, name: str
) -> None:
    client = session_client(sue)
    strict = session_client(sue, enforce_csrf_checks=True)

    assert client.get(f"{CATEGORIES}{papaya.pk}/{name}/").status_code == 404
    assert strict.post(f"{CATEGORIES}{papaya.pk}/{name}/").status_code == 403
    assert learning_job().state == JobState.QUEUED
