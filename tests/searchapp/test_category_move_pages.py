"""The pages that merge, split and delete a category: what will happen is said first, in words, numbers and pictures."""

from html import unescape
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from searchapp.models import AuditEvent, Category, Item
from searchapp.services import catalogue
from tests.searchapp.api_cast import session_client, user_make
from tests.searchapp.coded_rows import entries_of, items_of, put_in_use, version_of
from tests.searchapp.test_code_statistics import count, photos_of

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def admin(data_dir: Path) -> Client:
    return session_client(user_make("sue", is_staff=True, is_superuser=True))


@pytest.fixture
def items(data_dir: Path) -> list[Item]:
    """Coded and counted: Fruit > Apple (3 items, 6 photos), Fruit > Apple > Red (1, 1), Fruit > Pear (2, 2)."""
    version = version_of("1.0")
    put_in_use(version)
    paths = ("Fruit > Apple", "Fruit > Apple > Red", "Fruit > Pear")
    apple, red, pear = (catalogue.category_ensure(path) for path in paths)
    found = items_of(apple, [2, 2, 2]) + items_of(red, [1]) + items_of(pear, [1, 1])
    entries_of(version, photos_of(found), seed=1)
    count(version)
    return found


def at(path: str) -> Category:
    return Category.objects.get(path=path)


def url(path: str, page: str) -> str:
    return f"/admin/searchapp/category/{at(path).pk}/{page}/"


def text(response: Any) -> str:
    return " ".join(unescape(response.content.decode()).split())


def test_a_merge_is_told_first_and_happens_when_it_is_confirmed(admin: Client, items: list[Item]) -> None:
    merge = url("Fruit > Apple", "merge")
    form = text(admin.get(merge))
    assert "4 items with 7 photos and 1 category inside" in form
    assert '<option value="Fruit > Pear">' in form

    told = text(admin.post(merge, {"into": "Fruit>Pear"}))
    assert "Merge Apple into Pear?" in told
    assert "goes into Fruit > Pear: 4 items with 7 photos and 1 category inside." in told
    assert "No stored code is changed" in told
    assert told.count('alt="Photo of') == 4
    assert at("Fruit > Apple").items.count() == 3

    pear = at("Fruit > Pear")
    done = admin.post(merge, {"into": "Fruit > Pear", "confirmed": "yes"}, follow=True)
    assert done.redirect_chain[-1][0] == f"/admin/searchapp/category/{pear.pk}/progress/"
    assert (
        "into Fruit > Pear: 3 items with 6 photos and 1 category. 6 stored codes checked, 0 changed."
        in text(done)
    )
    assert pear.items.count() == 5


@pytest.mark.parametrize(
    ("into", "problem"),
    [
        ("", "This field is required"),
        ("Nowhere", "There is no category 'Nowhere'"),
        ("Fruit > Apple > Red", "lies in it; choose another one"),
    ],
)
@pytest.mark.parametrize("confirmed", [{}, {"confirmed": "yes"}])
def test_a_merge_that_cannot_be_is_refused_beside_its_field(
    admin: Client, items: list[Item], into: str, problem: str, confirmed: dict[str, str]
) -> None:
    response = admin.post(url("Fruit > Apple", "merge"), {"into": into, **confirmed})
    assert response.status_code == 400
    assert problem in text(response)
    assert at("Fruit > Apple").items.count() == 3


def test_items_are_chosen_and_confirmed_before_they_are_split_off(admin: Client, items: list[Item]) -> None:
    split = url("Fruit > Apple", "split")
    assert text(admin.get(split)).count('type="checkbox" name="items"') == 3
    chosen = {"name": "Green apple", "items": [str(items[0].pk), str(items[1].pk)]}

    told = text(admin.post(split, chosen))
    assert "2 items with 4 photos leave Fruit > Apple for a new category Green apple in Fruit." in told
    assert "1 item stays in Apple." in told
    assert not Category.objects.filter(name="Green apple").exists()

    done = admin.post(split, {**chosen, "confirmed": "yes"}, follow=True)
    assert "2 items moved from Apple to the new category Fruit > Green apple." in text(done)
    assert set(at("Fruit > Green apple").items.all()) == set(items[:2])


