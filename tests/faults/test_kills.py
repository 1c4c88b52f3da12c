"""F1, F2, F4, F5, F10: kill -9, freezes and deaths between commit and publish, on whole running systems."""

import functools
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.photo_folders import photo_folder
from tests.system import EVERY_TIME, Mode, System
from tests.system_checks import (
    MODES,
    check_audit,
    check_import,
    import_and_check,
    is_done,
    start_job,
    system_in,
    wait_until_settled,
)

pytestmark = [pytest.mark.fault, pytest.mark.timeout(480)]
SEED = 11
POINTS = [
    "job.after_claim",
    "import.after_chunk_commit:2",
    "gallery.before_commit",
    "gallery.after_commit:2",
    "job.before_finish",
    "outbox.before_publish",
]


@pytest.mark.parametrize("mode", MODES)
def test_f1_an_import_survives_twenty_kills_at_random_times(
    mode: Mode, data_packs: Path, tmp_path: Path
) -> None:
    """Embedded: the whole server; production: the whole worker. Each time it is started again.

    They come so thick that some attempts commit no chunk, hence the raised limit.
    """
    chance = random.Random(SEED)
    photos = photo_folder(data_packs, tmp_path / "photos", first=0, count=2000)
    kills = 0
    with system_in(mode, JOB_MAX_ATTEMPTS="25") as system:
        system.run("import_catalogue", str(photos), "--no-wait")
        part = "serve" if mode == "embedded" else "worker"
        claims = "SELECT fence FROM searchapp_job WHERE kind = 'import_catalogue'"
        over = "SELECT count(*) FROM searchapp_job WHERE kind = 'import_catalogue' AND state = 'done'"
        takeovers = []
        while kills < 20 and not system.value(over):
            before = kills
            takeovers.append(
                system.wait_until(
                    functools.partial(is_taken_over, system, before),
                    "the job to be taken over",
                    seconds=30,
                )
            )
            time.sleep(chance.uniform(0.0, 0.3))
            system.processes.pop(part)
            for pid in system.pids() if mode == "embedded" else system.pids("-Q default"):
                with_no_mercy(pid)
            kills += 1
            system.start_part(part)
        wait_until_settled(system, seconds=120)
        print(f"F1 {mode}: seed {SEED}, {kills} kills, slowest takeover {max(takeovers):.1f} s")
        assert system.value(claims) <= 21
        system.wait_until(system.is_ready, "the web process", seconds=60)
        check_import(system, images=2000)


def is_taken_over(system: System, kills: int) -> bool:
    fence, state = system.rows("SELECT fence, state FROM searchapp_job WHERE kind = 'import_catalogue'")[0]
    return bool(fence > kills or state == "done")


def with_no_mercy(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("mode", MODES)
def test_f2_a_kill_at_each_named_step_ends_with_the_work_done_once(
    mode: Mode, point: str, data_packs: Path, tmp_path: Path
) -> None:
    photos = photo_folder(data_packs, tmp_path / "photos", first=200, count=150)
    with system_in(mode, point) as system:
        import_and_check(system, photos, images=150)
        assert system.marker.exists(), f"nothing was killed at {point}"


def test_f4_a_worker_frozen_past_its_lease_cannot_write_when_it_wakes(
    data_packs: Path, tmp_path: Path
) -> None:
    photos = photo_folder(data_packs, tmp_path / "photos", first=0, count=2000)
    with system_in("production") as system:
        system.run("import_catalogue", str(photos), "--no-wait")
        system.wait_until(lambda: system.value("SELECT count(*) FROM searchapp_item") > 100, "some chunks")
        frozen = system.processes.pop("worker")
        frozen.send_signal(signal.SIGSTOP)
        system.start_part("worker")
        taken_over = "SELECT count(*) FROM searchapp_job WHERE fence = 2"
        system.wait_until(lambda: system.value(taken_over), "the second worker to take over", seconds=30)
        frozen.send_signal(signal.SIGCONT)
        wait_until_settled(system)
        assert system.value("SELECT fence FROM searchapp_job WHERE kind = 'import_catalogue'") == 2
        check_import(system, images=2000)
        frozen.terminate()
        assert frozen.wait(timeout=30) == 0


@pytest.mark.parametrize("mode", MODES)
def test_f5_a_job_that_always_kills_its_worker_fails_and_the_others_go_on(
    mode: Mode, data_packs: Path, tmp_path: Path
) -> None:
    photos = photo_folder(data_packs, tmp_path / "photos", first=0, count=20)
    with system_in(mode, EVERY_TIME + "gallery.before_commit") as system:
        system.run("import_catalogue", str(photos), "--no-wait")
        others = [start_job(system) for _ in range(5)]
        took = wait_until_settled(system)
        assert all(is_done(system, job_id) for job_id in others)
        rows = system.rows("SELECT state, attempts, error FROM searchapp_job WHERE kind = 'import_catalogue'")
        reason = "given up after 3 attempts: each time the worker died or fell silent (WorkerLost)"
        assert rows == [("failed", 3, reason)]
        assert system.value("SELECT count(*) FROM searchapp_item") == 0
        print(f"F5 {mode}: drained after {took:.1f} s")
        # the files of the chunk that never committed are orphans; repair is what they are for
        system.run("index_audit", "--repair", check=False)
        check_audit(system, entries=0)


DIES_AFTER_COMMIT = """
import os, signal
from searchapp.services import jobs
print(jobs.job_create(kind="encode_images", payload={}).pk.hex, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("mode", MODES)
def test_f10_twenty_jobs_whose_makers_died_after_the_commit_all_start(mode: Mode) -> None:
    """The relay is down meanwhile, and dies once itself between publishing and noting it."""
    with system_in(mode, "outbox.before_publish:3") as system:
        ids = [system.python(DIES_AFTER_COMMIT, check=False).strip() for _ in range(20)]
        assert len(set(ids)) == 20
        took = system.wait_until(lambda: all(is_done(system, job_id) for job_id in ids), "all 20", seconds=20)
        claims = system.rows("SELECT fence FROM searchapp_job")
        assert [fence for (fence,) in claims] == [1] * 20
        print(f"F10 {mode}: 20/20 done {took:.1f} s after the last commit")
