"""S4, S5 and trials: operators at the same moment, a candidate stopped while it answers, and the way back."""

import json
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.faults.learnings import STOCK, check_clean, come, looked, photos_by_class, staff, verdict
from tests.faults.upgrades import (
    answers_recorded,
    asked,
    champions,
    check_answers,
    job_ended,
    live,
    load,
    promote,
    questions,
    rollback,
    shopper,
    upgrade_shop,
    wait_until_answering,
)
from tests.system import Mode
from tests.system_checks import MODES, check_audit, wait_until_settled

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]
ROUNDS = 5
ADDED_CLASSES, LEAST_ADDED, FROZEN = 5, 50, 200
BACK_SECONDS = 10.0
ADDED = """
SELECT count(*) FROM searchapp_galleryentry AS e JOIN searchapp_modelversion AS v ON v.id = e.producer_id
WHERE v.major = 2
"""
PEOPLE, SHARE, FOLLOWED = 21, 50, 2.0


@pytest.mark.parametrize("mode", MODES)
def test_s5_of_two_operators_at_once_one_is_served_and_the_other_told(mode: Mode, data_packs: Path) -> None:
    with upgrade_shop(mode, data_packs, candidates=2) as system:
        people = staff(system, 2)
        for number in range(ROUNDS):
            before = len(champions(system))
            deployment = system.value("SELECT max(id) FROM searchapp_deployment WHERE ended_at IS NULL")
            answers = at_once(people, ["2.0", "3.0"], deployment)
            assert sorted(answer.status_code for answer in answers) == [202, 409], [a.text for a in answers]
            refused = next(answer for answer in answers if answer.status_code == 409)
            assert refused.json()["error"]["message"]
            accepted = next(answer for answer in answers if answer.status_code == 202)
            job = job_ended(system, people[0], accepted)
            assert (job["state"], job["error"]) == ("done", "")
            assert live(system) == [job["result"]["serving"]]
            assert len(champions(system)) == before + 1
            said = "SELECT count(*) FROM searchapp_auditevent WHERE action = 'version.promote'"
            assert system.value(said) == number + 1
            assert rollback(people[0]).status_code == 202
            assert live(system) == ["1.0"]
        wait_until_settled(system)
        check_clean(system, looked(system))
        print(verdict({"row": "S5", "mode": mode, "rounds": ROUNDS, "accepted": ROUNDS, "refused": ROUNDS}))


def at_once(people: list[httpx.Client], names: list[str], deployment: int) -> list[httpx.Response]:
    ready, found = threading.Barrier(len(people)), dict[str, httpx.Response]()

    def ask(client: httpx.Client, name: str) -> None:
        ready.wait()
        found[name] = promote(client, name, deployment=deployment)

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(people, names, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[name] for name in names]


@pytest.mark.parametrize("mode", MODES)
def test_s4_going_back_answers_as_before_and_finds_what_came_meanwhile(mode: Mode, data_packs: Path) -> None:
    photos = questions(data_packs, range(18), 12)[:FROZEN]
    with upgrade_shop(mode, data_packs) as system:
        (operator,) = staff(system)
        old = {"category": next(iter(photos_by_class(data_packs))).lower()}
        with shopper(system) as client:
            wait_until_answering(system, photos[0], "1.0")
            recorded = found_only(answers_recorded(client, photos, "1.0", **old))
            job_ended(system, operator, promote(operator, "2.0"))
            wait_until_answering(system, photos[0], "2.0")
            classes = range(STOCK, STOCK + ADDED_CLASSES)
            come(system, data_packs, classes, is_asked=False)
            wait_until_settled(system)
            added = int(system.value(ADDED))
            assert added >= LEAST_ADDED

            began = time.monotonic()
            back = rollback(operator)
            assert back.status_code == 202, back.text
            wait_until_answering(system, photos[0], "1.0")
            took = time.monotonic() - began

            assert took <= BACK_SECONDS
            assert found_only(answers_recorded(client, photos, "1.0", **old)) == recorded
            sought = questions(data_packs, classes, 12)
            first = [asked(client, photo).json()["results"][0] for photo in sought]
        assert {result["producer"] for result in first} == {"2.0"}
        assert min(result["score"] for result in first) > 0
        check_audit(system)
        print(verdict({
            "row": "S4", "mode": mode, "frozen_queries": len(photos), "as_recorded": len(photos), "added": added,
            "searched_for": len(sought), "found_first": len(first), "back_and_answering_s": round(took, 2),
        }))  # fmt: skip


def found_only(recorded: list[str]) -> list[object]:
    """Without the size of the gallery, which grew."""
    return [json.loads(text)[1] for text in recorded]


@pytest.mark.parametrize("mode", MODES)
def test_a_candidate_stopped_while_it_answers_leaves_no_query_without_an_answer(
    mode: Mode, data_packs: Path
) -> None:
    """The share takes or leaves people as a whole: each has a key and a connection."""
    photos = questions(data_packs, range(4), 4)
    with upgrade_shop(mode, data_packs) as system:
        people = staff(system, PEOPLE)
        operator = people[0]
        wait_until_answering(system, photos[0], "1.0")
        recorded = {"1.0": answers_recorded(operator, photos, "1.0")}
        job_ended(system, operator, promote(operator, "2.0"))
        wait_until_answering(system, photos[0], "2.0")
        recorded["2.0"] = answers_recorded(operator, photos, "2.0")
        assert rollback(operator).status_code == 202
        wait_until_answering(system, photos[0], "1.0")
        stopped = []
        with load(people[1:], photos, per_second=10.0) as seen:
            for _ in range(ROUNDS):
                job = job_ended(system, operator, promote(operator, "2.0", share=SHARE))
                assert (job["state"], job["error"]) == ("done", "")
                assert live(system) == ["1.0", "2.0"]
                time.sleep(2 * FOLLOWED)
                answered = rollback(operator)
                assert answered.status_code == 202, answered.text
                assert live(system) == ["1.0"]
                stopped.append(time.time())
                time.sleep(2 * FOLLOWED)
        assert seen.errors == []
        check_answers(seen.asked, recorded)
        by_candidate = sum(one.version == "2.0" for one in seen.asked)
        assert by_candidate
        late = [
            one.began - moment
            for moment in stopped
            for one in seen.between(moment, moment + 2 * FOLLOWED)
            if one.version == "2.0"
        ]
        assert max(late, default=0.0) <= FOLLOWED
        check_clean(system, looked(system))
        print(verdict({
            "row": "canary stopped", "mode": mode, "trials": ROUNDS, "answers": len(seen.asked),
            "by_candidate": by_candidate, "errors": 0, "mixed": 0,
            "latest_by_candidate_s": round(max(late, default=0.0), 2),
        }))  # fmt: skip
