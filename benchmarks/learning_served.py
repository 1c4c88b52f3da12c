"""From save to searchable while shoppers search, seen from outside a running shop.

Run by `benchmarks.learning_speed` in the shop's surroundings, with the port and the supervisor's process id; prints one
JSON object of rows.
"""

import ml.threads  # noqa: F401  isort: skip

import argparse
import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, pairwise
from typing import Any, NamedTuple

import django

django.setup()

import numpy as np  # noqa: E402

from benchmarks.learning_shop import DATA, megabytes_of_parts  # noqa: E402
from ml.data.packs import open_pack  # noqa: E402
from ml.data.reserved import load_reserved  # noqa: E402
from searchapp.models import Job  # noqa: E402
from searchapp.services.category_adding import NamedPhoto, PhotoBatch, category_add  # noqa: E402
from searchapp.services.learning import KIND  # noqa: E402

PHOTOS = 30
ALONE = 3  # categories added while nobody else searches
USERS = 2
IDLE_SECONDS, TRAINING_SECONDS = 60.0, 60.0
IN_A_ROW = 6  # answers by the new version until both web processes are taken to follow
LONGEST_SECONDS = 300.0
POLL_SECONDS = 0.1
BARRED = {"training", "learning, all of it"}


class NewClass(NamedTuple):
    """A reserved class and the photos it is added with."""

    name: str
    photos: tuple[bytes, ...]


def new_classes() -> Iterator[NewClass]:
    """The reserved classes with enough photos, clothing's first, which have the most."""
    reserved = load_reserved()
    for name in ("clothing", "grocery"):
        pack = open_pack(DATA / name)
        records = list(pack.records("train", "val", "test"))
        for label in sorted(reserved.reserved[name]):
            own = [record for record in records if record.label == label][:PHOTOS]
            if len(own) == PHOTOS:
                yield NewClass(label.replace("-", " "), tuple(pack.read(record) for record in own))


