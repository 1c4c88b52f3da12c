"""F12: SIGTERM in the middle of work. Requests under way are answered, the job goes on from its checkpoint."""

import signal
import threading
import time
from http.client import HTTPConnection
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
        waiting = [sent_search(system.port, photo) for _ in range(50)]
        time.sleep(0.1)  # the server has read them; four are being worked on
        ended: dict[str, int] = {}
        stopping = threading.Thread(target=lambda: ended.update(system.stop(seconds=30)))
        stopping.start()
        statuses = [connection.getresponse().status for connection in waiting]
        stopping.join()
        assert set(ended.values()) == {0}, ended
        assert system.pids() == []
        print(f"F12 {mode}: {statuses.count(200)} of 50 answered")
        assert statuses == [200] * 50

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


def sent_search(port: int, photo: bytes) -> HTTPConnection:
    """A search that has left: whole request written, answer not yet read."""
    request = httpx.Request("POST", "http://testserver/api/v1/search", files={"image": photo})
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(
        "POST", "/api/v1/search", request.read(), {"Content-Type": request.headers["Content-Type"]}
    )
    return connection


def test_a_second_sigterm_while_stopping_changes_nothing() -> None:
    with system_in("embedded") as system:
        process = system.processes["serve"]
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert system.pids() == []
