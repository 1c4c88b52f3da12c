"""F2 of a promotion that has to learn first: killed at any step, the candidate catches up once and then serves."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.learnings import EACH, STOCK, check_clean, come, live_deployments, looked, staff, verdict
from tests.faults.upgrades import (
    PROMOTIONS,
    killed_at,
    promote,
    questions,
    rollback,
    upgrade_shop,
    wait_until_answering,
)
from tests.system import System
from tests.system_checks import MODES, wait_until_settled

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]
POINTS = [
    "learning.after_epoch:3",
    "learning.after_training",
    "learning.after_bundle",
    "learning.after_gates",
    "learning.before_publish",
    "learning.before_commit",
    "gallery.before_commit",
    "gallery.after_commit",
    "learning.after_publish",
    "promote.before_move",
]
CAUGHT_UP = "SELECT count(*) FROM searchapp_auditevent WHERE action = 'categories.catch_up'"
IS_OVER = f"SELECT count(*) {PROMOTIONS} AND state NOT IN ('done', 'failed', 'cancelled')"


@pytest.fixture(scope="module", params=MODES)
def open_shop(request: pytest.FixtureRequest, data_packs: Path) -> Iterator[tuple[System, httpx.Client]]:
    """One running shop for all steps: in each 1.x learns a category more, and 2.0 is to be put in use."""
    with upgrade_shop(request.param, data_packs) as system:
        (operator,) = staff(system)
        yield system, operator


@pytest.mark.parametrize(("number", "point"), list(enumerate(POINTS, start=STOCK)))
def test_f2_killed_while_it_catches_up_the_candidate_learns_once_and_serves(
    open_shop: tuple[System, httpx.Client], number: int, point: str, data_packs: Path
) -> None:
    system, operator = open_shop
    (photo,) = questions(data_packs, [number], 1)
    slugs = come(system, data_packs, [number], is_asked=True)
    wait_until_settled(system, seconds=240)
    before, told = looked(system), system.value(CAUGHT_UP)
    assert slugs[0] in before.registries[before.in_use]
    killed_at(system, "worker", point)
    wait_until_answering(system, photo, before.in_use)

    assert promote(operator, "2.0").status_code == 202
    took = system.wait_until(lambda: system.value(IS_OVER) == 0, "the promotion to end", seconds=180)

    assert system.marker.exists(), f"nobody was killed at {point}"
    state, error, fence, checkpoint = system.rows(
        f"SELECT state, error, fence, checkpoint {PROMOTIONS} ORDER BY created_at DESC LIMIT 1"
    )[0]
    assert (state, error) == ("done", "")
    assert fence == 2 or point.startswith("gallery.")  # any job may be the one to die at these
    wait_until_settled(system, seconds=240)
    now = looked(system)
    newest = list(now.registries)[-1]
    assert (now.in_use, live_deployments(system)) == (newest, 1)
    assert newest.startswith("2.")
    assert newest not in before.registries
    assert set(before.registries[before.in_use]) <= set(now.registries[newest])
    kept = json.loads(checkpoint) if isinstance(checkpoint, str) else checkpoint
    learned = kept["catch_up"]["categories"]  # the first time also what the stock's own learning left
    added = now.entries - before.entries
    assert slugs[0] in learned
    assert before.entries <= now.entries
    assert (len(added), {line.split()[2] for line in added}) == (EACH * len(learned), {newest})
    assert system.value(CAUGHT_UP) == told + 1
    check_clean(system, now)
    print(verdict({
        "row": "F2 catch up", "mode": system.mode, "point": point, "ended_s": round(took, 1), "version": newest,
        "old_codes_changed": 0, "clean": True,
    }))  # fmt: skip
    system.failpoint = ""
    assert rollback(operator).status_code == 202
    wait_until_answering(system, photo, before.in_use)
