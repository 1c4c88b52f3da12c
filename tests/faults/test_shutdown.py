"""F12: SIGTERM in the middle of work. Requests under way are answered, the job goes on from its checkpoint."""

import signal
import threading
from pathlib import Path

import httpx
import pytest

from tests.photo_folders import photo_folder
from tests.system import Mode
from tests.system_checks import MODES, check_import, system_in, wait_until_settled

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


@pytest.mark.parametrize("mode", MODES)
def test_f12_sigterm_answers_what_is_under_way_and_the_job_goes_on_without_losing_an_attempt(
    mode: Mode, data_packs: Path, tmp_path: Path
) -> None:
    photos = photo_folder(data_packs, tmp_path / "photos", first=0, count=2000)
    photo = min(photos.rglob("*.jpg")).read_bytes()
    with system_in(mode) as system:
        system.run("import_catalogue", str(photos), "--no-wait")
        system.wait_until(lambda: system.value("SELECT count(*) FROM searchapp_item") > 200, "some chunks")
        assert httpx.post(f"{system.base_url}/api/v1/search", files={"image": photo}).status_code == 200
        statuses: list[int] = []
        sent = threading.Barrier(51)

        def search() -> None:
            with httpx.Client(timeout=30) as shopper:
                shopper.get(f"{system.base_url}/healthz/live")  # the connection is open before the signal
                sent.wait()
                statuses.append(
                    shopper.post(f"{system.base_url}/api/v1/search", files={"image": photo}).status_code
                )

        shoppers = [threading.Thread(target=search) for _ in range(50)]
        for shopper in shoppers:
            shopper.start()
        sent.wait()
        codes = system.stop(seconds=30)
        for shopper in shoppers:
            shopper.join()
        assert set(codes.values()) == {0}, codes
        assert system.pids() == []
        print(f"F12 {mode}: {len(statuses)} of 50 answered, {sorted(set(statuses))}")

        done_before = system.value("SELECT count(*) FROM searchapp_item")
        state, attempts, fence = system.rows(
            "SELECT state, attempts, fence FROM searchapp_job WHERE kind = 'import_catalogue'"
        )[0]
        assert (state, attempts, fence) == ("queued", 0, 1)
        system.start()
        wait_until_settled(system)
        assert done_before > 200
        check_import(system, images=2000)
        assert system.value("SELECT fence FROM searchapp_job WHERE kind = 'import_catalogue'") == 2
        assert len(statuses) == 50
        assert set(statuses) <= {200, 503}


def test_a_second_sigterm_while_stopping_changes_nothing() -> None:
    with system_in("embedded") as system:
        process = system.processes["serve"]
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert system.pids() == []
