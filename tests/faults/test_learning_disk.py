"""F9 of learning: the disk is full when the new version is to be written. What serves goes on, a retry succeeds."""

from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.faults.learnings import (
    STOCK,
    check_learned,
    check_unchanged,
    come,
    learning_address,
    learnings,
    looked,
    photo_of,
    shop,
    staff,
    verdict,
    wait_until_ended,
)
from tests.faults.test_full_disk import free_bytes, small_disk
from tests.system import Mode
from tests.system_checks import MODES

__all__ = ["small_disk"]  # a fixture
pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]
MB = 1024 * 1024


@pytest.mark.parametrize("mode", MODES)
def test_f9_a_full_disk_fails_the_learning_with_that_reason_and_a_retry_learns(
    mode: Mode, data_packs: Path, small_disk: Path
) -> None:
    with closing(shop(mode, data_packs, data=small_disk / "data")) as system:
        system.start()
        (client,) = staff(system)
        slugs = come(system, data_packs, [STOCK], is_asked=False)
        before = looked(system)
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"\0" * (free_bytes(small_disk) - 2 * MB))
        system.run("learn_categories", "--category", slugs[0])
        wait_until_ended(system)
        ((state, error, _),) = learnings(system)
        assert state == "failed"
        assert error.startswith("no space: free some on the disk, then retry")
        photo = {"image": photo_of(data_packs, STOCK)}
        answer = httpx.post(f"{system.base_url}/api/v1/search", files=photo, timeout=60)
        assert (answer.status_code, answer.json()["model_version"]) == (200, "1.0")
        assert answer.json()["results"]

        ballast.unlink()
        system.run("sweep", "--once")
        check_unchanged(system, before)
        address = learning_address(system)
        assert client.post(f"{address}/retry").status_code == 202
        wait_until_ended(system, jobs=2)
        assert learnings(system)[1][:2] == ("done", "")
        check_learned(system, before, slugs)
        print(verdict({"row": "F9", "mode": mode, "error": "no space", "retried": "done", "clean": True}))
