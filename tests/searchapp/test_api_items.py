"""Items, photos, categories, feedback and versions over HTTP."""

import json
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client

from searchapp.models import Category, Feedback, Item, ItemImage, Job, OutboxMessage
from searchapp.services import versions
from tests.searchapp.api_cast import (
    error_of,
    key_client,
    operator_make,
    photo_file,
    session_client,
    user_make,
)
from tests.searchapp.galleries import item_with_photos, shop

pytestmark = [pytest.mark.django_db, pytest.mark.database]
ITEMS = "/api/v1/items"


def send(client: Client, method: str, address: str, body: Any) -> Any:
    return client.generic(method, address, json.dumps(body), "application/json")


def skus(response: Any) -> list[str]:
    assert response.status_code == 200, response.content
    return [item["sku"] for item in response.json()["results"]]


@pytest.fixture
def items(data_dir: Path, photos: list[bytes]) -> list[Item]:
    return shop(photos)


def test_an_item_is_made_read_changed_and_deleted(data_dir: Path, staff: Client, anonymous: Client) -> None:
    Category.objects.create(name="Fruit", slug="fruit", path="Fruit")

    made = send(
        staff,
        "POST",
        ITEMS,
        {
            "sku": "pack:a/b c",
            "title": "Red apple",
            "category": "fruit",
            "tags": ["Red", "fresh"],
            "price": "1.50",
            "currency": "eur",
            "latitude": 59.33,
            "longitude": 18.07,
        },
    )
    assert made.status_code == 201
    address = f"{ITEMS}/{quote('pack:a/b c', safe='')}"
    read = anonymous.get(address)
    body = read.json()
    created = Item.objects.get()
    assert {name: body[name] for name in body if not name.endswith("_at")} == {
        "sku": "pack:a/b c",
        "title": "Red apple",
        "description": "",
        "category": "Fruit",
        "category_slug": "fruit",
        "vertical": "product",
        "tags": ["fresh", "red"],
        "price": "1.50",
        "currency": "EUR",
        "url": "",
        "address": "",
        "latitude": 59.33,
        "longitude": 18.07,
        "images": [],
    }
    assert made.json() == {**body, "state": "pending"}

    changed = send(staff, "PATCH", address, {"title": "Green apple", "price": None})
    assert changed.status_code == 200
    assert (changed.json()["title"], changed.json()["price"]) == ("Green apple", None)
    assert changed.json()["tags"] == ["fresh", "red"]  # what was not sent stays

    assert staff.delete(address).status_code == 204
    assert error_of(anonymous.get(address), 404)["code"] == "not_found"
    assert not Item.objects.filter(pk=created.pk).exists()


def test_a_taken_sku_is_409_and_changes_nothing(data_dir: Path, staff: Client) -> None:
    Category.objects.create(name="Fruit", slug="fruit", path="Fruit")
    body = {"sku": "a", "category": "fruit", "title": "first"}
    assert send(staff, "POST", ITEMS, body).status_code == 201

    error = error_of(send(staff, "POST", ITEMS, {**body, "title": "second"}), 409)

    assert error["code"] == "conflict"
    assert list(Item.objects.values_list("title", flat=True)) == ["first"]


@pytest.mark.parametrize(
    ("body", "field"),
    [({"colour": "red"}, "colour"), ({"price": "cheap"}, "price"), ({"category": "nowhere"}, "category")],
)
def test_a_wrong_change_is_refused_and_changes_nothing(
    items: list[Item], staff: Client, body: dict[str, Any], field: str
) -> None:
    error = error_of(send(staff, "PATCH", f"{ITEMS}/apple-0", {"title": "new", **body}), 400)

    assert set(error["fields"]) == {field}
    assert Item.objects.get(sku="apple-0").title == "Red apple"


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_unknown_item_is_404_for_every_method(staff: Client, method: str) -> None:
    assert error_of(send(staff, method, f"{ITEMS}/nobody", {}), 404)["code"] == "not_found"


def test_the_list_is_filtered_as_a_search_is(items: list[Item], anonymous: Client) -> None:
    apples = {"apple-0", "apple-1", "apple-2"}
    assert set(skus(anonymous.get(f"{ITEMS}?category=Fruit"))) == apples
    assert set(skus(anonymous.get(f"{ITEMS}?category={items[0].category.slug}"))) == apples
    assert set(skus(anonymous.get(f"{ITEMS}?tag=fresh&tag=red"))) == {"apple-1", "apple-2"}
    assert set(skus(anonymous.get(f"{ITEMS}?price_min=2&price_max=3"))) == {"apple-1"}
    assert set(skus(anonymous.get(f"{ITEMS}?text=orange"))) == {"juice-0", "juice-1", "juice-2"}
    assert set(skus(anonymous.get(f"{ITEMS}?text=apple&price_max=1.5"))) == {"apple-0"}
    assert skus(anonymous.get(f"{ITEMS}?vertical=landmark")) == []
    assert set(error_of(anonymous.get(f"{ITEMS}?category=nowhere"), 400)["fields"]) == {"category"}
    assert set(error_of(anonymous.get(f"{ITEMS}?price_min=x"), 400)["fields"]) == {"price_min"}


