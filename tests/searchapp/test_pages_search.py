"""The search page through plain HTTP: what a browser without scripts does, and each refusal in words."""

import re
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from searchapp.exceptions import Unavailable
from searchapp.models import EvaluationQuery, Feedback, Item, ItemImage
from searchapp.services import catalogue, intake, query_log, serving
from searchapp.views.asking import Asked, asked_in
from searchapp.views.shelves import facets
from tests.searchapp.galleries import item_with_photos, shop

pytestmark = [pytest.mark.django_db, pytest.mark.database]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.fixture(autouse=True)
def _nothing_cached() -> None:
    cache.clear()


@pytest.fixture
def items(photos: list[bytes], data_dir: Path) -> list[Item]:
    return shop(photos)


def upload(data: bytes, name: str = "photo.jpg") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, data, content_type="image/jpeg")


def text_of(response: Any) -> str:
    """The words of a page, without tags, scripts or templates."""
    html = re.sub(r"<(template|script|style)\b.*?</\1>", " ", response.content.decode(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def titles(response: Any) -> list[str]:
    html = response.content.decode().split("<template")[0]
    return [unescape(title) for title in re.findall(r'class="card-title">([^<]*)', html)]


def sample_of(data: bytes, item: Item) -> EvaluationQuery:
    stored = intake.image_store(data)
    return EvaluationQuery.objects.create(
        source=f"test:{item.sku}",
        split="test",
        image_sha256=stored.image_sha256,
        upload_sha256=stored.upload_sha256,
        extension=stored.extension,
        relevance=EvaluationQuery.Relevance.ITEM,
        item=item,
        category=item.category,
    )


def test_a_posted_photo_finds_its_item_first_and_counts_the_results(
    client: Client, items: list[Item], photos: list[bytes]
) -> None:
    response = client.post("/search", {"image": upload(photos[3])})

    assert response.status_code == 200
    assert titles(response)[0] == "Orange juice"
    assert re.search(r"6 results, (\d+|none) strong \d+ ms", text_of(response))


def test_the_results_carry_the_photo_back_so_that_a_filter_needs_no_new_upload_and_nothing_is_stored(
    client: Client, items: list[Item], photos: list[bytes], data_dir: Path
) -> None:
    before = sorted(path for path in data_dir.rglob("*") if path.is_file())
    first = client.post("/search", {"image": upload(photos[0])})
    kept = re.search(r'name="kept" value="(data:image/jpeg;base64,[^"]+)"', first.content.decode())
    assert kept is not None

    second = client.post("/search", {"kept": kept[1], "category": "drink"})

    assert titles(second) == ["Orange juice"] * 3
    assert f'name="kept" value="{kept[1]}"' in second.content.decode()  # encoded once, not at every step
    assert sorted(path for path in data_dir.rglob("*") if path.is_file()) == before


def test_a_crop_without_scripts_is_four_numbers_and_tighter_takes_a_tenth_off_each_side(
    client: Client, items: list[Item], photos: list[bytes]
) -> None:
    fields = {"crop_x": "0", "crop_y": "0", "crop_w": "100", "crop_h": "100", "crop_to": "tighter"}

    response = client.post("/search", {"image": upload(photos[0]), **fields})

    html = response.content.decode().split("<template")[0]
    values = re.findall(r'name="crop_[xywh]"[^>]*value="([^"]*)"', html)
    assert values == ["10", "10", "80", "80"]


def test_a_pdf_is_refused_in_the_drop_box_with_what_is_allowed(client: Client, items: list[Item]) -> None:
    response = client.post("/search", {"image": upload(b"%PDF-1.7 nothing", "leaflet.jpg")})

    assert response.status_code == 415
    assert "That file is a PDF. Send a JPEG, PNG or WebP of up to 20 MB." in text_of(response)
    assert "Find it by its picture." in text_of(response)


def test_a_post_without_a_photo_asks_for_one_and_with_words_becomes_a_search_by_words(
    client: Client, items: list[Item]
) -> None:
    empty = client.post("/search", {})
    words = client.post("/search", {"q": "red apple"})

    assert empty.status_code == 400
    assert "Choose a photo first" in text_of(empty)
    assert (words.status_code, words["Location"]) == (302, "/?q=red+apple")


def test_a_text_search_is_an_address_with_its_filters(client: Client, items: list[Item]) -> None:
    response = client.get("/", {"q": "red apple", "price_max": "2", "tag": ["fresh"]})

    assert titles(response) == ["Red apple"]
    assert "1 result, 1 strong" in text_of(response)
    chips = re.findall(r'name="drop" value="([^"]+)"', response.content.decode())
    assert chips == ["tag:fresh", "price_max:2"]


def test_a_dropped_filter_is_gone_from_question_and_results(client: Client, items: list[Item]) -> None:
    response = client.get("/", {"q": "apple", "price_max": "2", "drop": "price_max:2"})

    assert titles(response) == ["Red apple"] * 3
    assert 'name="drop"' not in response.content.decode().split("<template")[0]


def test_more_like_this_leaves_the_item_itself_out(client: Client, items: list[Item]) -> None:
    response = client.get("/", {"sku": "apple-0"})

    assert response.status_code == 200
    assert len(titles(response)) == 5
    assert "Things that look like Red apple" in text_of(response)


def test_a_sample_photo_searches_by_address_and_can_be_cropped_there(
    client: Client, items: list[Item], photos: list[bytes]
) -> None:
    sample = sample_of(photos[7], items[0])

    start = client.get("/")
    response = client.get("/", {"sample": str(sample.pk), "crop": "0.1,0.1,0.5,0.5"})

    assert f'href="/?sample={sample.pk}#results"' in start.content.decode()
    assert response.status_code == 200
    assert len(titles(response)) == 6
    assert 'name="crop_w" type="number" inputmode="decimal" min="1" max="100" step="any" value="50"' in (
        response.content.decode()
    )


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"q": "apple", "crop": "2,2,2,2"}, 400, "The crop is '2,2,2,2'"),
        (
            {"q": "apple", "price_min": "cheap"},
            400,
            "'cheap' is not a price; a number of 0 or more is allowed.",
        ),
        ({"q": "apple", "price_min": "5", "price_max": "2"}, 400, "2 is below price_min, 5."),
        ({"q": "apple", "vertical": "animal"}, 400, "'animal' is not a vertical"),
        ({"q": "apple", "category": "no-such"}, 400, "There is no category 'no-such'"),
        ({"q": "apple", "tag": "blue"}, 400, "There is no tag 'blue'."),
        ({"q": "!!!"}, 400, "'!!!' holds no word to look for."),
        ({"sku": "nothing"}, 404, "There is no item 'nothing'."),
        ({"sample": "999999"}, 404, "That sample photo is not in the catalogue any more."),
        ({"photo": "abc123"}, 200, "Photos are not stored, so the address alone cannot repeat it."),
    ],
)
def test_a_question_that_cannot_be_answered_says_which_part_and_what_is_allowed(
    client: Client, items: list[Item], query: dict[str, str], status: int, words: str
) -> None:
    response = client.get("/", query)

    assert response.status_code == status
    assert words in text_of(response)
    assert titles(response) == []


