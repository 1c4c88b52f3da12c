"""A running shop with versions to put in use, its operators, and questions whose answers are known for each version."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.faults.learnings import photos_by_class, shop
from tests.system import Mode, System

REASON = "a fault test"  # the held-out photos of so small a shop are too few to tell
CANDIDATE = """
from searchapp.services import versions
from tests.searchapp.turned import turned_version
print(turned_version(versions.champion().version, degrees={degrees}, seed={seed}).name)
"""
LIVE = """
SELECT v.major, v.minor, d.arm FROM searchapp_deployment AS d
JOIN searchapp_modelversion AS v ON v.id = d.version_id WHERE d.ended_at IS NULL ORDER BY d.arm DESC
"""
PROMOTIONS = "FROM searchapp_job WHERE kind = 'promote'"
Answer = tuple[str, str]  # version, and all that was found, as text


@contextmanager
def upgrade_shop(mode: Mode, packs: Path, *, candidates: int = 1) -> Iterator[System]:
    """A running shop that is stocked, with versions 2.0, 3.0, … of the lineage in use beside it."""
    with ExitStack() as stack:
        system = shop(mode, packs)
        stack.push(system)  # shows the log when something goes wrong, and ends it all
        for number in range(candidates):
            name = system.python(CANDIDATE.format(degrees=15 * (number + 1), seed=number)).strip()
            assert name == f"{number + 2}.0"
        system.start()
        yield system


def killed_at(system: System, part: str, point: str) -> None:
    """`part` starts anew, to die at `point` once; in the embedded mode that is one process of the whole server."""
    part = "serve" if system.mode == "embedded" else part
    system.processes[part].terminate()
    system.processes.pop(part).wait(timeout=60)
    system.marker.unlink(missing_ok=True)
    system.failing_parts, system.failpoint = {part}, point
    system.start_part(part)
    system.wait_until(system.is_ready, "the web process to be ready", seconds=60)


def promote(client: httpx.Client, version: str, **fields: Any) -> httpx.Response:
    return client.post(f"/api/v1/model-versions/{version}/promote", json={"override": REASON, **fields})


def rollback(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/api/v1/rollback", json=fields)


def job_ended(
    system: System, client: httpx.Client, accepted: httpx.Response, *, seconds: float = 60
) -> dict[str, Any]:
    """The job of a 202, at its end."""
    assert accepted.status_code == 202, accepted.text
    address = f"/api/v1/jobs/{accepted.json()['id']}"
    found: dict[str, Any] = {}

    def is_over() -> bool:
        found.update(client.get(address).json())
        return found["state"] in {"done", "failed", "cancelled"}

    system.wait_until(is_over, f"{address} to end", seconds=seconds)
    return found


def live(system: System) -> list[str]:
    """Name of the version in use, then that of a candidate beside it."""
    return [f"{major}.{minor}" for major, minor, _ in system.rows(LIVE)]


def questions(packs: Path, classes: Sequence[int], each: int) -> list[bytes]:
    photos = list(photos_by_class(packs).values())
    return [photo for number in classes for photo in photos[number][:each]]


def asked(client: httpx.Client, photo: bytes, **fields: str) -> httpx.Response:
    return client.post("/api/v1/search", files={"image": ("q.jpg", photo, "image/jpeg")}, data=fields)


def answer_of(response: httpx.Response) -> Answer:
    found = response.json()
    return found["model_version"], json.dumps([found["gallery"], found["results"]], sort_keys=True)


def answers_recorded(client: httpx.Client, photos: Sequence[bytes], version: str, **fields: str) -> list[str]:
    """What `version`, which is in use, finds for each photo."""
    recorded = []
    for photo in photos:
        name, found = answer_of(asked(client, photo, **fields))
        assert name == version
        recorded.append(found)
    return recorded


def shopper(system: System) -> httpx.Client:
    return httpx.Client(base_url=system.base_url, timeout=60)


def wait_until_answering(system: System, photo: bytes, version: str) -> float:
    """Until the answers over so many new connections that every process is among them are this version's."""

    def is_there() -> bool:
        for _ in range(12):
            with shopper(system) as client:
                if asked(client, photo).json().get("model_version") != version:
                    return False
        return True

    return system.wait_until(is_there, f"{version} to answer", seconds=30)


