"""Both modes as they really run: jobs travel through a real broker to real workers, and all ends cleanly."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.photo_folders import photo_folder
from tests.system import Mode, System
from tests.system_checks import MODES, import_and_check, is_done, start_job, system_in

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


@pytest.mark.parametrize("mode", MODES)
def test_jobs_run_a_killed_worker_is_replaced_and_sigterm_ends_everything_with_status_0(mode: Mode) -> None:
    with system_in(mode) as system:
        job_id = start_job(system)
        took = system.wait_until(lambda: is_done(system, job_id), "the first job")
        print(f"{mode}: done {took:.1f} s after its commit was seen")

        for pid in system.pids("-Q default"):
            os.kill(pid, signal.SIGKILL)
        job_id = start_job(system)
        if mode == "production":  # where the container runtime starts it again
            system.processes.pop("worker").wait()
            system.start_part("worker")
        system.wait_until(lambda: is_done(system, job_id), "the job after a kill -9")

        begun = time.monotonic()
        codes = system.stop()
        assert set(codes.values()) == {0}, codes
        assert time.monotonic() - begun < 30
        assert system.pids() == []


def test_serve_refuses_a_second_server_restarts_its_parts_and_leaves_no_orphan_when_killed() -> None:
    with System() as system:
        second = system.run("serve", "--port", "1", check=False)
        assert second.returncode == 1
        assert "another server already runs on" in second.stderr

        before = system.pids("granian")
        os.kill(
            min(before), signal.SIGKILL
        )  # the web server's first process; its worker would be left behind
        system.wait_until(
            lambda: not set(before) & set(system.pids("granian")), "the old web processes to be gone"
        )
        system.wait_until(system.is_ready, "a new web process")

        supervisor = system.processes.pop("serve")
        supervisor.kill()
        supervisor.wait()
        system.wait_until(
            lambda: system.pids() == [], "every part to follow the killed supervisor", seconds=10
        )

        job_id = start_job(system)  # nobody is there to see it
        system.start()
        system.wait_until(lambda: is_done(system, job_id), "the job made while nothing ran")

        system.processes["serve"].send_signal(signal.SIGINT)
        assert system.processes["serve"].wait(timeout=30) == 0
        assert system.pids() == []


def test_serve_says_what_is_wrong_instead_of_starting_half() -> None:
    system = System()
    try:
        unmigrated = system.run("serve", "--port", str(system.port), check=False)
        assert (unmigrated.returncode, unmigrated.stdout) == (1, "")
        assert "run `manage.py migrate` first" in unmigrated.stderr
        assert system.pids() == []
    finally:
        system.close()


@pytest.mark.parametrize(
    ("mode", "point"), [("embedded", "gallery.before_commit:2"), ("production", "import.after_chunk_commit")]
)
def test_an_import_whose_worker_is_killed_is_done_once_with_nothing_lost(
    mode: Mode, point: str, data_packs: Path, tmp_path: Path
) -> None:
    photos = photo_folder(data_packs, tmp_path / "photos", first=0, count=150)  # three chunks
    with system_in(mode, point) as system:
        import_and_check(system, photos, images=150)
        assert system.marker.exists(), "the worker was not killed"
        assert system.rows("SELECT state, fence FROM searchapp_job WHERE kind = 'import_catalogue'") == [
            ("done", 2)
        ]
