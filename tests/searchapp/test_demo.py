"""`manage.py demo`: one command from an empty folder to answers; the second start loads nothing again."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.system import ROOT, System

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


def demo_started(system: System) -> tuple[subprocess.Popen[bytes], str, float]:
    """The running demo, what it printed until it answered, and the seconds that took."""
    printed = system.folder / f"demo-{time.monotonic_ns()}.txt"
    begun = time.monotonic()
    with printed.open("wb") as out, system.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "demo", "--port", str(system.port)],
            cwd=ROOT,
            env={**system.env, "ANON_SEARCH_RATE": "1/day"},
            stdout=out,
            stderr=log,
        )
    system.processes["serve"] = process
    system.wait_until(lambda: b"Ctrl-C stops" in printed.read_bytes(), "the demo to answer", seconds=120)
    return process, printed.read_text(encoding="utf-8"), time.monotonic() - begun


def test_the_demo_answers_shows_its_logins_once_and_starts_again_within_ten_seconds(tmp_path: Path) -> None:
    system = System(environment={"SAMPLE_DATA": str(tmp_path / "none")})
    try:
        process, printed, _ = demo_started(system)
        assert "a small catalogue of DRAWN pictures is loaded instead" in printed
        logins = dict(re.findall(r"login (\w+) +password (\S+)", printed))
        assert set(logins) == {"staff", "operator"}
        check_login(system, "staff", logins["staff"])
        items = system.value("SELECT count(*) FROM searchapp_item")
        assert items > 0
        sku = system.value("SELECT sku FROM searchapp_item ORDER BY id LIMIT 1")
        for _ in range(3):  # the limit of one a day is off here
            answer = httpx.post(f"{system.base_url}/api/v1/search", json={"sku": sku})
            assert answer.status_code == 200
        thumbnail = answer.json()["results"][0]["thumbnail"]
        assert httpx.get(system.base_url + thumbnail).headers["Content-Type"] == "image/jpeg"
        stylesheet = re.search(r'"(/static/css/[^"]+)"', httpx.get(system.base_url).text)
        assert stylesheet is not None
        assert httpx.get(system.base_url + stylesheet[1]).status_code == 200

        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert system.pids() == []
        jobs = system.value("SELECT count(*) FROM searchapp_job")

        process, printed, seconds = demo_started(system)
        print(f"second start: {seconds:.1f} s")
        assert seconds < 10
        assert not re.search(r"password \S+ +\(shown", printed)
        assert system.value("SELECT count(*) FROM searchapp_item") == items
        assert system.value("SELECT count(*) FROM searchapp_job WHERE kind = 'import_catalogue'") <= jobs
        assert system.stop() == {"serve": 0}
    finally:
        system.close()


def check_login(system: System, name: str, password: str) -> None:
    with httpx.Client(base_url=system.base_url) as browser:
        page = browser.get("/admin/searchapp/item/", follow_redirects=True)
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token is not None
        form = {"username": name, "password": password, "csrfmiddlewaretoken": token[1]}
        answer = browser.post(page.url, data=form, follow_redirects=True)
        assert (answer.status_code, answer.url.path) == (200, "/admin/searchapp/item/")