@dataclass(frozen=True, slots=True)
class Asked:
    """One query of the load: over which connection, which question, when, and what came back."""

    connection: int
    question: int
    began: float
    ended: float
    status: int
    version: str
    found: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(slots=True)
class Load:
    asked: list[Asked] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def between(self, began: float, ended: float) -> list[Asked]:
        return [one for one in self.asked if began <= one.began < ended]

    def p99_ms(self, began: float, ended: float) -> float:
        seconds = sorted(one.seconds for one in self.between(began, ended))
        return 1000 * seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))]


@contextmanager
def load(clients: Sequence[httpx.Client], photos: Sequence[bytes], *, per_second: float) -> Iterator[Load]:
    """Questions at an even pace over connections that stay open: one process answers over each as long as it lives."""
    found, stop = Load(), threading.Event()

    def ask(number: int, client: httpx.Client) -> None:
        pause, due = len(clients) / per_second, time.time() + number / per_second
        at = number
        while not stop.wait(max(0.0, due - time.time())):
            due = max(due + pause, time.time())
            question = at % len(photos)
            at += len(clients) + 1
            began = time.time()
            try:
                response = asked(client, photos[question])
            except httpx.HTTPError as error:
                found.errors.append(f"{type(error).__name__}: {error}")
                continue
            version, text = answer_of(response) if response.status_code == 200 else ("", response.text)
            found.asked.append(
                Asked(number, question, began, time.time(), response.status_code, version, text)
            )

    threads = [threading.Thread(target=ask, args=pair, daemon=True) for pair in enumerate(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=60)


def shoppers(system: System, count: int) -> list[httpx.Client]:
    """So many who are not signed in, each with a connection that stays open."""
    return [shopper(system) for _ in range(count)]


def champions(system: System) -> list[tuple[str, float, float]]:
    """(version, from, until) of every deployment as champion, in their order, in seconds since the epoch."""
    is_sqlite = system.mode == "embedded"
    moment = "(julianday({}) - 2440587.5) * 86400.0" if is_sqlite else "EXTRACT(EPOCH FROM {})"
    began, ended = moment.format("d.created_at"), moment.format("d.ended_at")
    rows = system.rows(
        f"SELECT v.major, v.minor, {began}, {ended} FROM searchapp_deployment AS d JOIN searchapp_modelversion AS v "
        "ON v.id = d.version_id WHERE d.arm = 'champion' ORDER BY d.id"
    )
    return [
        (f"{major}.{minor}", float(since), float("inf") if until is None else float(until))
        for major, minor, since, until in rows
    ]


def lateness(one: Asked, history: Sequence[tuple[str, float, float]]) -> float:
    """Seconds by which an answer was another version's than the one in use when it was asked; 0 when it was its own."""
    fit = [
        max(0.0, one.began - until)
        for version, since, until in history
        if version == one.version and since <= one.ended
    ]
    assert fit, f"{one.version} answered before it was ever in use"
    return min(fit)


def order_of(connection: Sequence[Asked]) -> list[str]:
    """The versions that answered over one connection, each once in a row."""
    found: list[str] = []
    for one in sorted(connection, key=lambda one: one.began):
        if not found or found[-1] != one.version:
            found.append(one.version)
    return found


def check_answers(seen: Sequence[Asked], recorded: Mapping[str, Sequence[str]]) -> None:
    """Every answer is a good one and is, to the digit, what the version it names found before."""
    assert {one.status for one in seen} == {200}, next(one for one in seen if one.status != 200)
    mixed = [one for one in seen if one.found != recorded[one.version][one.question]]
    assert not mixed, (
        f"{len(mixed)} of {len(seen)} answers differ from those recorded, the first is {mixed[0]}"
    )
