"""S1, S2: versions are swapped under load; no query fails, none is answered by two of them, all follow at once."""

import time
from collections import defaultdict
from pathlib import Path

import pytest

from tests.faults.learnings import check_clean, looked, staff, verdict
from tests.faults.upgrades import (
    Asked,
    answers_recorded,
    champions,
    check_answers,
    job_ended,
    lateness,
    load,
    order_of,
    promote,
    questions,
    rollback,
    shopper,
    shoppers,
    upgrade_shop,
    wait_until_answering,
)
from tests.system import Mode
from tests.system_checks import MODES

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]
SWAPS, SECONDS, PER_SECOND, CONNECTIONS = 20, 180.0, 10.0, 12
STEADY_SECONDS = 30.0
FOLLOWED = 2.0  # seconds in which every process has to follow the pointer


@pytest.mark.parametrize("mode", MODES)
def test_s1_s2_twenty_swaps_under_ten_queries_a_second(mode: Mode, data_packs: Path) -> None:
    """Two web processes; each connection stays with one of them, so over it versions come in their order."""
    photos = questions(data_packs, range(6), 5)
    with upgrade_shop(mode, data_packs) as system:
        (operator,) = staff(system)
        recorded = {}
        with shopper(system) as client:
            wait_until_answering(system, photos[0], "1.0")
            recorded["1.0"] = answers_recorded(client, photos, "1.0")
            job_ended(system, operator, promote(operator, "2.0"))
            wait_until_answering(system, photos[0], "2.0")
            recorded["2.0"] = answers_recorded(client, photos, "2.0")
            assert recorded["1.0"] != recorded["2.0"]
            assert rollback(operator).status_code == 202
            wait_until_answering(system, photos[0], "1.0")
        seconds: dict[str, list[float]] = defaultdict(list)
        with load(shoppers(system, CONNECTIONS), photos, per_second=PER_SECOND) as seen:
            steady = time.time()
            time.sleep(STEADY_SECONDS)
            began = time.time()
            for number in range(SWAPS):
                time.sleep(max(0.0, began + number * SECONDS / SWAPS - time.time()))
                asked_at = time.time()
                if number % 2:
                    assert rollback(operator).status_code == 202
                    seconds["rollback"].append(time.time() - asked_at)
                else:
                    job = job_ended(system, operator, promote(operator, "2.0"))
                    assert (job["state"], job["error"]) == ("done", ""), job
                    seconds["promote"].append(time.time() - asked_at)
                    seconds["pointer"].append(job["result"]["pointer_seconds"])
            ended = time.time()
            time.sleep(2 * FOLLOWED)
        assert seen.errors == []
        check_answers(seen.asked, recorded)
        history = champions(system)
        late = max(lateness(one, history) for one in seen.asked)
        assert late <= FOLLOWED
        swapped = [version for version, _, _ in history][2:]  # from the champion at the load's begin on
        for over in by_connection(seen.asked).values():
            assert is_in_order(order_of(over), swapped)
        check_clean(system, looked(system))
        p99 = {"steady": seen.p99_ms(steady, began), "swapping": seen.p99_ms(began, ended)}
        print(verdict({
            "row": "S1 S2", "mode": mode, "swaps": SWAPS, "seconds": round(ended - began, 1),
            "answers": len(seen.asked), "errors": 0, "mixed": 0, "latest_old_answer_s": round(late, 2),
            "p99_ms": {name: round(value, 1) for name, value in p99.items()},
            "slowest_s": {name: round(max(values), 3) for name, values in seconds.items()},
        }))  # fmt: skip


def by_connection(seen: list[Asked]) -> dict[int, list[Asked]]:
    found: dict[int, list[Asked]] = defaultdict(list)
    for one in seen:
        found[one.connection].append(one)
    return found


def is_in_order(order: list[str], swapped: list[str]) -> bool:
    """Whether one process can have followed the pointer so: it may miss a swap and its undoing, and never goes back."""
    rest = iter(swapped)
    return all(version in rest for version in order)