def test_only_staff_see_and_ask_for_states(
    items: list[Item], photos: list[bytes], staff: Client, anonymous: Client
) -> None:
    item_with_photos("new", [photos[7]])
    ItemImage.objects.filter(item=items[0]).update(failure="unreadable")

    assert skus(staff.get(f"{ITEMS}?state=pending")) == ["new"]
    assert skus(staff.get(f"{ITEMS}?state=failed")) == ["apple-0"]
    assert len(skus(staff.get(f"{ITEMS}?state=searchable"))) == 5
    assert set(error_of(staff.get(f"{ITEMS}?state=lost"), 400)["fields"]) == {"state"}
    assert len(skus(anonymous.get(f"{ITEMS}?state=pending"))) == 7
    assert staff.get(f"{ITEMS}/apple-0").json()["images"][0]["failure"] == "unreadable"
    assert set(anonymous.get(f"{ITEMS}/apple-0").json()["images"][0]) == {
        "id",
        "image",
        "thumbnail",
        "width",
        "height",
        "colour",
        "alt",
    }


def test_the_list_comes_in_pages(items: list[Item], anonymous: Client) -> None:
    first = anonymous.get(f"{ITEMS}?page_size=4").json()
    second = anonymous.get(f"{ITEMS}?page_size=4&page=2").json()
    behind = anonymous.get(f"{ITEMS}?page_size=4&page=3").json()

    assert (first["count"], first["page"], first["pages"]) == (6, 1, 2)
    listed = [item["sku"] for page in (first, second) for item in page["results"]]
    assert sorted(listed) == ["apple-0", "apple-1", "apple-2", "juice-0", "juice-1", "juice-2"]
    assert (behind["results"], behind["count"]) == ([], 6)


@pytest.mark.parametrize("name", ["page", "page_size"])
@pytest.mark.parametrize("value", ["0", "-1", "1000000000", "x", "1.5", "NaN", "²", "9" * 5000])
def test_a_page_that_is_none_is_refused(anonymous: Client, name: str, value: str) -> None:
    assert set(error_of(anonymous.get(f"{ITEMS}?{name}={value}"), 400)["fields"]) == {name}


@pytest.mark.parametrize("role", ["anonymous", "staff"])
def test_a_longer_list_costs_no_more_questions(
    items: list[Item], request: pytest.FixtureRequest, role: str, django_assert_max_num_queries: Any
) -> None:
    client = request.getfixturevalue(role)

    with django_assert_max_num_queries(6):  # two of them ask who is calling
        assert len(skus(client.get(ITEMS))) == 6


def test_a_photo_is_added_once_and_waits_to_be_encoded(
    data_dir: Path, photos: list[bytes], staff: Client
) -> None:
    item_with_photos("a/images", [])
    address = f"{ITEMS}/a/images/images"

    first = staff.post(address, {"image": photo_file(photos[0]), "alt": "an apple"})
    again = staff.post(address, {"image": photo_file(photos[0])})

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert (first.json()["state"], first.json()["alt"]) == ("pending", "an apple")
    image = ItemImage.objects.get()
    assert first.json()["image"] == f"/media/{image.path}"
    assert (data_dir / "media" / image.path).exists()
    assert Job.objects.filter(kind="encode_images").count() == 1
    assert OutboxMessage.objects.count() == 1


def test_an_item_whose_sku_ends_in_images_can_be_read_changed_and_deleted(
    data_dir: Path, staff: Client
) -> None:
    item_with_photos("a/images", [])
    address = f"{ITEMS}/a/images"

    assert staff.get(address).json()["sku"] == "a/images"
    assert send(staff, "PATCH", address, {"title": "found"}).json()["title"] == "found"
    assert staff.delete(address).status_code == 204
    assert Item.objects.count() == 0


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7", b"\xff\xd8\xff\xe0 cut off"])
def test_a_bad_photo_leaves_neither_row_nor_file_nor_job(data_dir: Path, staff: Client, data: bytes) -> None:
    item_with_photos("a", [])

    response = staff.post(f"{ITEMS}/a/images", {"image": photo_file(data)})

    assert response.status_code in {415, 422}
    assert error_of(response, response.status_code)
    assert ItemImage.objects.count() == 0
    assert Job.objects.count() == 0
    assert not any(path.is_file() for path in (data_dir / "media").rglob("*"))