def test_all_items_that_words_find_are_split_off_shown_or_not(admin: Client, items: list[Item]) -> None:
    for number, item in enumerate(items[:3]):
        catalogue.item_update(item=item, title="Granny Smith" if number else "Boskop")
    split = url("Fruit > Apple", "split")
    assert "2 items with “granny”" in text(admin.get(split, {"words": "granny"}))
    chosen = {"name": "Granny", "words": "granny", "all_found": "on"}

    told = admin.post(split, chosen)
    assert "2 items with 4 photos leave" in text(told)
    assert told.context["hidden"] == [("name", "Granny"), ("words", "granny"), ("all_found", "on")]

    admin.post(split, {**chosen, "confirmed": "yes"})
    assert set(at("Fruit > Granny").items.all()) == set(items[1:3])


def test_a_split_that_cannot_be_keeps_what_was_ticked(admin: Client, items: list[Item]) -> None:
    ticked = {"items": [str(items[0].pk)]}
    response = admin.post(url("Fruit > Apple", "split"), {"name": "Pear", **ticked})
    assert response.status_code == 400
    assert "exists already" in text(response)
    assert f'value="{items[0].pk}" checked' in text(response)
    empty = admin.post(url("Fruit > Apple", "split"), {"name": "New"})
    assert "none is chosen" in text(empty)
    foreign = admin.post(url("Fruit > Apple", "split"), {"name": "New", "items": [str(items[4].pk)]})
    assert foreign.status_code == 400
    assert not Category.objects.filter(name="New").exists()


def test_a_category_goes_with_everything_when_its_name_was_typed(admin: Client, items: list[Item]) -> None:
    page = url("Fruit > Apple", "delete-all")
    assert "Fruit > Apple is deleted, and all of it: 4 items with 7 photos and 1 category inside." in text(
        admin.get(page)
    )

    refused = admin.post(page, {"typed_name": "Pear"})
    assert refused.status_code == 400
    assert "type 'Apple' to delete it with everything in it" in text(refused)
    assert Item.objects.count() == 6

    done = admin.post(page, {"typed_name": "Apple"}, follow=True)
    assert "Fruit > Apple was deleted, and all of it: 4 items with 7 photos and 1 category inside." in text(
        done
    )
    assert list(Category.objects.values_list("path", flat=True)) == ["Fruit", "Fruit > Pear"]


@pytest.mark.parametrize("page", ["merge", "split", "delete-all"])
def test_whoever_may_not_is_refused_and_sees_no_link(items: list[Item], page: str) -> None:
    viewer: User = user_make("vic", is_staff=True)
    viewer.user_permissions.add(
        Permission.objects.get(codename="view_category"), Permission.objects.get(codename="add_category")
    )
    client = session_client(viewer)
    assert client.get(url("Fruit > Apple", page)).status_code == 403
    assert client.post(url("Fruit > Apple", page), {"typed_name": "Apple"}).status_code == 403
    assert "category-moves" not in text(client.get(url("Fruit > Apple", "progress")))
    assert Item.objects.count() == 6


def test_a_categorys_page_links_to_what_can_be_done_with_it(admin: Client, items: list[Item]) -> None:
    shown = text(admin.get(url("Fruit > Apple", "progress")))
    assert all(url("Fruit > Apple", page) in shown for page in ("merge", "split", "delete-all"))


def test_names_are_shown_as_they_are_and_never_run(admin: Client, items: list[Item]) -> None:
    odd = "<script>alert(1)</script".replace(">", "")
    catalogue.category_update(category=at("Fruit > Apple"), name=odd)
    for page in ("merge", "split", "delete-all"):
        body = admin.get(url(f"Fruit > {odd}", page)).content.decode()
        assert odd not in body
        assert "&lt;script" in body


def test_the_audit_log_names_who_relabelled_an_item_and_renamed_a_category(
    admin: Client, items: list[Item]
) -> None:
    inline = {"images-TOTAL_FORMS": "0", "images-INITIAL_FORMS": "0", "images-MAX_NUM_FORMS": "0"}
    form = {"title": "Boskop", "category": str(at("Fruit > Pear").pk), "tag_names": "", **inline}
    admin.post(f"/admin/searchapp/item/{items[0].pk}/change/", form)
    apple = {"name": "Äpfel", "parent": str(at("Fruit").pk), "vertical": "product"}
    admin.post(url("Fruit > Apple", "change"), apple)

    told = {event.action: event for event in AuditEvent.objects.all()}
    assert told["item.relabel"].after["items"] == {"Fruit > Pear": 1}
    assert told["category.rename"].after["items"] == {"Fruit > Äpfel": 2, "Fruit > Äpfel > Red": 1}
    assert {event.actor_name for event in told.values()} == {"sue"}
    assert told["category.rename"].before["codes_digest"] == told["category.rename"].after["codes_digest"]
