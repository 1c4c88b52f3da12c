"""Somebody else writes to the catalogue between a service's reading and its writing, on a connection of their own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from searchapp.models import Category, EvaluationQuery, Item, ItemImage, stored_path
from searchapp.services import catalogue, categories, holding_out
from searchapp.services.media import media_exists
from tests.searchapp.galleries import item_with_photos
from tests.searchapp.pictures import encoded, gradient

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]
A_MOMENT = 0.5  # long enough for what is not made to wait


@contextmanager
def meanwhile(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, action: Callable[[], Any]
) -> Iterator[None]:
    """The first call of `module.name` starts the action and gives it a moment; it has ended on leaving."""
    real = getattr(module, name)
    threads: list[threading.Thread] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  raised below
            errors.append(error)
        finally:
            connection.close()

    def called(*args: Any, **options: Any) -> Any:
        if not threads:
            threads.append(threading.Thread(target=run))
            threads[0].start()
            threads[0].join(timeout=A_MOMENT)
        return real(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, called)
        yield
    assert threads, f"{name} was never called"
    threads[0].join(timeout=60)
    assert errors == []


@pytest.mark.parametrize("what", ["item", "photo"])
def test_what_is_deleted_while_photos_are_held_out_leaves_no_query_behind(
    what: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        item_with_photos(f"i{number}", [encoded(gradient(30 + number, 20), "PNG")], "Big")
    held = [image for image in ItemImage.objects.all() if holding_out.is_one_in_eight(image.image_sha256)]
    victim = held[0]
    deletions: dict[str, Callable[[], Any]] = {
        "item": lambda: catalogue.item_delete(item=Item.objects.get(pk=victim.item_id)),
        "photo": lambda: catalogue.image_delete(image=ItemImage.objects.get(pk=victim.pk)),
    }

    with meanwhile(monkeypatch, holding_out, "_query", deletions[what]):
        holding_out.hold_out(["Big"])

    assert not ItemImage.objects.filter(pk=victim.pk).exists()
    left = {query.image_sha256: query.extension for query in EvaluationQuery.objects.all()}
    assert set(left) == {image.image_sha256 for image in held[1:]}
    assert all(media_exists(stored_path(*pair)) for pair in left.items())


def make_by_path(parent: Category) -> Category:
    return catalogue.category_ensure("Fruit > Apple")


def make_by_parent(parent: Category) -> Category:
    return catalogue.category_create(name="Apple", parent=parent)


@pytest.mark.parametrize("make", [make_by_path, make_by_parent])
def test_a_category_made_while_its_parent_is_renamed_follows_it(
    make: Callable[[Category], Category], monkeypatch: pytest.MonkeyPatch
) -> None:
    fruit = catalogue.category_ensure("Fruit")

    def rename() -> None:
        catalogue.category_update(category=Category.objects.get(pk=fruit.pk), name="Fresh")

    with meanwhile(monkeypatch, categories, "_create", rename):
        child = make(fruit)

    child.refresh_from_db()
    assert child.parent_id == fruit.pk
    assert child.path == "Fresh > Apple"


def test_a_category_is_made_under_the_name_its_parent_has_now() -> None:
    stale = catalogue.category_ensure("Fruit")
    catalogue.category_update(category=stale, name="Fresh")

    assert catalogue.category_create(name="Apple", parent=stale).path == "Fresh > Apple"


def test_an_item_put_into_a_category_that_is_being_renamed_does_not_stop_the_renaming(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a row refers to is held before the gallery's counter: else each would wait for what the other has."""
    fruit = catalogue.category_ensure("Fruit")
    catalogue.item_create(sku="pear", category=fruit)

    def put() -> None:
        catalogue.item_create(sku="apple", category=fruit)

    with meanwhile(monkeypatch, categories, "search_text_refresh", put):
        catalogue.category_update(category=fruit, name="Fresh")

    assert {item.category.path for item in Item.objects.all()} == {"Fresh"}
