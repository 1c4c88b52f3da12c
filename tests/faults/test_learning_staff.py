"""D6, D7, F6 of learning, and cancels: what people do while a training runs, and while the broker is dead."""

import json
import shutil
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.faults.learnings import (
    EACH,
    STOCK,
    UNSEEN,
    category_sent,
    check_clean,
    check_learned,
    check_unchanged,
    come,
    learning_address,
    learning_part,
    learning_part_kill,
    learnings,
    looked,
    photo_of,
    shop,
    staff,
    verdict,
    wait_for_stage,
    wait_until_ended,
)
from tests.system import Mode
from tests.system_checks import MODES, wait_until_settled

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]
PHOTOS = 8  # of a category that comes through a form
OVERLAPPING = """
SELECT count(*) FROM searchapp_job AS a JOIN searchapp_job AS b ON a.id < b.id AND a.queue = b.queue
WHERE a.queue = 'training' AND a.started_at < b.finished_at AND b.started_at < a.finished_at
"""


@pytest.mark.parametrize("mode", MODES)
def test_d6_ten_categories_added_at_once_while_a_training_runs_are_learned_by_the_next(
    mode: Mode, data_packs: Path
) -> None:
    with closing(shop(mode, data_packs)) as system:
        system.start()
        people = staff(system, 10)
        first = come(system, data_packs, range(STOCK, STOCK + 6))
        wait_for_stage(system, "reading", "training")
        sent: dict[int, str] = {}
        errors: list[Exception] = []

        def add(number: int) -> None:
            try:
                client = people[number]
                sent[number] = category_sent(client, data_packs, UNSEEN + number, photos=PHOTOS)[0]
            except Exception as error:  # noqa: BLE001  raised below
                errors.append(error)

        began = time.monotonic()
        threads = [threading.Thread(target=add, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - began
        assert errors == []
        wait_until_settled(system, seconds=300)

        assert {row[:2] for row in learnings(system)} == {("done", "")}
        now = looked(system)
        assert set(first) | set(sent.values()) <= set(now.registries[now.in_use])
        assert list(now.registries) == ["1.0", "1.1", "1.2"]
        assert now.registries["1.2"][: len(now.registries["1.1"])] == now.registries["1.1"]
        assert system.value(OVERLAPPING) == 0
        assert len(now.entries) == EACH * (STOCK + 2 * len(first)) + 2 * 10 * PHOTOS
        check_clean(system, now)
        print(verdict({"row": "D6", "mode": mode, "added_s": round(took, 1), "jobs": len(learnings(system)),
                       "trainings": 2, "at_once": 1, "learned": len(first) + 10, "clean": True}))  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_d7_a_deleted_item_of_a_learned_category_never_returns(
    mode: Mode, data_packs: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(photo_of(data_packs, STOCK))
    with closing(shop(mode, data_packs)) as system:
        system.start()
        come(system, data_packs, [STOCK])
        wait_until_ended(system)
        (client,) = staff(system)
        system.wait_until(lambda: found(client, photo)[0] == "1.1", "the new version", seconds=30)
        gone = found(client, photo)[1][0]
        assert client.delete(f"/api/v1/items/{gone}").status_code == 204
        seconds = system.wait_until(lambda: gone not in found(client, photo)[1], "it to be gone")
        assert seconds <= 2.0
        assert all(gone not in found(client, photo)[1] for _ in range(10))

        system.run("rollback")
        system.wait_until(lambda: found(client, photo)[0] == "1.0", "the version before", seconds=60)
        assert gone not in found(client, photo)[1]
        rolled_back = looked(system)
        shutil.rmtree(system.data / "snapshots", ignore_errors=True)  # so that every process builds anew
        learning_part_kill(system)
        system.start_part(learning_part(system))
        system.run("learn_categories")
        wait_until_ended(system, jobs=2)
        system.wait_until(lambda: found(client, photo)[0] == "1.2", "it to be learned again", seconds=60)
        assert gone not in found(client, photo)[1]
        alone = json.loads(system.run("search", str(photo), "-k", "50", "--json").stdout)
        assert (alone["model_version"], gone in [row["sku"] for row in alone["results"]]) == ("1.2", False)
        learned_again = looked(system)
        for look in (rolled_back, learned_again):
            assert [line for line in look.entries if line.split()[1] == gone] == []
            check_clean(system, look)
        print(verdict({"row": "D7", "mode": mode, "gone_s": round(seconds, 2), "returned": 0, "clean": True}))


def found(client: httpx.Client, photo: Path) -> tuple[str, list[str]]:
    """The version that answers, and the SKUs it finds."""
    answer = client.post("/api/v1/search", files={"image": photo.read_bytes()}, data={"k": "50"})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    return said["model_version"], [result["sku"] for result in said["results"]]


@pytest.mark.parametrize("mode", MODES)
def test_a_learning_cancelled_in_training_leaves_all_as_it_was_and_can_be_retried(
    mode: Mode, data_packs: Path
) -> None:
    with closing(shop(mode, data_packs)) as system:
        system.start()
        (client,) = staff(system)
        slugs = come(system, data_packs, range(STOCK, STOCK + 6), is_asked=False)
        before = looked(system)
        system.run("learn_categories", *(word for slug in slugs for word in ("--category", slug)))
        wait_for_stage(system, "training")
        address = learning_address(system)
        assert client.post(f"{address}/cancel").status_code == 200
        wait_until_ended(system)
        assert learnings(system) == [("cancelled", "", 1)]
        system.run("sweep", "--once")
        check_unchanged(system, before)

        assert client.post(f"{address}/retry").status_code == 202
        wait_until_ended(system, jobs=2)
        assert learnings(system)[1][:2] == ("done", "")
        check_learned(system, before, slugs)
        print(verdict({"row": "cancel", "mode": mode, "clean": True}))


def test_f6_categories_added_while_redis_is_dead_are_learned_afterwards(data_packs: Path) -> None:
    """Every other one gets another photo in a second step."""
    with closing(shop("production", data_packs)) as system:
        system.start()
        (client,) = staff(system)
        before = looked(system)
        assert system.redis is not None
        system.redis.kill()
        died = time.monotonic()
        slugs, slowest, photos = [], 0.0, 0
        for number in range(STOCK, STOCK + 8):
            began = time.monotonic()
            slug, page = category_sent(client, data_packs, number, photos=PHOTOS)
            slugs.append(slug)
            photos += PHOTOS
            if number % 2:
                more = {"photos": ("more.jpg", photo_of(data_packs, number, EACH - 1), "image/jpeg")}
                address = page.replace("progress", "photos")
                assert client.post(address, files=more, data={"products": "each"}).status_code == 302
                photos += 1
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(max(0.0, died + 3.5 * len(slugs) - time.monotonic()))
        time.sleep(max(0.0, died + 30 - time.monotonic()))
        assert system.value("SELECT count(*) FROM searchapp_galleryentry") == len(before.entries)
        system.redis.start()

        took = wait_until_settled(system, seconds=60)
        states = set(system.rows("SELECT kind, state FROM searchapp_job"))
        assert {state for _, state in states} == {"done"}
        now = looked(system)
        assert set(slugs) <= set(now.registries[now.in_use])
        of_first = [line for line in now.entries - before.entries if line.split()[2] == "1.0"]
        assert (
            len(of_first) <= photos
        )  # learned before it was encoded, a photo needs no entry of the version before
        newest = {line.split()[0] for line in now.entries - before.entries}
        assert len(newest) == photos
        assert system.rows(
            "SELECT count(*), count(DISTINCT image_id) FROM searchapp_galleryentry AS e "
            "JOIN searchapp_modelversion AS v ON v.id = e.producer_id WHERE v.minor > 0"
        ) == [(photos, photos)]
        check_clean(system, now)
        print(verdict({"row": "F6", "added": f"{len(slugs)}/8", "photos": photos, "slowest_s": round(slowest, 2),
                       "learned_s": round(took, 1), "trainings": len(now.registries) - 1, "lost": 0, "double": 0,
                       "clean": True}))  # fmt: skip
