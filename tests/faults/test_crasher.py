"""F13, the crasher: a writer and a searcher at work while any process is killed at any time.

The swapper joins when there are versions to swap.
"""

import contextlib
import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.faults.test_outages import MAKE_KEY
from tests.photo_folders import photo_folder
from tests.system import Mode, System
from tests.system_checks import MODES, check_audit, system_in, wait_until_settled

pytestmark = [pytest.mark.fault, pytest.mark.timeout(480)]
SEED = 13
SECONDS = 150.0
EVERY_SECONDS = 5.0
KILL_CHANCE = 0.3
# A server that was killed just now answers nothing, or that it is not ready; never 500, never a wrong result.
ALLOWED = {200, 201, 204, 503}


@dataclass
class Ledger:
    """What was acknowledged, and what the searches said meanwhile."""

    added: set[str] = field(default_factory=set)
    deleted: dict[str, float] = field(default_factory=dict)
    statuses: set[int] = field(default_factory=set)
    returned_late: list[str] = field(default_factory=list)
    searches: int = 0


def write(system: System, key: str, photos: list[Path], ledger: Ledger, stop: threading.Event) -> None:
    """Add items with photos; delete every fifth again. Only what was acknowledged goes into the ledger."""
    with httpx.Client(base_url=system.base_url, headers={"Authorization": f"Key {key}"}, timeout=10) as staff:
        for number, photo in enumerate(photos):
            if stop.wait(0.3):
                return
            sku = f"item-{number}"
            with contextlib.suppress(httpx.TransportError):
                fields = {"sku": sku, "title": sku, "category": "Fruit > Apple"}
                made = staff.post("/api/v1/items", json=fields).status_code
                ledger.statuses.add(made)
                if made != 201:
                    continue
                ledger.added.add(sku)
                image = {"image": (photo.name, photo.read_bytes())}
                ledger.statuses.add(staff.post(f"/api/v1/items/{sku}/images", files=image).status_code)
                if number % 5 == 4:
                    gone = staff.delete(f"/api/v1/items/{sku}").status_code
                    ledger.statuses.add(gone)
                    if gone == 204:
                        ledger.deleted[sku] = time.monotonic()


def search(system: System, photos: list[Path], ledger: Ledger, stop: threading.Event) -> None:
    """Ask for photos again and again; an item whose deletion was acknowledged 2 s ago must not come back."""
    chance = random.Random(SEED)
    while not stop.wait(0.1):
        asked = time.monotonic()
        gone = {sku for sku, at in list(ledger.deleted.items()) if asked - at > 2}
        with contextlib.suppress(httpx.TransportError):
            image = {"image": chance.choice(photos).read_bytes()}
            answer = httpx.post(f"{system.base_url}/api/v1/search", files=image, data={"k": "50"}, timeout=10)
            ledger.statuses.add(answer.status_code)
            if answer.status_code == 200:
                ledger.searches += 1
                ledger.returned_late += [row["sku"] for row in answer.json()["results"] if row["sku"] in gone]


def kill_something(system: System, mode: Mode, chance: random.Random) -> float:
    """Kill one process of ours, start again what nobody else does; seconds until the web process answers."""
    own = {process.pid: name for name, process in system.processes.items()}
    victim = chance.choice(sorted(system.pids()))
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    if victim in own:
        name = own[victim]
        system.processes.pop(name).wait()
        if mode == "embedded":
            system.wait_until(lambda: not system.pids(), "the parts to follow the supervisor", seconds=10)
        else:
            for pid in system.pids("granian") if name == "web" else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        system.start_part(name)
    return system.wait_until(system.is_ready, "the first answer after a kill", seconds=60)


@pytest.mark.parametrize("mode", MODES)
def test_f13_nothing_acknowledged_is_lost_and_nothing_deleted_returns_under_random_kills(
    mode: Mode, data_packs: Path, tmp_path: Path
) -> None:
    photos = sorted(photo_folder(data_packs, tmp_path / "photos", first=0, count=600).rglob("*.jpg"))
    chance, ledger, stop = random.Random(SEED), Ledger(), threading.Event()
    with system_in(mode, JOB_MAX_ATTEMPTS="25") as system:
        key = system.python(MAKE_KEY).strip()
        headers = {"Authorization": f"Key {key}"}
        path = {"path": "Fruit > Apple"}
        made = httpx.post(f"{system.base_url}/api/v1/categories", json=path, headers=headers)
        assert made.status_code == 201
        threads = [
            threading.Thread(target=write, args=(system, key, photos, ledger, stop)),
            threading.Thread(target=search, args=(system, photos, ledger, stop)),
        ]
        for thread in threads:
            thread.start()
        recoveries, ends = [], time.monotonic() + SECONDS
        while time.monotonic() < ends:
            time.sleep(EVERY_SECONDS)
            if chance.random() < KILL_CHANCE:
                recoveries.append(kill_something(system, mode, chance))
        stop.set()
        for thread in threads:
            thread.join()

        wait_until_settled(system, seconds=120)
        present = {sku for (sku,) in system.rows("SELECT sku FROM searchapp_item")}
        kept, gone = ledger.added - set(ledger.deleted), set(ledger.deleted)
        print(
            f"F13 {mode}: seed {SEED}, {len(recoveries)} kills, slowest recovery {max(recoveries):.1f} s, "
            f"{ledger.searches} searches, {len(kept)} kept, {len(gone)} deleted"
        )
        assert len(recoveries) >= 5
        assert ledger.statuses <= ALLOWED
        assert ledger.returned_late == []
        assert kept <= present
        assert not gone & present
        assert max(recoveries) <= 20
        check_audit(system)
