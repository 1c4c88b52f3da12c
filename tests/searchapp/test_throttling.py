"""Anonymous addresses get their share and no more; forged headers buy nothing; keys are not counted."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from redis.exceptions import ConnectionError as RedisConnectionError

from searchapp.exceptions import TooManyRequests
from searchapp.file_cache import SharedFileCache
from searchapp.models import Feedback
from searchapp.services import throttling
from searchapp.visitor import client_address
from tests.searchapp.api_cast import error_of, key_client, photo_file, user_make
from tests.searchapp.galleries import shop

SEARCH = "/api/v1/search"
NOON = 1_800_000_000.0 - 1_800_000_000.0 % 86400 + 43200  # the start of a minute, an hour, not of a day


@pytest.fixture
def limits(settings: Any, tmp_path: Path) -> Any:
    """Throttles are off in tests unless asked for; the cache is a file cache of the test's own."""
    location = str(tmp_path / "cache")
    settings.CACHES = {
        "default": {
            "BACKEND": "searchapp.file_cache.SharedFileCache",
            "LOCATION": location,
            "TIMEOUT": 86400,
            "OPTIONS": {"MAX_ENTRIES": 50_000},
        }
    }
    return settings


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    class Clock:
        now = NOON

        def time(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(throttling, "time", clock)
    return clock


def admitted(count: int, client: str = "1.2.3.4") -> int:
    passed = 0
    for _ in range(count):
        try:
            throttling.search_spend(client=client)
        except TooManyRequests:
            continue
        passed += 1
    return passed


def test_exactly_the_rate_is_admitted_and_each_address_has_its_own(limits: Any, clock: Any) -> None:
    limits.ANON_SEARCH_RATE = "60/min"

    assert admitted(100) == 60
    assert admitted(100, "5.6.7.8") == 60


def test_a_minute_s_boundary_gives_no_second_helping(limits: Any, clock: Any) -> None:
    limits.ANON_SEARCH_RATE = "60/min"
    clock.now = NOON + 59
    assert admitted(60) == 60

    clock.now = NOON + 61

    assert admitted(60) <= 2
    clock.now = NOON + 180
    assert admitted(60) == 60


@pytest.mark.parametrize("second", [0, 5, 30, 59])
def test_who_waits_as_told_is_admitted(limits: Any, clock: Any, second: int) -> None:
    limits.ANON_SEARCH_RATE = "10/min"
    clock.now = NOON + second
    admitted(10)
    with pytest.raises(TooManyRequests) as refused:
        throttling.search_spend(client="1.2.3.4")

    clock.now += refused.value.retry_after_seconds

    throttling.search_spend(client="1.2.3.4")


def test_no_rate_means_no_limit_and_no_counting(limits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limits.ANON_SEARCH_RATE, limits.ANON_ITEM_BUDGET = None, 0
    monkeypatch.setattr(throttling, "cache", None)  # any use of it would fail

    assert admitted(200) == 200
    throttling.items_spend(client="1.2.3.4", skus=["a"])


def test_two_hundred_at_once_from_threads_admit_no_more_than_the_rate(limits: Any, clock: Any) -> None:
    limits.ANON_SEARCH_RATE = "60/min"

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda _: admitted(1), range(200))) == 60


COUNT_UP = """
import django, sys
from django.conf import settings
settings.configure()
from searchapp.file_cache import SharedFileCache
shared = SharedFileCache(sys.argv[1], {"TIMEOUT": 3600})
won = sum(shared.add(f"only-once-{n}", 1) for n in range(150))
for _ in range(150):
    shared.incr("counter")
print(won)
"""


def test_processes_counting_in_the_embedded_cache_lose_nothing_and_win_each_key_once(tmp_path: Path) -> None:
    folder = str(tmp_path / "cache")
    SharedFileCache(folder, {"TIMEOUT": 3600}).add("counter", 0)

    command = [sys.executable, "-c", COUNT_UP, folder]
    counting = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    won = [int(process.communicate(timeout=60)[0]) for process in counting]

    assert SharedFileCache(folder, {}).get("counter") == 300
    assert sum(won) == 150


def test_distinct_items_are_counted_once_a_day(limits: Any, clock: Any) -> None:
    limits.ANON_ITEM_BUDGET = 5
    throttling.items_spend(client="1.2.3.4", skus=["a", "b", "c"])
    throttling.items_spend(client="1.2.3.4", skus=["c", "b", "a"])

    with pytest.raises(TooManyRequests) as refused:
        throttling.items_spend(client="1.2.3.4", skus=["c", "d", "e", "f"])

    assert refused.value.retry_after_seconds == 43200  # until the day ends
    throttling.items_spend(client="1.2.3.4", skus=["d", "e"])  # the refused ones were not counted
    throttling.items_spend(client="5.6.7.8", skus=["f"])
    clock.now = NOON + 43200
    throttling.items_spend(client="1.2.3.4", skus=["f", "g"])


