"""One size of benchmarks.upgrade_speed: a gallery, two web processes, promotions and roll-backs in turn.

`python -m benchmarks.upgrade_served ENTRIES ROUNDS SEED` in surroundings of its own; the last line is the row as JSON.
"""

import ml.threads  # noqa: F401  isort: skip

import django

django.setup()

import json  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any, Self  # noqa: E402

import httpx  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402

from benchmarks.made_up_rows import populate  # noqa: E402
from ml.artifacts import read_manifest  # noqa: E402
from ml.data.packs import open_pack  # noqa: E402
from searchapp.models import GalleryView, Job, JobState, ModelVersion, PairCalibration  # noqa: E402
from searchapp.services import deploying, intake, snapshots, versions  # noqa: E402
from searchapp.services.jobs import job_run_here  # noqa: E402
from searchapp.services.supervising import web_command  # noqa: E402

IN_A_ROW = 20  # answers of one version, over fresh connections to both processes
TIMED_PHOTOS = 60


class Asking:
    """Asks the two web processes without a pause, each time over a new connection, and notes who answered when."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{probe.getsockname()[1]}"
            port = int(probe.getsockname()[1])
        self.log = Path(settings.DATA_DIR, "web.log").open("wb")  # noqa: SIM115  it lives as long as the processes
        self.process = subprocess.Popen(
            web_command(host="127.0.0.1", port=port, workers=2), stdout=self.log, stderr=self.log
        )
        self.photo = _photos(1)[0]
        self.answers: list[tuple[float, str]] = []
        self.failures = 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.address}/healthz/ready", timeout=5).status_code == httpx.codes.OK:
                    self.thread.start()
                    return self
            except httpx.HTTPError:
                time.sleep(0.2)
        raise SystemExit(f"the web processes are not ready: {Path(self.log.name).read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.thread.join()
        self.process.terminate()
        self.process.wait(timeout=30)
        self.log.close()

    def _ask(self) -> None:
        while not self.ending.is_set():
            try:
                answer = httpx.post(
                    f"{self.address}/api/v1/search", files={"image": ("q.jpg", self.photo)}, timeout=30
                )
                version = answer.json()["model_version"] if answer.status_code == httpx.codes.OK else ""
            except httpx.HTTPError:
                version = ""
            self.failures += not version
            self.answers.append((time.time(), version))

    def all_answer(self, version: str, since: float) -> float:
        """Seconds from `since` until the first of IN_A_ROW answers in a row by `version`."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            after = [(at, said) for at, said in self.answers if at >= since]
            last_other = max(
                (number for number, (_, said) in enumerate(after) if said != version), default=-1
            )
            if len(after) - 1 - last_other >= IN_A_ROW:
                return after[last_other + 1][0] - since
            time.sleep(0.02)
        raise SystemExit(f"{version} does not answer everywhere")


def _photos(count: int) -> list[bytes]:
    pack = open_pack(settings.SAMPLE_DATA / "grocery")
    return [pack.read(record) for record, _ in zip(pack.records("test"), range(count), strict=False)]


def second_version() -> ModelVersion:
    """The larger bundle beside the first, in its lineage; what similarities mean between the two is made up."""
    first = versions.champion().version
    source = settings.DEFAULT_BUNDLE.parent / "budget"
    versions.bundle_store(source)
    manifest = read_manifest(source)
    with transaction.atomic():
        second = versions.version_register(manifest, number=(2, 0), size_bytes=1, parent=first)
        GalleryView.objects.create(version=second)
        own = versions.bundle_of(second).manifest.calibration[versions.OWN_ENTRIES]
        values = {name: getattr(own, name) for name in own.__slots__}
        for asking, entries in ((first, second), (second, first)):
            PairCalibration.objects.create(query_version=asking, producer=entries, values=values)
    return second


def encode_rate(version: ModelVersion) -> float:
    """Seconds a photo, from the stored file to code and embedding."""
    encoder = versions.photo_encoder_of(version)
    folder = Path(settings.DATA_DIR)
    paths = []
    for number, data in enumerate(_photos(TIMED_PHOTOS)):
        path = folder / f"timed-{number}.jpg"
        path.write_bytes(intake.image_clean(data).data)
        paths.append(path)
    started = time.perf_counter()
    for path in paths:
        pixels = intake.pixels_of_stored(path.read_bytes(), input_size=encoder.input_size)
        encoder.encode_with_features(pixels[None])
    return (time.perf_counter() - started) / len(paths)


def moved(asking: Asking, job: Job, version: str) -> dict[str, float]:
    job = job_run_here(job)
    if job.state != JobState.DONE:
        raise SystemExit(f"{job.kind}: {job.error}")
    result: dict[str, Any] = job.result or {}
    if result["gallery_digest_before"] != result["gallery_digest_after"]:
        raise SystemExit("stored codes changed")
    return {
        "pointer": result["pointer_seconds"],
        "until": asking.all_answer(version, result["moved_at"]),
        "try": result["prewarm_seconds"],
        "digests": result["digest_seconds"],
    }


def main() -> None:
    entries, rounds, seed = map(int, sys.argv[1:4])
    call_command("migrate", verbosity=0)
    populate(entries, seed=seed)
    first, second = versions.champion().version, second_version()
    for version in (first, second):
        snapshots.snapshot_write(version)
    each = encode_rate(second)
    ups, backs = [], []
    with Asking() as asking:
        for _ in range(rounds):
            up = deploying.version_promote(
                version=second, user=None, override_reason="to see how long it takes"
            )
            ups.append(moved(asking, up, second.name))
            backs.append(moved(asking, deploying.version_rollback(user=None), first.name))
        failures, answers = asking.failures, len(asking.answers)
    row: dict[str, Any] = {"entries": entries}
    for word, found in (("in use", ups), ("back", backs)):
        row |= {
            f"{word}: pointer": round(median(one["pointer"] for one in found), 4),
            f"{word}: until all answer": round(median(one["until"] for one in found), 3),
            f"{word}: slowest": round(max(one["until"] for one in found), 3),
            f"{word}: try before": round(median(one["try"] for one in found), 3),
            f"{word}: digests": round(median(one["digests"] for one in found), 3),
        }
    row |= {"encode anew": round(each * entries, 1), "answers meanwhile": answers, "failed": failures}
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