def test_hostile_file_names_stay_names(data_dir: Path, photos: list[bytes], staff: Client) -> None:
    item_with_photos("a", [])
    for number, name in enumerate(
        ["../../etc/passwd", "a\r\nX-Evil: 1.jpg", "\x1b[31mred.jpg", "n" * 4000 + ".jpg"]
    ):
        response = staff.post(f"{ITEMS}/a/images", {"image": photo_file(photos[number], name)})
        assert response.status_code == 201, name
        assert "X-Evil" not in response.headers
    names = [path.name for path in (data_dir / "media").rglob("*") if path.is_file()]
    assert len(names) == 8
    assert all(len(Path(name).stem) == 64 and Path(name).suffix in {".jpg", ".png"} for name in names)


def test_a_photo_for_nobody_is_404_and_stores_nothing(
    data_dir: Path, photos: list[bytes], staff: Client
) -> None:
    response = staff.post(f"{ITEMS}/nobody/images", {"image": photo_file(photos[0])})

    assert error_of(response, 404)["code"] == "not_found"
    assert not (data_dir / "media").exists()


def test_a_category_is_made_with_those_above_it_and_only_once(staff: Client, anonymous: Client) -> None:
    made = send(staff, "POST", "/api/v1/categories", {"path": "Fruit > Apple > Granny Smith"})
    again = send(staff, "POST", "/api/v1/categories", {"path": "Fruit > Apple > Granny Smith"})

    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json() == again.json()
    listed = anonymous.get("/api/v1/categories").json()
    assert listed["count"] == 3
    assert [row["path"] for row in listed["results"]] == [
        "Fruit",
        "Fruit > Apple",
        "Fruit > Apple > Granny Smith",
    ]
    assert [row["parent"] for row in listed["results"]] == [
        None,
        *(row["slug"] for row in listed["results"][:2]),
    ]


@pytest.mark.parametrize(
    "body", [{}, {"path": ""}, {"path": "A > > B"}, {"path": "x" * 600}, {"path": "A", "vertical": "animal"}]
)
def test_a_wrong_category_is_refused(staff: Client, body: dict[str, Any]) -> None:
    assert error_of(send(staff, "POST", "/api/v1/categories", body), 400)["fields"]
    assert Category.objects.count() == 0


# --- feedback


def feedback(client: Client, body: Any, query_id: str | None = None) -> Any:
    return send(client, "POST", f"/api/v1/queries/{query_id or uuid.uuid4()}/feedback", body)


def test_the_last_word_on_a_result_counts(items: list[Item], anonymous: Client) -> None:
    query_id = str(uuid.uuid4())

    first = feedback(anonymous, {"sku": "apple-0", "verdict": "right"}, query_id)
    last = feedback(anonymous, {"sku": "apple-0", "verdict": "wrong"}, query_id)

    assert (first.status_code, first.content, last.status_code) == (204, b"", 204)
    row = Feedback.objects.get()
    assert (str(row.query_id), row.sku, row.verdict, row.user, row.image_sha256) == (
        query_id,
        "apple-0",
        "wrong",
        None,
        "",
    )


def test_feedback_remembers_who_gave_it(items: list[Item]) -> None:
    kim = user_make("kim")

    assert feedback(key_client(kim), {"sku": "apple-0", "verdict": "right"}).status_code == 204

    assert Feedback.objects.get().user == kim


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"sku": "nobody", "verdict": "right"}, 404),
        ({"sku": "apple-0", "verdict": "maybe"}, 400),
        ({"sku": "apple-0"}, 400),
        ({"verdict": "right"}, 400),
        ({"sku": "apple-0", "verdict": None}, 400),
        ({"sku": "apple-0", "verdict": "right", "image": "x"}, 400),
    ],
)
def test_wrong_feedback_is_not_kept(items: list[Item], anonymous: Client, body: Any, status: int) -> None:
    assert error_of(feedback(anonymous, body), status)
    assert Feedback.objects.count() == 0


def test_a_query_id_that_is_none_is_404(anonymous: Client) -> None:
    assert error_of(feedback(anonymous, {"sku": "a", "verdict": "right"}, "not-a-uuid"), 404)


# --- model versions


def test_operators_see_the_versions_and_what_serves(data_dir: Path) -> None:
    version = versions.default_version_ensure()

    body = session_client(operator_make()).get("/api/v1/model-versions").json()

    assert body["count"] == 1
    row = body["results"][0]
    assert (row["version"], row["digest"], row["parent"]) == ("1.0", version.digest, None)
    deployment = versions.champion().pk
    assert [(one["arm"], one["share"], one["deployment"]) for one in row["serving"]] == [
        ("champion", 100, deployment)
    ]
    assert row["lineage"] == str(version.lineage)
