"""POST /search and /encode: every way to ask, and every way to ask wrongly."""

import json
import uuid
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from PIL import Image

from searchapp.models import Item, Query
from searchapp.services import query_log, serving, versions
from tests.searchapp.api_cast import error_of, key_client, photo_file, user_make
from tests.searchapp.galleries import item_with_photos, shop

pytestmark = [pytest.mark.django_db, pytest.mark.database]
SEARCH = "/api/v1/search"


@pytest.fixture
def items(data_dir: Path, photos: list[bytes]) -> list[Item]:
    return shop(photos)


def ask(client: Client, body: Any, query: str = "") -> Any:
    return client.post(SEARCH + query, json.dumps(body), content_type="application/json")


def ask_photo(client: Client, data: bytes, query: str = "", **fields: Any) -> Any:
    return client.post(SEARCH + query, {"image": photo_file(data), **fields})


def skus(response: Any) -> list[str]:
    assert response.status_code == 200, response.content
    return [result["sku"] for result in response.json()["results"]]


def test_a_catalogue_photo_finds_its_own_item_first_in_the_contract_s_shape(
    items: list[Item], photos: list[bytes], anonymous: Client
) -> None:
    response = ask_photo(anonymous, photos[1])

    answer = response.json()
    assert set(answer) == {"query_id", "model_version", "gallery", "took_ms", "results"}
    assert uuid.UUID(answer["query_id"]).version == 4
    assert answer["model_version"] == "1.0"
    assert answer["gallery"] == {"entries": 6, "versions": {"1.0": 6}}
    assert set(answer["took_ms"]) == {"intake", "encode", "shortlist", "rerank", "rows", "total"}
    assert len(answer["results"]) == 6
    first = answer["results"][0]
    photo = items[1].images.get()
    assert {name: first[name] for name in first if name not in {"score", "why", "strength", "hamming"}} == {
        "sku": "apple-1",
        "title": "Red apple",
        "category": "Fruit > Apple",
        "image": f"/media/{photo.path}",
        "thumbnail": f"/media/{photo.thumbnail}",
        "producer": "1.0",
        "provenance": "encoded",
    }
    assert {"stage", "tags"} <= set(first["why"])
    assert first["hamming"] <= 8  # a JPEG query against the stored re-encoding of itself


def test_the_answer_names_its_version_and_changes_its_tag_only_with_the_results(
    items: list[Item], photos: list[bytes], anonymous: Client
) -> None:
    first, again, other = (ask_photo(anonymous, photos[n]) for n in (0, 0, 5))

    assert first["X-Model-Version"] == "1.0"
    assert first["ETag"].startswith('W/"1.0-')
    assert again["ETag"] == first["ETag"]
    assert other["ETag"] != first["ETag"]


def test_an_anonymous_search_asks_the_database_for_rows_only_and_never_for_a_session(
    items: list[Item], photos: list[bytes], anonymous: Client, django_assert_num_queries: Any
) -> None:
    serving.current()
    # Two to notice that the gallery has not moved (a thread does that when serving), entries and tags.
    with django_assert_num_queries(4):
        response = ask_photo(anonymous, photos[0])

    assert response.status_code == 200
    assert response.cookies == {}


def test_anonymous_scores_have_two_digits_and_a_key_sees_all_of_them(
    items: list[Item], photos: list[bytes], anonymous: Client
) -> None:
    seen = [result["score"] for result in ask_photo(anonymous, photos[0]).json()["results"]]
    known = [
        result["score"] for result in ask_photo(key_client(user_make("kim")), photos[0]).json()["results"]
    ]

    assert seen == [round(score, 2) for score in known]
    assert any(score != round(score, 2) for score in known)


def test_no_answer_holds_a_code_or_an_embedding(
    items: list[Item], photos: list[bytes], anonymous: Client
) -> None:
    text = ask_photo(anonymous, photos[0]).content.decode()

    entry = items[0].images.get().entries.get()
    assert bytes(entry.code).hex() not in text
    assert "embedding" not in json.dumps([list(result) for result in json.loads(text)["results"]])


def test_filters_count_from_the_query_string_and_the_body_wins(
    items: list[Item], photos: list[bytes], anonymous: Client
) -> None:
    apples, slug = {"apple-0", "apple-1", "apple-2"}, items[0].category.slug

    assert skus(ask_photo(anonymous, photos[4], query="?category=drink&k=2"))[0] == "juice-1"
    assert set(skus(ask_photo(anonymous, photos[4], query="?category=drink", category=slug))) == apples
    assert set(skus(ask_photo(anonymous, photos[4], category="Fruit"))) == apples
    assert set(skus(ask_photo(anonymous, photos[0], query="?tag=fresh&tag=red"))) == {"apple-1", "apple-2"}
    assert set(skus(ask_photo(anonymous, photos[0], price_min="2", price_max="3"))) == {"apple-1"}
    assert set(skus(ask(anonymous, {"text": "apple", "tags": ["red"]}))) == {"apple-1", "apple-2"}