class Shopper:
    """One keep-alive connection to the shop's API."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def search(self, photo: bytes) -> dict[str, Any]:
        edge = "----perennial-benchmark"
        head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
        body = b"".join(
            [head.encode(), b"Content-Type: image/jpeg\r\n\r\n", photo, f"\r\n--{edge}--\r\n".encode()]
        )
        kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
        self.connection.request("POST", "/api/v1/search", body, kind)
        response = self.connection.getresponse()
        content = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"a search was answered {response.status}: {content[:300]!r}")
        answer: dict[str, Any] = json.loads(content)
        return answer


class Saved(NamedTuple):
    """Seconds after the save began."""

    returned: float
    found: float
    learned: float


def saved(new: NewClass, port: int) -> Saved:
    """Add the category as its admin page does, then ask for one of its photos until the new version answers."""
    before = Shopper(port).search(new.photos[0])["model_version"]
    began = time.monotonic()
    batch = PhotoBatch(photos=[NamedPhoto(f"{n}.jpg", photo) for n, photo in enumerate(new.photos)])
    category = category_add(name=new.name, batch=batch)
    returned = time.monotonic() - began
    found, learned, in_a_row = 0.0, 0.0, 0
    while in_a_row < IN_A_ROW:
        answer = Shopper(port).search(new.photos[0])  # a connection of its own: either process may answer
        now = time.monotonic() - began
        own = [result for result in answer["results"] if result["sku"] == category.slug]
        found = found or (now if own else 0.0)
        follows = answer["model_version"] != before and bool(own) and own[0]["producer"] != before
        in_a_row = in_a_row + 1 if follows else 0
        learned = now if in_a_row == 1 else learned
        if now > LONGEST_SECONDS:
            raise RuntimeError(f"{category.slug} was not learned in {now:.0f} s: {_latest().error}")
        time.sleep(POLL_SECONDS)
    return Saved(returned, found, learned)


def saving_rows(classes: Sequence[NewClass], port: int, supervisor: int) -> list[dict[str, Any]]:
    rows = []
    for new in classes:
        times = saved(new, port)
        job = _latest()
        result = job.result or {}
        rows.append(
            {
                "category": new.name, "photos": PHOTOS, "saved_s": round(times.returned, 2),
                "found_by_photo_s": round(times.found, 2), "learned_and_searchable_s": round(times.learned, 2),
                "bar_s": 90, "job_s": result["seconds"], "training_s": result["training_seconds"], "training_bar_s": 20,
                "stored_codes": result["old_codes_checked"], "changed": result["old_codes_changed"],
                "training_worker_mb": megabytes_of_parts(supervisor).get("training worker"),
            }
        )  # fmt: skip
    return rows


class Load:
    """Users who search one after the other without a pause, and what the shop did meanwhile."""

    def __init__(self, port: int, photos: Sequence[bytes]) -> None:
        self.photos = photos
        self.stopping = threading.Event()
        self.requests: list[tuple[float, float]] = []  # when it began, milliseconds
        self.phases: list[tuple[float, str]] = []  # from when on
        self.errors: list[str] = []
        shoppers = [threading.Thread(target=self._user, args=(port, user)) for user in range(USERS)]
        self.threads = [*shoppers, threading.Thread(target=self._watch)]

    def _user(self, port: int, user: int) -> None:
        shopper = Shopper(port)
        for number in count(user):
            if self.stopping.is_set():
                return
            began = time.monotonic()
            try:
                shopper.search(self.photos[number % len(self.photos)])
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                self.errors.append(str(error))
                shopper = Shopper(port)
            self.requests.append((began, 1000 * (time.monotonic() - began)))

    def _watch(self) -> None:
        while not self.stopping.wait(POLL_SECONDS):
            self.phases.append((time.monotonic(), _phase()))

    def __enter__(self) -> "Load":  # noqa: PYI034  nobody inherits
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def seconds_in(self, phase: str) -> float:
        return sum(until - when for (when, found), (until, _) in pairwise(self.phases) if found == phase)

    def by_phase(self, idle_until: float, idle_again: float) -> dict[str, list[float]]:
        """Milliseconds of the requests that began in each phase."""
        times = np.array([when for when, _ in self.phases])
        found: dict[str, list[float]] = {}
        for began, milliseconds in self.requests:
            at = int(np.searchsorted(times, began)) - 1
            phase = self.phases[max(at, 0)][1]
            if phase == "quiet":
                phase = (
                    "idle before" if began < idle_until else "idle after" if began > idle_again else "saving"
                )
            found.setdefault(phase, []).append(milliseconds)
        return found


def _phase() -> str:
    """What the workers do: training counts apart from the rest of the learning job."""
    running = Job.objects.filter(state="running").values_list("kind", "checkpoint")
    stages = {kind: checkpoint.get("stage", "") for kind, checkpoint in running}
    if KIND in stages:
        return "training" if stages[KIND] == "training" else "rest of the learning job"
    return f"job {min(stages)}" if stages else "quiet"


def _latest() -> Job:
    return Job.objects.filter(kind=KIND).latest("created_at")


def load_rows(classes: Sequence[NewClass], port: int, asked: Sequence[bytes]) -> list[dict[str, Any]]:
    """Two users search all the while: first in a quiet shop, then as categories are added one after the other."""
    with Load(port, asked) as load:
        time.sleep(IDLE_SECONDS)
        idle_until = time.monotonic()
        for new in classes:
            saved(new, port)
            if load.seconds_in("training") >= TRAINING_SECONDS:
                break
        idle_again = time.monotonic() + 1
        time.sleep(IDLE_SECONDS / 2)
    if load.errors:
        raise RuntimeError(f"{len(load.errors)} searches failed, the first: {load.errors[0]}")
    phases = load.by_phase(idle_until, idle_again)
    idle = phases["idle before"] + phases["idle after"]
    learning = phases["training"] + phases["rest of the learning job"]
    return [
        load_row(name, own, idle)
        for name, own in {"idle": idle, **phases, "learning, all of it": learning}.items()
    ]


def load_row(name: str, own: Sequence[float], idle: Sequence[float]) -> dict[str, Any]:
    p50, p99 = np.percentile(own, [50, 99])
    idle_p50, idle_p99 = np.percentile(idle, [50, 99])
    return {
        "while": name, "searches": len(own), "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2),
        "slowest_ms": round(max(own), 1), "p50_of_idle": round(float(p50 / idle_p50), 2),
        "p99_of_idle": round(float(p99 / idle_p99), 2), "bar": 3.0 if name in BARRED else None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("supervisor", type=int)
    options = parser.parse_args()
    classes = list(new_classes())
    pack = open_pack(DATA / "grocery")
    asked = [pack.read(record) for record in list(pack.records("test"))[::40]]
    found: Mapping[str, Any] = {
        "saving": saving_rows(classes[:ALONE], options.port, options.supervisor),
        "load": load_rows(classes[ALONE:], options.port, asked),
        "asked": len(asked),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