def test_a_cache_that_is_away_refuses_nobody(limits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limits.ANON_SEARCH_RATE, limits.ANON_ITEM_BUDGET = "1/min", 1

    class Away:
        def __getattr__(self, name: str) -> Any:
            raise RedisConnectionError("gone")

    monkeypatch.setattr(throttling, "cache", Away())

    assert admitted(5) == 5
    throttling.items_spend(client="1.2.3.4", skus=["a", "b"])


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "expected"),
    [
        (0, "9.9.9.9", "1.1.1.1", "9.9.9.9"),
        (1, "10.0.0.1", "1.1.1.1", "1.1.1.1"),
        (1, "10.0.0.1", "6.6.6.6, 1.1.1.1", "1.1.1.1"),
        (2, "10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
        (2, "10.0.0.1", "1.1.1.1", "10.0.0.1"),
        (1, "10.0.0.1", "", "10.0.0.1"),
        (1, "10.0.0.1", "<script>", "10.0.0.1"),
        (0, "2001:db8:1:2:aaaa::1", "", "2001:db8:1:2::/64"),
        (0, "2001:db8:1:2:bbbb::9", "", "2001:db8:1:2::/64"),
        (0, "::ffff:9.9.9.9", "", "9.9.9.9"),
        (0, "", "1.1.1.1", "unknown"),
    ],
)
def test_the_client_s_address_is_the_one_a_trusted_proxy_saw(
    settings: Any, proxies: int, peer: str, forwarded: str, expected: str
) -> None:
    settings.TRUSTED_PROXIES = proxies

    assert client_address({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}) == expected


# --- through the API


def ask(client: Client, body: Any, **headers: str) -> Any:
    return client.post(SEARCH, json.dumps(body), content_type="application/json", headers=headers)


@pytest.mark.django_db
def test_a_search_too_many_is_429_whatever_address_it_claims(
    limits: Any, data_dir: Path, photos: list[bytes], anonymous: Client
) -> None:
    limits.ANON_SEARCH_RATE = "3/hour"
    shop(photos)
    for attempt in range(3):
        assert ask(anonymous, {"text": "apple"}, **{"X-Forwarded-For": f"1.1.1.{attempt}"}).status_code == 200

    response = ask(anonymous, {"text": "apple"}, **{"X-Forwarded-For": "1.1.1.9"})

    assert error_of(response, 429)["code"] == "too_many_requests"
    assert 0 < int(response["Retry-After"]) <= 3600 + 1200
    assert ask(key_client(user_make("kim")), {"text": "apple"}).status_code == 200


@pytest.mark.django_db
def test_a_scraper_sees_no_more_items_than_its_budget_by_any_road(
    limits: Any, data_dir: Path, photos: list[bytes], anonymous: Client
) -> None:
    limits.ANON_ITEM_BUDGET = 4
    items = shop(photos)
    seen: set[str] = set()
    for _ in range(3):
        for photo in photos[:6]:
            for k in (1, 2, 3, 50):
                response = anonymous.post(SEARCH, {"image": photo_file(photo), "k": k})
                assert response.status_code in {200, 429}
                seen |= {result["sku"] for result in response.json().get("results", [])}
        for item in items:
            response = anonymous.get(f"/api/v1/items/{item.sku}")
            seen |= {item.sku} if response.status_code == 200 else set()
        response = anonymous.get("/api/v1/items")
        assert error_of(response, 429)["code"] == "too_many_requests"

    assert len(seen) <= 4
    assert len(key_client(user_make("kim")).get("/api/v1/items").json()["results"]) == 6


@pytest.mark.django_db
def test_feedback_has_a_limit_of_its_own(
    limits: Any, data_dir: Path, photos: list[bytes], anonymous: Client
) -> None:
    limits.ANON_SEARCH_RATE = "2/hour"
    shop(photos)
    answers = [
        anonymous.post(
            f"/api/v1/queries/0d2a7a2e-9f0f-4b62-8a3b-5f8a8f3f7b1{n}/feedback",
            json.dumps({"sku": "apple-0", "verdict": "right"}),
            content_type="application/json",
        ).status_code
        for n in range(4)
    ]

    assert answers == [204, 204, 429, 429]
    assert Feedback.objects.count() == 2
    assert ask(anonymous, {"text": "apple"}).status_code == 200


@pytest.mark.django_db
def test_the_pages_count_what_they_show_and_what_they_look_for_as_the_api_does(
    limits: Any, data_dir: Path, photos: list[bytes], anonymous: Client
) -> None:
    shop(photos)
    limits.ANON_ITEM_BUDGET = 5
    assert anonymous.get("/browse").status_code == 429  # six items
    assert int(anonymous.get("/browse")["Retry-After"]) > 0
    limits.ANON_ITEM_BUDGET, limits.ANON_SEARCH_RATE = 0, "2/hour"

    words = [anonymous.get(path).status_code for path in ("/browse?q=apple", "/api/v1/items?text=apple") * 2]
    said = [
        anonymous.post("/feedback", {"query_id": str(uuid4()), "sku": "apple-0", "verdict": "right"})
        for _ in range(3)
    ]

    assert words == [200, 200, 429, 429]
    assert anonymous.get("/browse").status_code == 200
    assert [answer.status_code for answer in said] == [200, 200, 429]
    assert Feedback.objects.count() == 2
