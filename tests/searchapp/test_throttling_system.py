"""Two web processes count together, in the embedded cache and in Redis (reliability A6)."""

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from searchapp.services.supervising import web_command
from tests.system import Mode, System

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


class TwoWebProcesses(System):
    def commands(self) -> dict[str, list[str]]:
        return {"web": web_command(host="127.0.0.1", port=self.port, workers=2, threads=4)}


def search_from(base_url: str, claimed_address: str) -> tuple[int, str | None]:
    request = urllib.request.Request(
        f"{base_url}/api/v1/search",
        data=json.dumps({"text": "apple"}).encode(),
        headers={"Content-Type": "application/json", "X-Forwarded-For": claimed_address},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, None
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"]


@pytest.mark.parametrize("mode", ["embedded", "production"])
def test_of_two_hundred_searches_at_once_the_rate_is_admitted_whatever_address_they_claim(mode: Mode) -> None:
    with TwoWebProcesses(mode=mode, environment={"ANON_SEARCH_RATE": "60/hour"}) as system:
        addresses = [f"10.0.{n}.1" for n in range(200)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda address: search_from(system.base_url, address), addresses))

    statuses = [status for status, _ in answers]
    # A process that still loads its gallery answers 503 to a search that was counted already.
    assert 0 < statuses.count(200) <= 60
    assert statuses.count(200) + statuses.count(503) == 60
    assert statuses.count(429) == 140
    assert all(int(wait or 0) > 0 for status, wait in answers if status != 200)
