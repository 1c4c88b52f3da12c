"""One error shape under /api, whatever goes wrong and wherever; never a trace."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client

from searchapp.models import Category, Item, Job
from searchapp.services import browsing, search
from tests.searchapp.api_cast import error_of, key_client, photo_file, user_make

pytestmark = pytest.mark.django_db
ITEMS = "/api/v1/items"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "address", ["/api/", "/api/v1/", "/api/v1/nothing", "/api/v2/search", "/api/v1/search/"]
)
def test_an_address_that_does_not_exist_is_404_in_the_shape(
    anonymous: Client, method: str, address: str
) -> None:
    assert error_of(anonymous.generic(method, address), 404)["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "address"), [("GET", "/api/v1/search"), ("PUT", ITEMS), ("DELETE", "/metrics")]
)
def test_a_method_that_does_not_exist_is_405(anonymous: Client, method: str, address: str) -> None:
    response = anonymous.generic(method, address)

    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response["Allow"]


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "",
        "null",
        "[]",
        '"text"',
        "{'a': 1}",
        b"\xff\xfe\x00",
        "[" * 100_000,
        '{"k": ' + "9" * 5000 + "}",
    ],
    ids=["open", "empty", "null", "list", "string", "quotes", "bytes", "deep", "digits"],
)
def test_json_that_is_none_is_400_and_says_so(anonymous: Client, body: Any) -> None:
    response = anonymous.post("/api/v1/search", body, content_type="application/json")

    error = error_of(response, 400)
    assert error["code"] == ("invalid_input" if body == "" else "malformed_body")


def test_a_json_body_over_the_limit_is_413_to_the_byte(anonymous: Client, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    full = '{"k": 0' + " " * 992 + "}"
    assert len(full) == 1000

    at_limit = anonymous.post("/api/v1/search", full, content_type="application/json")
    over = anonymous.post("/api/v1/search", full + " ", content_type="application/json")

    assert at_limit.status_code == 400
    assert error_of(over, 413)["code"] == "too_large"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "application/x-www-form-urlencoded", ""]
)
def test_another_media_type_is_415(anonymous: Client, content_type: str) -> None:
    response = anonymous.generic("POST", "/api/v1/search", "text=apple", content_type)

    assert error_of(response, 415)["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"no boundary at all", "multipart/form-data"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n", "multipart/form-data; boundary="),
        (b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n", "multipart/form-data; boundary=é"),
    ],
)
def test_a_broken_multipart_form_is_400(anonymous: Client, body: bytes, content_type: str) -> None:
    response = anonymous.generic("POST", "/api/v1/search", body, content_type)

    assert error_of(response, 400)["code"] in {"malformed_body", "invalid_input"}


@pytest.mark.parametrize("parts", ["fields", "files"])
def test_ten_thousand_parts_are_400(anonymous: Client, parts: str) -> None:
    name = 'name="a{}"' + ('; filename="f.jpg"' if parts == "files" else "")
    part = "--x\r\nContent-Disposition: form-data; " + name + "\r\n\r\n1\r\n"
    body = "".join(part.format(n) for n in range(10_000)) + "--x--\r\n"

    response = anonymous.generic("POST", "/api/v1/search", body, "multipart/form-data; boundary=x")

    assert error_of(response, 400)["code"] == "malformed_body"


def test_a_body_without_a_length_is_not_read(anonymous: Client) -> None:
    response = anonymous.post(
        "/api/v1/search",
        '{"text": "apple"}',
        content_type="application/json",
        headers={"Transfer-Encoding": "chunked"},
        CONTENT_LENGTH="",
    )

    assert "Content-Length" in error_of(response, 400)["message"]


def test_a_megabyte_of_query_string_is_400_or_ignored(anonymous: Client) -> None:
    response = anonymous.get(f"{ITEMS}?{'&'.join(f'a{n}=1' for n in range(100_000))}")

    assert error_of(response, 400)["code"] == "malformed_body"


@pytest.mark.parametrize("address", [f"{ITEMS}?text=%00", f"{ITEMS}/a%00b", f"{ITEMS}?category=%00"])
def test_text_no_database_can_hold_is_400_before_it_gets_there(anonymous: Client, address: str) -> None:
    assert error_of(anonymous.get(address), 400)["code"] == "invalid_input"


@pytest.mark.parametrize("header", ["Key nonsense", "Key", "Basic c2FtOnNhbQ==", "Bearer x", "Key \x00é"])
def test_a_key_that_is_none_is_401_even_where_no_key_is_needed(anonymous: Client, header: str) -> None:
    response = anonymous.get(ITEMS, headers={"Authorization": header})

    assert error_of(response, 401)["code"] == "not_authenticated"
    assert response["WWW-Authenticate"] == "Key"


def test_a_key_without_the_right_is_403(anonymous: Client) -> None:
    client = key_client(user_make("kim"))

    response = client.post(ITEMS, "{}", content_type="application/json")

    assert error_of(response, 403)["code"] == "not_allowed"
    assert Item.objects.count() == 0


def test_an_unexpected_failure_is_500_in_the_shape_and_tells_nothing(
    anonymous: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("/secret/path and a password")

    monkeypatch.setattr(search, "search_by_text", broken)
    anonymous.raise_request_exception = False

    with caplog.at_level(logging.ERROR):
        response = anonymous.post("/api/v1/search", '{"text": "a"}', content_type="application/json")

    assert error_of(response, 500)["code"] == "internal_error"
    assert b"secret" not in response.content
    assert b"Traceback" not in response.content
    assert "/secret/path" in caplog.text


@pytest.mark.parametrize("address", [f"{ITEMS}/a", "/api/v1/categories"])
def test_a_database_that_is_away_is_503_with_a_time_to_come_back(
    anonymous: Client, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("could not connect to server at 10.0.0.7")

    monkeypatch.setattr(browsing, "item_named", away)
    monkeypatch.setattr(browsing, "categories_listed", away)

    response = anonymous.get(address)

    assert error_of(response, 503)["code"] == "unavailable"
    assert response["Retry-After"] == "2"
    assert b"10.0.0.7" not in response.content


def test_a_host_we_do_not_serve_is_400_in_the_shape(anonymous: Client, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["shop.example"]

    response = anonymous.get(ITEMS, headers={"Host": "evil.example"})

    assert error_of(response, 400)["code"] == "malformed_body"
    assert b"ALLOWED_HOSTS" not in response.content


def test_every_answer_carries_the_security_headers(anonymous: Client) -> None:
    for address in (ITEMS, "/api/v1/nothing", "/healthz/live", "/api/docs/"):
        response = anonymous.get(address)
        assert response["X-Content-Type-Options"] == "nosniff"
        assert response["X-Frame-Options"] == "DENY"
        assert response["Referrer-Policy"] == "same-origin"
        assert "unsafe-inline" not in response["Content-Security-Policy"]
        assert "default-src 'self'" in response["Content-Security-Policy"]
        assert response["X-Request-Id"]
    assert anonymous.get(ITEMS)["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "nonsense"])
def test_the_answer_is_json_whatever_was_asked_for(anonymous: Client, accept: str) -> None:
    response = anonymous.get(ITEMS, headers={"Accept": accept})

    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"


# --- probes


def test_live_asks_nothing_of_the_database(anonymous: Client, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        response = anonymous.get("/healthz/live")

    assert (response.status_code, response.json()) == (200, {"status": "live"})


def test_ready_names_what_is_loaded(anonymous: Client, data_dir: Any) -> None:
    response = anonymous.get("/healthz/ready")

    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "checks": {
            "database": {"ok": True},
            "serving_version": {"ok": True, "version": "1.0"},
            "gallery": {"ok": True, "entries": 0, "sequence": 0},
        },
    }


def test_not_ready_is_503_and_says_which_check_failed(
    anonymous: Client, data_dir: Any, settings: Any
) -> None:
    settings.DEFAULT_BUNDLE = data_dir / "none"

    response = anonymous.get("/healthz/ready")

    assert response.status_code == 503
    assert response["Retry-After"] == "2"
    assert response.json() == {
        "status": "not_ready",
        "checks": {"database": {"ok": True}, "serving_version": {"ok": False}, "gallery": {"ok": False}},
    }


def test_a_database_that_is_away_makes_it_not_ready_but_live(
    anonymous: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr(connection, "cursor", away)

    response = anonymous.get("/healthz/ready")

    assert response.status_code == 503
    assert response.json()["checks"]["database"] == {"ok": False}
    assert anonymous.get("/healthz/live").status_code == 200


def test_metrics_count_searches_queues_and_entries_for_key_holders_only(
    anonymous: Client, data_dir: Any, photos: list[bytes]
) -> None:
    scraper = key_client(user_make("prometheus"))
    Job.objects.create(kind="import_catalogue")

    def value_of(text: str, sample: str) -> float:
        return sum(
            float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(sample + " ")
        )

    answered = 'perennial_searches_total{kind="image",outcome="answered"}'
    refused = 'perennial_searches_total{kind="text",outcome="invalid_input"}'
    before = scraper.get("/metrics").content.decode()
    anonymous.post("/api/v1/search", {"image": photo_file(photos[0])})
    anonymous.post("/api/v1/search", json.dumps({"text": "a", "k": 0}), content_type="application/json")
    after = scraper.get("/metrics").content.decode()

    assert value_of(after, answered) - value_of(before, answered) == 1
    assert value_of(after, refused) - value_of(before, refused) == 1
    stage = 'perennial_search_stage_seconds_count{stage="encode"}'
    assert value_of(after, stage) - value_of(before, stage) == 1
    assert value_of(after, 'perennial_jobs{queue="default",state="queued"}') == 1
    assert 'perennial_gallery_entries{arm="champion",version="1.0"} 0.0' in after
    assert error_of(anonymous.get("/metrics"), 401)["code"] == "not_authenticated"


def test_nothing_is_stored_by_a_refused_write(staff: Client) -> None:
    wrong = [
        {"sku": "a"},
        {"sku": "a", "category": "Fruit", "colour": "red"},
        {"sku": "a", "category": "nowhere"},
        {"sku": "", "category": "Fruit"},
        {"sku": "a" * 121, "category": "Fruit"},
        {"sku": "a", "category": "Fruit", "price": -1},
        {"sku": "a", "category": "Fruit", "price": "NaN"},
        {"sku": "a", "category": "Fruit", "tags": "red"},
        {"sku": "a", "category": "Fruit", "latitude": 100, "longitude": 0},
        {"sku": "a\r\nb", "category": "Fruit"},
        {"sku": "a", "category": "Fruit", "url": "javascript:alert(1)"},
    ]
    Category.objects.create(name="Fruit", slug="fruit", path="Fruit")
    for body in wrong:
        response = staff.post(ITEMS, json.dumps(body), content_type="application/json")
        assert error_of(response, 400)["fields"], body
    assert Item.objects.count() == 0
    assert Job.objects.count() == 0


COUNT_A_SEARCH = """
import django
django.setup()
from searchapp.services import metrics
metrics.search_observe(kind="image", outcome="answered", took_ms={"encode": 2.0})
"""


def test_figures_of_several_processes_are_summed(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for _ in range(2):
        subprocess.run([sys.executable, "-c", COUNT_A_SEARCH], check=True, capture_output=True)

    text = key_client(user_make("prometheus")).get("/metrics").content.decode()

    assert 'perennial_searches_total{kind="image",outcome="answered"} 2.0' in text
    assert 'perennial_search_stage_seconds_count{stage="encode"} 2.0' in text
