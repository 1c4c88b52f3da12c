"""Item, browse and media pages."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from searchapp.addresses import item_url
from searchapp.models import Item
from searchapp.services import catalogue, intake, media
from tests.searchapp.galleries import encode_missing, item_with_photos, shop
from tests.searchapp.test_pages_search import text_of, titles

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture(autouse=True)
def _nothing_cached() -> None:
    cache.clear()


@pytest.fixture
def items(photos: list[bytes], data_dir: Path) -> list[Item]:
    return shop(photos)


def test_an_item_shows_its_facts_its_tags_as_links_and_what_looks_similar(
    client: Client, items: list[Item], photos: list[bytes]
) -> None:
    item_with_photos(
        "twin",
        [photos[0], photos[8]],
        "Fruit > Apple",
        ["red"],
        price="4",
        currency="EUR",
        description="Crisp.",
    )
    encode_missing()

    response = client.get("/items/twin")
    html = response.content.decode()

    assert [word in text_of(response) for word in ("4.00 €", "Crisp.", "SKU twin")] == [True] * 3
    assert 'href="/browse?tag=red"' in html
    assert 'href="/browse?category=Fruit+%3E+Apple"' in html
    assert html.count("Photo 1 of 2") == 1
    assert "Red apple" in titles(response)  # apple-0 has the same first photo


def test_a_place_shows_where_it_is_and_a_plain_link_to_a_map(
    client: Client, photos: list[bytes], data_dir: Path
) -> None:
    item_with_photos(
        "hall",
        [photos[0]],
        "Museum",
        vertical="landmark",
        address="Main Street 1",
        latitude=59.33,
        longitude=18.06,
    )

    response = client.get("/items/hall")

    assert "Address Main Street 1 Place 59.33000, 18.06000" in text_of(response)
    assert (
        'href="https://www.openstreetmap.org/?mlat=59.330000&amp;mlon=18.060000#map=18/59.330000/18.060000"'
        in response.content.decode()
    )


@pytest.mark.parametrize(
    "sku", ["a/b", "pack:class/id", "../admin", "a//b", "100%", "what?#x", "né", ".hidden/.."]
)
def test_an_item_is_reached_whatever_its_sku_looks_like(client: Client, data_dir: Path, sku: str) -> None:
    catalogue.item_create(sku=sku, title="Odd one", category=catalogue.category_ensure("Odd"))

    address = item_url(sku)
    response = client.get(address)

    assert response.status_code == 200
    assert "/../" not in address
    assert f"SKU {sku}" in text_of(response)


def test_an_unknown_item_is_a_friendly_404(client: Client, db: None) -> None:
    response = client.get("/items/none")

    assert response.status_code == 404
    assert "There is nothing at this address" in text_of(response)


def test_an_item_page_stays_whole_when_the_search_cannot_answer(
    client: Client, items: list[Item], settings: Any
) -> None:
    settings.ANON_SEARCH_RATE = "1/min"
    client.get("/items/apple-0")

    response = client.get("/items/apple-0")

    assert response.status_code == 200
    assert "Red apple" in text_of(response)
    assert titles(response) == []
    assert "1/min" in text_of(response)


def test_an_address_that_has_seen_its_items_for_the_day_is_told_so_and_when_it_may_come_back(
    client: Client, items: list[Item], settings: Any
) -> None:
    settings.ANON_ITEM_BUDGET = 1
    assert client.get("/items/apple-0").status_code == 200

    response = client.get("/items/juice-0")

    assert response.status_code == 429
    assert int(response["Retry-After"]) > 0
    assert "You can go on in" in text_of(response)
    assert "Orange juice" not in text_of(response)


def test_an_item_page_costs_a_fixed_number_of_queries(
    client: Client, items: list[Item], photos: list[bytes]
) -> None:
    client.get("/items/apple-0")
    with CaptureQueriesContext(connection) as before:
        client.get("/items/apple-0")
    for photo in photos[6:11]:
        catalogue.image_add(item=items[0], data=photo)
    encode_missing()
    client.get("/items/apple-0")

    with CaptureQueriesContext(connection) as after:
        client.get("/items/apple-0")

    assert len(before) == len(after) <= 20


def test_browsing_a_category_lists_its_subtree_with_counts_and_chips(
    client: Client, items: list[Item]
) -> None:
    response = client.get("/browse", {"category": "fruit"})

    assert titles(response) == ["Red apple"] * 3
    assert "Fruit 3 items" in text_of(response)
    tree = re.findall(r'<span>([^<]+)</span><span class="count">(\d+)</span>', response.content.decode())
    assert tree == [("Drink", "3"), ("Fruit", "3"), ("Apple", "3")]
    assert 'aria-label="Remove filter: Fruit"' in response.content.decode()


def test_browsing_takes_filters_from_the_address_and_refuses_wrong_ones(
    client: Client, items: list[Item]
) -> None:
    cheap = client.get("/browse", {"price_max": "1.5", "tag": "fresh"})
    wrong = client.get("/browse", {"price_max": "nothing"})

    assert titles(cheap) == ["Red apple"]
    assert wrong.status_code == 400
    assert "'nothing' is not a price" in text_of(wrong)


def test_pages_of_a_long_list_link_to_each_other_and_cost_the_same_queries(
    client: Client, data_dir: Path
) -> None:
    category = catalogue.category_ensure("Many")
    for number in range(30):
        catalogue.item_create(sku=f"n{number:02}", title=f"Number {number:02}", category=category)
    client.get("/browse")

    with CaptureQueriesContext(connection) as full:
        first = client.get("/browse", {"category": "many"})
    with CaptureQueriesContext(connection) as short:
        second = client.get("/browse", {"category": "many", "page": "2"})

    assert (len(titles(first)), len(titles(second))) == (24, 6)
    assert 'href="/browse?category=many&amp;page=2" rel="next"' in first.content.decode()
    assert 'href="/browse?category=many" rel="prev"' in second.content.decode()
    assert len(full) == len(short) <= 7
    assert client.get("/browse", {"page": "x"}).status_code == 200
    assert client.get("/browse", {"page": "99999999999"}).status_code == 200


def test_a_stored_picture_is_served_with_a_fixed_type_and_may_be_kept_for_ever(
    client: Client, items: list[Item]
) -> None:
    image = items[0].images.get()
    response = client.get(f"/media/{image.path}")

    assert response.status_code == 200
    assert b"".join(response.streaming_content) == media.media_read(image.path)  # type: ignore[attr-defined]
    expected = {
        "Content-Type": "image/jpeg",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "public, max-age=31536000, immutable",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Content-Disposition": f'inline; filename="{image.image_sha256[:16]}.jpg"',
    }
    assert {name: response[name] for name in expected} == expected
    again = client.get(f"/media/{image.path}", headers={"If-None-Match": response["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_what_was_appended_to_an_upload_is_not_in_what_is_served(
    client: Client, photos: list[bytes], data_dir: Path
) -> None:
    item = item_with_photos("poly", [photos[0] + b"<html><script>alert(1)</script></html>"])

    served = b"".join(client.get(f"/media/{item.images.get().path}").streaming_content)  # type: ignore[attr-defined]

    assert b"<script>" not in served


def test_media_gives_nothing_that_no_row_knows(
    client: Client, items: list[Item], photos: list[bytes]
) -> None:
    orphan = intake.image_store(photos[11])
    sha = items[0].images.get().image_sha256
    assert media.media_path(orphan.path).exists()
    names = [
        orphan.path,
        f"images/{sha[:2]}/{sha}.svg",
        f"images/00/{sha}.jpg",
        f"private/{sha[:2]}/{sha}.jpg",
        "../perennial.sqlite3",
        "images/../../secret_key",
        f"images/{sha[:2]}/{sha}.jpg/",
        "",
    ]

    assert [client.get(f"/media/{name}").status_code for name in names] == [404] * len(names)


def test_a_deleted_item_takes_its_pictures_off_the_address(
    client: Client, items: list[Item], django_capture_on_commit_callbacks: Any
) -> None:
    image = items[0].images.get()
    with django_capture_on_commit_callbacks(execute=True):
        catalogue.item_delete(item=items[0])

    assert client.get(f"/media/{image.path}").status_code == 404
    assert client.get("/items/apple-0").status_code == 404
    assert not media.media_path(image.path).exists()
