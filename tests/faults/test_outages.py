"""F6, F7: the broker or the database goes away under load; every acknowledged write is there afterwards."""

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.photo_folders import photo_folder
from tests.system import System
from tests.system_checks import check_audit, system_in, wait_until_settled

pytestmark = [pytest.mark.fault, pytest.mark.timeout(480)]
MAKE_KEY = """
from django.contrib.auth.models import User
from searchapp.services import api_keys
user = User.objects.create_superuser("root")
print(api_keys.key_create(user=user, name="fault test")[1])
"""


def staff_client(system: System) -> httpx.Client:
    key = system.python(MAKE_KEY).strip()
    return httpx.Client(base_url=system.base_url, headers={"Authorization": f"Key {key}"}, timeout=10)


def add_photo(client: httpx.Client, number: int, photo: Path) -> tuple[int, float]:
    """Make an item and its photo; (status, seconds) of the photo."""
    fields = {"sku": f"item-{number}", "title": f"Item {number}", "category": "Fruit > Apple"}
    made = client.post("/api/v1/items", json=fields)
    assert made.status_code == 201, made.text
    started = time.monotonic()
    answer = client.post(
        f"/api/v1/items/item-{number}/images", files={"image": (photo.name, photo.read_bytes())}
    )
    return answer.status_code, time.monotonic() - started


def test_f6_two_hundred_photos_added_while_redis_is_dead_are_all_searchable_afterwards(
    data_packs: Path, tmp_path: Path
) -> None:
    photos = sorted(photo_folder(data_packs, tmp_path / "photos", first=0, count=200).rglob("*.jpg"))
    with system_in("production") as system, staff_client(system) as client:
        assert client.post("/api/v1/categories", json={"path": "Fruit > Apple"}).status_code == 201
        assert system.redis is not None
        system.redis.kill()
        died = time.monotonic()
        answers = []
        for number, photo in enumerate(photos):
            answers.append(add_photo(client, number, photo))
            time.sleep(max(0.0, died + 0.1 * (number + 1) - time.monotonic()))
        time.sleep(max(0.0, died + 30 - time.monotonic()))
        system.redis.start()

        assert [status for status, _ in answers] == [201] * 200
        slowest = max(seconds for _, seconds in answers)
        assert slowest <= 2.0
        entries = "SELECT count(*), count(DISTINCT image_id) FROM searchapp_galleryentry"
        took = system.wait_until(lambda: system.rows(entries) == [(200, 200)], "200 entries", seconds=60)
        wait_until_settled(system)
        print(f"F6: 200/200 added, slowest {slowest:.2f} s, all searchable {took:.1f} s after Redis was back")
        check_audit(system, entries=200)


def test_f7_five_database_crashes_lose_no_acknowledged_write_and_no_search_ends_in_500(
    data_packs: Path, tmp_path: Path
) -> None:
    photos = sorted(photo_folder(data_packs, tmp_path / "photos", first=0, count=300).rglob("*.jpg"))
    with system_in("production") as system, staff_client(system) as client:
        assert client.post("/api/v1/categories", json={"path": "Fruit > Apple"}).status_code == 201
        assert add_photo(client, 0, photos[0])[0] == 201
        stop = threading.Event()
        searches: list[tuple[int, str]] = []
        ledger: list[str] = []
        statuses: list[int] = []

        def search() -> None:
            with httpx.Client(base_url=system.base_url, timeout=10) as shopper:
                while not stop.wait(0.1):
                    answer = shopper.post("/api/v1/search", files={"image": photos[1].read_bytes()})
                    searches.append((answer.status_code, answer.headers.get("Retry-After", "")))

        def write() -> None:
            number = 1
            while not stop.wait(0.5):
                fields = {"sku": f"item-{number}", "title": "x", "category": "Fruit > Apple"}
                status = client.post("/api/v1/items", json=fields).status_code
                statuses.append(status)
                if status == 201:
                    ledger.append(fields["sku"])
                number += 1

        threads = [threading.Thread(target=search), threading.Thread(target=write)]
        for thread in threads:
            thread.start()
        recoveries = [crash_once(system, ledger) for _ in range(5)]
        stop.set()
        for thread in threads:
            thread.join()

        assert system.postgresql is not None
        known = {sku for (sku,) in system.rows("SELECT sku FROM searchapp_item")}
        assert set(ledger) <= known
        assert {status for status, _ in searches} <= {200, 503}
        assert all(retry for status, retry in searches if status == 503)
        assert set(statuses) <= {201, 503}
        assert max(recoveries) <= 10
        outages = sum(status == 503 for status, _ in searches)
        print(f"F7: {len(searches)} searches, {outages} got 503, {len(ledger)} writes, back in {recoveries}")
        wait_until_settled(system)
        check_audit(system)


def crash_once(system: System, ledger: list[Any]) -> float:
    """Seconds from the database being up again to the first good write."""
    time.sleep(2)
    assert system.postgresql is not None
    system.postgresql.crash()
    time.sleep(5)
    before = len(ledger)
    system.postgresql.start()
    return round(system.wait_until(lambda: len(ledger) > before, "a write after the crash", seconds=20), 1)
