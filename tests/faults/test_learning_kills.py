"""F1, F2, F4, D8 of learning: killed or frozen wherever it is, it is done once and no stored code changes."""

import functools
import random
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.learnings import (
    ENDED,
    LEARNINGS,
    STOCK,
    check_learned,
    come,
    learning_part,
    learning_part_kill,
    learnings,
    looked,
    shop,
    verdict,
    wait_for_stage,
    wait_until_ended,
)
from tests.system import Mode, System
from tests.system_checks import MODES

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]
SEED, KILLS = 6, 20
LONGEST = 2.0  # seconds a claim lives at most: about what an undisturbed learning of two categories takes
POINTS = [
    "learning.after_count",  # first: later the codes of the stock are counted
    "job.after_claim",
    "learning.after_epoch:3",
    "learning.after_training",
    "learning.after_bundle",
    "learning.after_gates",
    "learning.before_publish",
    "learning.before_commit",
    "gallery.before_commit",
    "gallery.after_commit",
    "learning.after_publish",
    "job.before_finish",
]


@pytest.fixture(scope="module", params=MODES)
def open_shop(request: pytest.FixtureRequest, data_packs: Path) -> Iterator[System]:
    """One running shop for all steps: each learns a category on top of what the steps before left."""
    with closing(shop(request.param, data_packs)) as system:
        system.failing_parts = {"serve", "trainer"}
        system.start()
        yield system


def killed_at(system: System, point: str) -> None:
    """The part that learns starts anew, to die at `point` once."""
    learning_part_kill(system)
    system.marker.unlink(missing_ok=True)
    system.failpoint = point
    system.start_part(learning_part(system))


def repeated_claims(system: System) -> int:
    return int(system.value("SELECT sum(fence - 1) FROM searchapp_job WHERE fence > 0") or 0)


@pytest.mark.parametrize(("number", "point"), list(enumerate(POINTS, start=STOCK)))
def test_f2_killed_at_a_named_step_it_is_learned_once(
    open_shop: System, number: int, point: str, data_packs: Path
) -> None:
    system, jobs = open_shop, len(learnings(open_shop))
    slugs = come(system, data_packs, [number], is_asked=False)
    before, claims = looked(system), repeated_claims(system)
    killed_at(system, point)
    system.run("learn_categories", "--category", slugs[0])
    took = wait_until_ended(system, jobs=jobs + 1)
    assert system.marker.exists(), f"nobody was killed at {point}"
    state, error, fence = learnings(system)[-1]
    assert (state, error) == ("done", "")
    # Jobs that measure the models take their turn in the same worker, and any job may be the one to die at these.
    assert fence == 2 or point.startswith(("job.", "gallery."))
    assert repeated_claims(system) == claims + 1
    check_learned(system, before, slugs)
    print(
        verdict({"row": "F2", "mode": system.mode, "point": point, "ended_s": round(took, 1), "clean": True})
    )


@pytest.mark.parametrize("mode", MODES)
def test_f1_learning_survives_twenty_kills_at_random_times(mode: Mode, data_packs: Path) -> None:
    """Embedded: the whole server; production: the whole learning worker. A category is learned after the other until
    there were twenty kills; one whose training goes on from its last epoch is done after some."""
    chance = random.Random(SEED)
    kills, jobs, takeovers = 0, 0, [0.0]
    with closing(shop(mode, data_packs, JOB_MAX_ATTEMPTS="25")) as system:
        system.start()
        while kills < KILLS:
            numbers = range(STOCK + 2 * jobs, STOCK + 2 * jobs + 2)
            slugs = come(system, data_packs, numbers, is_asked=False)
            before = looked(system)
            system.run("learn_categories", *(word for slug in slugs for word in ("--category", slug)))
            jobs += 1
            claims = 0
            while kills < KILLS:
                taken = functools.partial(is_taken_over, system, claims)
                takeovers.append(system.wait_until(taken, "the job to be taken over", seconds=120))
                time.sleep(chance.uniform(0.0, LONGEST))
                if is_over(system, jobs):
                    break
                learning_part_kill(system)
                kills += 1
                claims = system.value(f"SELECT fence {LEARNINGS} ORDER BY created_at DESC LIMIT 1")
                system.start_part(learning_part(system))
            wait_until_ended(system, jobs=jobs)
            state, error, fence = learnings(system)[-1]
            assert (state, error) == ("done", "")
            assert fence <= KILLS + 1
            check_learned(system, before, slugs)
        slowest = round(max(takeovers), 1)
        print(verdict({"row": "F1", "mode": mode, "seed": SEED, "kills": kills, "learnings": jobs,
                       "most_claims": max(row[2] for row in learnings(system)), "slowest_takeover_s": slowest,
                       "old_codes_changed": 0, "clean": True}))  # fmt: skip


def is_over(system: System, jobs: int) -> bool:
    return bool(system.value(f"SELECT count(*) {LEARNINGS} AND {ENDED}") == jobs)


def is_taken_over(system: System, claims: int) -> bool:
    """Somebody claimed the newest learning since it had so many claims, or it ended."""
    newest = f"SELECT fence, state {LEARNINGS} ORDER BY created_at DESC LIMIT 1"
    fence, state = system.rows(newest)[0]
    return bool(fence > claims or state not in {"queued", "running"})


def test_f4_a_worker_frozen_in_training_writes_nothing_when_it_wakes(data_packs: Path) -> None:
    with closing(shop("production", data_packs)) as system:
        system.start()
        slugs = come(system, data_packs, range(STOCK, STOCK + 6), is_asked=False)
        before = looked(system)
        system.run("learn_categories", *(word for slug in slugs for word in ("--category", slug)))
        wait_for_stage(system, "training")
        frozen = system.processes.pop("trainer")
        frozen.send_signal(signal.SIGSTOP)
        assert learnings(system) == [("running", "", 1)]
        system.start_part("trainer")
        taken = functools.partial(is_taken_over, system, 1)
        system.wait_until(taken, "the second worker to take over", seconds=60)
        wait_for_stage(system, "training")
        frozen.send_signal(signal.SIGCONT)  # both train now, in the same folder
        wait_until_ended(system)
        said = "has another owner now"
        system.wait_until(lambda: said in system.read_log(), "the first to see that it is late", seconds=60)
        assert learnings(system) == [("done", "", 2)]
        check_learned(system, before, slugs)
        frozen.terminate()
        assert frozen.wait(timeout=60) == 0
        print(verdict({"row": "F4", "claims": 2, "versions": 1, "duplicates": 0, "clean": True}))
