"""S6: whoever moves the pointer is killed at a named step: the old version serves or the new one, and it is clean."""

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.learnings import check_clean, live_deployments, looked, staff, verdict
from tests.faults.upgrades import (
    PROMOTIONS,
    Load,
    champions,
    killed_at,
    live,
    load,
    promote,
    questions,
    rollback,
    shoppers,
    upgrade_shop,
    wait_until_answering,
)
from tests.system import System
from tests.system_checks import MODES, wait_until_settled

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]
POINTS = [
    "job.after_claim",
    "promote.after_checks",
    "promote.after_gates",
    "promote.before_move",
    "promote.before_commit",
    "promote.after_move",
    "job.before_finish",
]
BACK_POINTS = ["rollback.before_move", "promote.before_commit", "promote.after_move"]
SERVICE_SECONDS = 20.0
PER_SECOND, CONNECTIONS = 5.0, 4


@pytest.fixture(scope="module", params=MODES)
def open_shop(request: pytest.FixtureRequest, data_packs: Path) -> Iterator[tuple[System, httpx.Client]]:
    """One running shop for all steps."""
    with upgrade_shop(request.param, data_packs) as system:
        (operator,) = staff(system)
        yield system, operator


def longest_gap(seen: Load, began: float, ended: float) -> float:
    """Seconds without a good answer."""
    good = sorted(one.ended for one in seen.asked if one.status == 200)
    marks = [began, *(moment for moment in good if began < moment < ended), ended]
    return max(after - before for before, after in pairwise(marks))


def check_moved_once(system: System, version: str, before: int) -> None:
    assert live(system) == [version]
    assert (live_deployments(system), len(champions(system))) == (1, before + 1)
    wait_until_settled(system)
    check_clean(system, looked(system))


def events(system: System, action: str) -> int:
    return int(system.value(f"SELECT count(*) FROM searchapp_auditevent WHERE action = '{action}'"))


@pytest.mark.parametrize("point", POINTS)
def test_s6_killed_in_a_promotion_the_old_version_serves_or_the_new_one(
    open_shop: tuple[System, httpx.Client], point: str, data_packs: Path
) -> None:
    system, operator = open_shop
    photos = questions(data_packs, range(3), 4)
    killed_at(system, "worker", point)
    wait_until_answering(system, photos[0], "1.0")
    before, told = len(champions(system)), events(system, "version.promote")
    with load(shoppers(system, CONNECTIONS), photos, per_second=PER_SECOND) as seen:
        began = time.time()
        assert promote(operator, "2.0").status_code == 202
        is_over = f"SELECT count(*) {PROMOTIONS} AND state NOT IN ('done', 'failed', 'cancelled')"
        took = system.wait_until(lambda: system.value(is_over) == 0, "the promotion to end", seconds=90)
        followed = wait_until_answering(system, photos[0], "2.0")
        gap = longest_gap(seen, began, time.time())
    assert system.marker.exists(), f"nobody was killed at {point}"
    state, error, fence = newest_promotion(system)
    assert (state, error) == ("done", "")
    assert fence == 2 or point.startswith("job.")  # any job may be the one to die at these
    assert {one.version for one in seen.asked if one.status == 200} == {"1.0", "2.0"}
    assert gap <= SERVICE_SECONDS
    assert events(system, "version.promote") == told + 1
    check_moved_once(system, "2.0", before)
    print(verdict({
        "row": "S6", "mode": system.mode, "point": point, "ended_s": round(took, 1),
        "all_answer_s": round(took + followed, 1), "longest_without_answer_s": round(gap, 2),
        "not_200": sum(one.status != 200 for one in seen.asked), "refused": len(seen.errors), "clean": True,
    }))  # fmt: skip
    system.failpoint = ""
    assert rollback(operator).status_code == 202
    wait_until_answering(system, photos[0], "1.0")


@pytest.mark.parametrize("point", BACK_POINTS)
def test_s6_killed_in_a_rollback_it_is_gone_through_with(
    open_shop: tuple[System, httpx.Client], point: str, data_packs: Path
) -> None:
    """The click runs it in the web process; when that dies, a worker takes the job over."""
    system, operator = open_shop
    photos = questions(data_packs, range(3), 4)
    assert promote(operator, "2.0").status_code == 202
    wait_until_answering(system, photos[0], "2.0")
    wait_until_settled(system)
    killed_at(system, "web", point)
    wait_until_answering(system, photos[0], "2.0")
    before, told = len(champions(system)), events(system, "version.rollback")
    with load(shoppers(system, CONNECTIONS), photos, per_second=PER_SECOND) as seen:
        began = time.time()
        with pytest.raises(httpx.HTTPError):  # the process that was asked died
            rollback(operator)
        took = system.wait_until(lambda: live(system) == ["1.0"], "the version before", seconds=90)
        followed = wait_until_answering(system, photos[0], "1.0")
        gap = longest_gap(seen, began, time.time())
    assert system.marker.exists(), f"nobody was killed at {point}"
    assert gap <= SERVICE_SECONDS
    wait_until_settled(system)
    assert events(system, "version.rollback") == told + 1
    check_moved_once(system, "1.0", before)
    print(verdict({
        "row": "S6", "mode": system.mode, "point": f"going back, {point}", "moved_s": round(took, 1),
        "all_answer_s": round(took + followed, 1), "longest_without_answer_s": round(gap, 2),
        "not_200": sum(one.status != 200 for one in seen.asked), "refused": len(seen.errors), "clean": True,
    }))  # fmt: skip
    system.failpoint = ""


def newest_promotion(system: System) -> tuple[Any, ...]:
    return system.rows(f"SELECT state, error, fence {PROMOTIONS} ORDER BY created_at DESC LIMIT 1")[0]