def test_words_and_a_stored_item_find_without_a_picture(items: list[Item], anonymous: Client) -> None:
    assert set(skus(ask(anonymous, {"text": "orange juice"}))) == {"juice-0", "juice-1", "juice-2"}
    alike = skus(ask(anonymous, {"sku": "apple-0", "k": 3}))
    assert len(alike) == 3
    assert "apple-0" not in alike


def test_words_refine_a_picture(items: list[Item], photos: list[bytes], anonymous: Client) -> None:
    assert set(skus(ask_photo(anonymous, photos[0], text="juice"))) == {"juice-0", "juice-1", "juice-2"}


def test_what_encode_gives_can_be_searched_with(items: list[Item], photos: list[bytes]) -> None:
    client = key_client(user_make("kim"))

    encoded = client.post("/api/v1/encode", {"image": photo_file(photos[2])})

    assert encoded.status_code == 200
    assert encoded["X-Model-Version"] == "1.0"
    body = encoded.json()
    version = versions.champion().version
    assert len(body["code"]) == version.code_bits // 4
    assert len(body["embedding"]) == version.dimension
    by_vector = ask(client, body).json()["results"]
    by_photo = ask_photo(client, photos[2]).json()["results"]
    assert [(row["sku"], row["hamming"]) for row in by_vector] == [
        (row["sku"], row["hamming"]) for row in by_photo
    ]


def test_a_vector_of_no_version_is_refused_and_of_another_lineage_conflicts(
    items: list[Item], photos: list[bytes], anonymous: Client
) -> None:
    vector = key_client(user_make("kim")).post("/api/v1/encode", {"image": photo_file(photos[2])}).json()

    nameless = error_of(ask(anonymous, {**vector, "model_version": ""}), 400)
    stranger = error_of(ask(anonymous, {**vector, "model_version": "9.9"}), 409)

    assert nameless["code"] == "invalid_input"
    assert set(nameless["fields"]) == {"model_version"}
    assert stranger["code"] == "incompatible_version"


@pytest.mark.parametrize("text", ["1e999", "NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_none_never_reaches_the_gallery(
    items: list[Item], anonymous: Client, text: str
) -> None:
    body = f'{{"code": "{"0" * 32}", "model_version": "1.0", "embedding": [{text}]}}'

    response = anonymous.post(SEARCH, body, content_type="application/json")

    assert error_of(response, 400)["code"] == "malformed_body"


@pytest.mark.parametrize("k", [0, -1, 1_000_000_000, "x", "NaN", 2.5, True, None, [1, 2], {"a": 1}, 51])
def test_a_k_that_is_not_1_to_50_is_refused(items: list[Item], anonymous: Client, k: Any) -> None:
    error = error_of(ask(anonymous, {"text": "apple", "k": k}), 400)

    assert error["code"] == "invalid_input"
    assert set(error["fields"]) == {"k"}


@pytest.mark.parametrize(("k", "found"), [(1, 1), (2, 2), (50, 3), ("3", 3), ("", 3)])
def test_a_good_k_bounds_the_answer(items: list[Item], anonymous: Client, k: Any, found: int) -> None:
    assert len(skus(ask(anonymous, {"text": "apple", "k": k}))) == found


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"text": "apple", "category": "no-such"}, "category"),
        ({"text": "apple", "tag": ["no-such"]}, "tag"),
        ({"text": "apple", "vertical": "animal"}, "vertical"),
        ({"text": "apple", "price_min": "cheap"}, "price_min"),
        ({"text": "apple", "price_min": 5, "price_max": 1}, "price_max"),
        ({"text": "..."}, "text"),
        ({"text": "a" * 301}, "text"),
        ({"text": ["a", "b"]}, "text"),
        ({"sku": 5}, "sku"),
        ({"text": "nul\0byte"}, "text"),
        ({"text": "\ud800"}, "text"),
        ({"image": "not a file"}, "image"),
    ],
)
def test_a_wrong_field_is_named(items: list[Item], anonymous: Client, body: Any, field: str) -> None:
    error = error_of(ask(anonymous, body), 400)

    assert error["code"] == "invalid_input"
    assert set(error["fields"]) == {field}