def test_the_filter_that_is_wrong_is_marked_beside_its_field(client: Client, items: list[Item]) -> None:
    html = client.get("/", {"q": "apple", "price_min": "-3"}).content.decode().split("<template")[0]

    assert re.search(r'class="field-error">(?:&#x27;|.)-3', html)


def test_nothing_found_offers_next_steps_instead_of_an_empty_page(client: Client, items: list[Item]) -> None:
    response = client.get("/", {"q": "submarine"})

    assert response.status_code == 200
    assert "Nothing here looks like it" in text_of(response)
    assert "Try fewer or other words, or a photo." in text_of(response)


def test_while_the_gallery_loads_the_photo_is_kept_and_the_page_says_when_to_come_back(
    client: Client, items: list[Item], photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loading() -> serving.GalleryReference:
        raise Unavailable("The gallery is being loaded; try again in a moment.")

    monkeypatch.setattr(serving, "current", loading)

    response = client.post("/search", {"image": upload(photos[0])})

    assert (response.status_code, response["Retry-After"]) == (503, "2")
    assert "One moment" in text_of(response)
    assert 'data-retry-seconds="2"' in response.content.decode()
    assert 'name="kept" value="data:image/jpeg;base64,' in response.content.decode()


def test_htmx_gets_only_the_results_and_the_address_that_repeats_them(
    client: Client, items: list[Item], photos: list[bytes]
) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/"}
    data = {"image": upload(photos[0]), "photo": "tab1", "category": "drink"}

    response = client.post("/search", data, headers=headers)

    assert response.status_code == 200
    assert "<html" not in response.content.decode()
    assert response["HX-Push-Url"] == "/?photo=tab1&category=drink"
    assert "HX-Request" in response["Vary"]


def test_a_nudged_crop_replaces_the_address_where_a_filter_adds_a_step(
    client: Client, items: list[Item], photos: list[bytes]
) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/?photo=tab1&category=drink"}
    data = {"image": upload(photos[0]), "photo": "tab1", "category": "drink", "crop_w": "50"}

    response = client.post("/search", data, headers=headers)

    assert response["HX-Replace-Url"] == "/?photo=tab1&crop=0%2C0%2C0.5%2C1&category=drink"
    assert "HX-Push-Url" not in response


def test_an_address_and_the_question_in_it_are_the_same_thing(rf: Any) -> None:
    asked = Asked(
        words="red & round", photo="a1", crop=(10.0, 5.5, 50.0, 40.0), filters=(("tag", "a&b"), ("tag", "ü"))
    )

    assert asked_in(rf.get(asked.address()).GET) == asked


def test_staff_see_the_figures_behind_a_result_and_shoppers_see_words(
    client: Client, admin_client: Client, items: list[Item], photos: list[bytes]
) -> None:
    shopper = text_of(client.post("/search", {"image": upload(photos[0])}))
    staff = text_of(admin_client.post("/search", {"image": upload(photos[0])}))

    assert "visual traits agree" in shopper
    assert "Hamming" not in shopper
    assert re.search(r"Hamming \d+, entry encoded by version 1\.0", staff)


def test_feedback_is_kept_changed_and_taken_back_with_and_without_scripts(
    client: Client, items: list[Item]
) -> None:
    query = "3f0e8e9a-8c2e-4d2a-9f6a-111111111111"
    form = {"query_id": query, "sku": "apple-0", "title": "Red apple"}

    page = client.post("/feedback", {**form, "verdict": "right"})
    assert "You said of “Red apple”: This is it." in text_of(page)
    part = client.post("/feedback", {**form, "verdict": "wrong"}, headers={"HX-Request": "true"})
    assert "<html" not in part.content.decode()
    assert "Not this" in text_of(part)
    assert [row.verdict for row in Feedback.objects.all()] == ["wrong"]

    client.post("/feedback", {**form, "verdict": ""})
    assert not Feedback.objects.exists()


def test_feedback_on_nothing_that_exists_is_refused_and_not_kept(client: Client, items: list[Item]) -> None:
    unknown = client.post("/feedback", {"query_id": "x", "sku": "apple-0", "verdict": "right"})
    wrong = client.post(
        "/feedback",
        {"query_id": "3f0e8e9a-8c2e-4d2a-9f6a-111111111111", "sku": "apple-0", "verdict": "maybe"},
    )

    assert (unknown.status_code, wrong.status_code) == (404, 400)
    assert not Feedback.objects.exists()


def test_a_photo_sent_with_feedback_is_kept_outside_every_address(
    client: Client, items: list[Item], photos: list[bytes]
) -> None:
    query = "3f0e8e9a-8c2e-4d2a-9f6a-222222222222"

    client.post(
        "/feedback", {"query_id": query, "sku": "apple-0", "verdict": "right", "image": upload(photos[9])}
    )

    sha = Feedback.objects.get().image_sha256
    assert query_log.query_image_path(sha).exists()
    assert client.get(f"/media/images/{sha[:2]}/{sha}.jpg").status_code == 404


def test_hostile_words_and_names_are_text_on_every_page(
    client: Client, photos: list[bytes], data_dir: Path
) -> None:
    item = item_with_photos(
        "evil", [photos[0]], "Fruit", [HOSTILE.lower()], title=HOSTILE, description=HOSTILE
    )
    catalogue.image_add(item=item, data=photos[1], alt=HOSTILE)
    pages = ["/", "/browse", "/items/evil", "/?sku=evil"]
    responses = [client.get(address) for address in pages]
    responses += [client.get("/", {"q": HOSTILE}), client.get("/browse", {"q": HOSTILE, "tag": HOSTILE})]
    responses.append(
        client.post("/feedback", {"query_id": "x", "sku": HOSTILE, "title": HOSTILE, "verdict": "right"})
    )

    for response in responses:
        html = response.content.decode()
        assert "<script>alert" not in html
        assert "<img src=x" not in html
    assert "&lt;script&gt;" in responses[2].content.decode()


def test_the_page_costs_the_same_queries_for_one_result_as_for_six(
    client: Client, photos: list[bytes], data_dir: Path
) -> None:
    shop(photos)
    client.get("/", {"q": "apple"})  # warms what is kept between requests

    with CaptureQueriesContext(connection) as few:
        client.get("/", {"q": "juice", "price_max": "1"})
    with CaptureQueriesContext(connection) as many:
        client.get("/", {"q": "apple juice fresh"})

    assert len(many) <= 12, [query["sql"][:90] for query in many]
    assert len(few) <= len(many)


def test_the_start_page_costs_one_query_while_the_catalogue_stays_as_it_is(
    client: Client, items: list[Item]
) -> None:
    client.get("/")

    with CaptureQueriesContext(connection) as queries:
        client.get("/")

    assert len(queries) == 1


def test_a_category_or_price_that_comes_in_is_offered_by_the_next_page(
    client: Client, items: list[Item]
) -> None:
    assert "Bread" not in [row["path"] for row in facets().categories]

    catalogue.item_create(sku="loaf", category=catalogue.category_ensure("Bread"), price=Decimal("3.20"))

    assert "Bread" in [row["path"] for row in facets().categories]


def test_a_page_allows_no_inline_script_or_style_and_has_none(client: Client, items: list[Item]) -> None:
    for address in ("/", "/?q=apple", "/items/apple-0", "/browse", "/login/", "/nothing-here"):
        response = client.get(address)
        policy = response["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "script-src 'self'" in policy
        html = response.content.decode()
        assert not re.search(r"<script(?![^>]*\bsrc=)", html)
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", html)


def test_every_picture_has_alt_width_and_height_and_every_field_a_label(
    client: Client, items: list[Item]
) -> None:
    for address in ("/", "/?q=apple", "/items/apple-0", "/browse", "/login/"):
        html = client.get(address).content.decode()
        for image in re.findall(r"<img\b[^>]*>", html):
            assert re.search(r'\balt="', image), image
            assert re.search(r'\bwidth="[^"]*"', image), image
        labels = set(re.findall(r'<label[^>]*\bfor="([^"]+)"', html))
        for control in re.findall(
            r'<(?:input|select|textarea)\b(?![^>]*type="(?:hidden|checkbox)")[^>]*>', html
        ):
            named = re.search(r'\bid="([^"]+)"', control)
            assert "aria-label=" in control or (named and named[1] in labels), control


def test_a_form_from_elsewhere_changes_nothing(items: list[Item], photos: list[bytes]) -> None:
    strict = Client(enforce_csrf_checks=True)
    form = {"query_id": "3f0e8e9a-8c2e-4d2a-9f6a-111111111111", "sku": "apple-0", "verdict": "right"}

    assert strict.post("/feedback", form).status_code == 403
    assert strict.post("/search", {"image": upload(photos[0])}).status_code == 403
    assert not Feedback.objects.exists()
    assert ItemImage.objects.count() == 6


def test_a_current_address_that_is_none_does_not_break_the_answer(client: Client, items: list[Item]) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://["}

    response = client.get("/?q=apple", headers=headers)

    assert response.status_code == 200
    assert response["HX-Push-Url"] == "/?q=apple"


def test_a_page_beside_the_admin_has_the_strict_policy(client: Client, db: None) -> None:
    assert "script-src 'self'" in client.get("/administrator")["Content-Security-Policy"]
