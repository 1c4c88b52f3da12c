"""What one process writes, another answers by: a real second process over the same database."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from searchapp.models import Deployment, Item
from searchapp.services import catalogue, snapshots, versions
from tests.searchapp.galleries import encode_missing, item_with_photos, shop

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]
ROOT = Path(__file__).resolve().parent.parent.parent
# Answers each line on its input (a picture's path) with its deployment and the SKUs it finds; its own thread follows.
SEARCHER = """
import sys, time
import ml.threads
import django
django.setup()
from pathlib import Path
from searchapp.exceptions import Unavailable
from searchapp.services import search, serving
serving.start_follower()
while True:
    try:
        serving.current()
        break
    except Unavailable:
        time.sleep(0.02)
print("ready", flush=True)
for line in sys.stdin:
    answer = search.search_by_image(data=Path(line.strip()).read_bytes())
    print(serving.current().champion.deployment_id, *[result.sku for result in answer.results], flush=True)
"""


class OtherProcess:
    def __init__(self, data_dir: Path, photo: Path) -> None:
        self.photo = photo
        self.process = subprocess.Popen(
            [sys.executable, "-c", SEARCHER],
            cwd=ROOT,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "searchapp.settings.dev", "DATA_DIR": str(data_dir),
                 "DATABASE_URL": database_url(), "LOG_LEVEL": "ERROR"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def answer(self) -> tuple[int, set[str]]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.photo}\n")
        self.process.stdin.flush()
        deployment, *skus = self.line().split()
        return int(deployment), set(skus)

    def found(self) -> set[str]:
        return self.answer()[1]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=20)


def database_url() -> str:
    settings = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{settings['NAME']}"
    return f"postgres://{settings['USER']}@{settings['HOST']}:{settings['PORT']}/{settings['NAME']}"


@pytest.fixture
def other(data_dir: Path, photos: list[bytes]) -> Iterator[OtherProcess]:
    shop(photos)
    photo = data_dir / "photo.jpg"
    photo.write_bytes(photos[0])
    process = OtherProcess(data_dir, photo)
    yield process
    process.close()


def seconds_until(happened: Any) -> float:
    started = time.monotonic()
    while not happened():
        assert time.monotonic() - started < 10, "not within 10 s"
        time.sleep(0.02)
    return time.monotonic() - started


def test_a_deleted_item_is_gone_from_another_process_within_two_seconds_and_never_returns(
    other: OtherProcess, photos: list[bytes]
) -> None:
    before = other.found()
    assert before == {"apple-0", "apple-1", "apple-2", "juice-0", "juice-1", "juice-2"}

    catalogue.item_delete(item=Item.objects.get(sku="apple-0"))

    assert seconds_until(lambda: "apple-0" not in other.found()) <= 2.0
    snapshots.snapshot_write(versions.champion().version)
    item_with_photos("later", photos[7:8])
    encode_missing()
    seconds_until(lambda: "later" in other.found())
    assert other.found() == before - {"apple-0"} | {"later"}


def test_a_new_photo_is_found_by_another_process_within_two_seconds_of_its_entry(
    other: OtherProcess, photos: list[bytes]
) -> None:
    item_with_photos("late", photos[6:7])
    assert "late" not in other.found()

    encode_missing()

    assert seconds_until(lambda: "late" in other.found()) <= 2.0


def test_a_moved_pointer_is_followed_by_another_process_within_two_seconds(other: OtherProcess) -> None:
    live = versions.champion()
    before = other.answer()
    assert before[0] == live.pk
    with transaction.atomic():
        Deployment.objects.filter(pk=live.pk).update(ended_at=live.created_at)
        moved = Deployment.objects.create(version=live.version, view=live.view, previous=live)

    assert seconds_until(lambda: other.answer()[0] == moved.pk) <= 2.0
    assert other.answer() == (moved.pk, before[1])