@pytest.mark.parametrize("body", [{}, {"k": 3}, {"text": "a", "sku": "b"}, {"sku": "a", "code": "b"}])
def test_an_unclear_question_is_not_guessed_at(items: list[Item], anonymous: Client, body: Any) -> None:
    error = error_of(ask(anonymous, body), 400)

    assert error["code"] == "invalid_input"
    assert "give one of" in error["message"]


def test_an_unknown_item_is_404(items: list[Item], anonymous: Client) -> None:
    assert error_of(ask(anonymous, {"sku": "nobody"}), 404)["code"] == "not_found"


@pytest.mark.parametrize("crop", ["", "0,0,1,1", "0.25,0.25,0.5,0.5"])
def test_a_crop_inside_the_photo_is_searched(
    items: list[Item], photos: list[bytes], anonymous: Client, crop: str
) -> None:
    assert len(skus(ask_photo(anonymous, photos[0], crop=crop))) == 6


@pytest.mark.parametrize("crop", ["1,2,3", "a,b,c,d", "0,0,2,2", "nan,0,1,1", "0,0,0,0", "1e400,0,1,1"])
def test_a_crop_outside_the_photo_is_refused(
    items: list[Item], photos: list[bytes], anonymous: Client, crop: str
) -> None:
    assert set(error_of(ask_photo(anonymous, photos[0], crop=crop), 400)["fields"]) == {"crop"}


def test_an_empty_gallery_answers_with_nothing(
    data_dir: Path, photos: list[bytes], anonymous: Client
) -> None:
    response = ask_photo(anonymous, photos[0])

    assert skus(response) == []
    assert response.json()["gallery"]["entries"] == 0


def test_a_photo_one_byte_over_the_limit_is_413_and_one_at_the_limit_is_read(
    items: list[Item], photos: list[bytes], anonymous: Client
) -> None:
    full = photos[0] + b"\0" * (settings.IMAGE_MAX_BYTES - len(photos[0]))

    assert error_of(ask_photo(anonymous, full + b"\0"), 413)["code"] == "image_too_large"
    assert skus(ask_photo(anonymous, full))[0] == "apple-0"


def test_an_upload_far_over_the_limit_is_cut_off_while_it_is_read(
    items: list[Item], anonymous: Client
) -> None:
    response = ask_photo(anonymous, b"\xff\xd8" + b"\0" * (settings.IMAGE_MAX_BYTES + 3 * 1024 * 1024))

    assert error_of(response, 413)["code"] == "image_too_large"


def test_a_picture_of_too_many_pixels_is_413_before_it_is_decoded(
    items: list[Item], anonymous: Client
) -> None:
    buffer = BytesIO()
    Image.new("1", (5001, 5000)).save(buffer, "PNG")

    error = error_of(ask_photo(anonymous, buffer.getvalue()), 413)

    assert error["code"] == "image_too_large"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "bad_image"),
        (b"%PDF-1.7 no picture", 415, "unsupported_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_image"),
    ],
)
def test_what_is_no_photo_is_refused_by_kind(
    items: list[Item], anonymous: Client, data: bytes, status: int, code: str
) -> None:
    assert error_of(ask_photo(anonymous, data), status)["code"] == code


def test_a_truncated_photo_is_a_clear_4xx(items: list[Item], photos: list[bytes], anonymous: Client) -> None:
    response = ask_photo(anonymous, photos[0][: len(photos[0]) // 3])

    assert error_of(response, 422)["code"] == "bad_image"


def test_a_refused_search_is_not_logged_and_an_answered_one_is(
    items: list[Item], photos: list[bytes], anonymous: Client
) -> None:
    ask(anonymous, {"text": "apple", "k": 0})
    answer = ask_photo(anonymous, photos[0]).json()

    query_log.flush()

    assert [str(query.pk) for query in Query.objects.all()] == [answer["query_id"]]


def test_warming_up_is_503_with_a_time_to_come_back(
    data_dir: Path, photos: list[bytes], anonymous: Client, settings: Any
) -> None:
    settings.DEFAULT_BUNDLE = data_dir / "none"

    response = ask_photo(anonymous, photos[0])

    assert error_of(response, 503)["code"] == "unavailable"
    assert response["Retry-After"] == "2"


def test_a_sku_with_colons_and_slashes_is_found_by_it(
    data_dir: Path, photos: list[bytes], anonymous: Client
) -> None:
    item_with_photos("pack:a/b", photos[:1])
    assert ask(anonymous, {"sku": "pack:a/b"}).status_code == 200
