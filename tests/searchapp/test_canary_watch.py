"""A canary that breaks its rule ends by itself: counted, said, told, and only that one."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from searchapp.exceptions import InvalidInput
from searchapp.models import AuditEvent, Deployment, Job
from searchapp.services import canary_watch, query_log, search
from searchapp.services.operator_settings import setting_change
from searchapp.services.stop_rules import BOUNDS, DEFAULT_RULE, rule_checked, rule_judged, rule_words
from tests.searchapp.canaries import (
    began,
    break_arm,
    canary,
    candidate_deployed,
    champion,
    logged,
    shuffled,
)

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("data_dir")]


@pytest.fixture
def half(data_dir: Path) -> Deployment:
    return began(candidate_deployed(share=50), hours=2)


def is_live(deployment: Deployment) -> bool:
    deployment.refresh_from_db()
    return deployment.ended_at is None


def test_a_canary_within_its_rule_goes_on(half: Deployment) -> None:
    logged(100, half, failed=2, took_ms=19)
    logged(100, champion(), took_ms=10)

    assert canary_watch.canaries_check() == ""

    assert is_live(half)
    assert not AuditEvent.objects.filter(action="version.canary_end").exists()


def test_one_that_fails_ends_with_the_reason_measured_in_the_audit_log_and_an_alert(half: Deployment) -> None:
    setting_change(name="watch.email", value="ops@example.org", user=None)
    logged(100, half, failed=3)

    reason = canary_watch.canaries_check()

    assert reason == "3 of its latest 100 queries failed, 3.0 %; allowed: 2 %"
    assert not is_live(half)
    assert half.end_reason == f"stopped by itself: {reason}"
    assert champion().version.name == "1.0"
    event = AuditEvent.objects.get(action="version.canary_end")
    assert (event.actor_name, event.reason) == ("system", half.end_reason)
    told = Job.objects.get(kind="send_alert").payload
    assert told["way"] == "email"
    assert told["message"]["subject"] == "The trial of 2.0 was stopped"
    assert reason in told["message"]["text"]
    assert canary_watch.canaries_check() == ""  # once


@pytest.mark.parametrize(("failed", "is_ended"), [(1, False), (2, True)])
def test_before_the_least_queries_only_what_would_be_too_much_of_those_as_well_ends_it(
    half: Deployment, failed: int, is_ended: bool
) -> None:
    logged(5, half, failed=failed)  # allowed: 2 % of at least 50

    canary_watch.canaries_check()

    assert is_live(half) is not is_ended


def test_only_the_latest_queries_say_how_often_it_fails_now(
    half: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchapp.services.canary_stats.LATEST", 60)
    logged(200, half, begin=timezone.now() - timedelta(minutes=90))
    logged(60, half, begin=timezone.now() - timedelta(minutes=10), failed=2)

    assert "2 of its latest 60" in canary_watch.canaries_check()


def test_a_slow_one_ends(half: Deployment) -> None:
    logged(60, half, took_ms=21)
    logged(60, champion(), took_ms=10)

    reason = canary_watch.canaries_check()

    assert reason == ("its slowest 5 % take 21 ms or more, the champion's 10 ms; allowed: 2 times as long")
    assert not is_live(half)


@pytest.mark.parametrize(("of_candidate", "of_champion"), [(49, 60), (60, 49), (60, 0)])
def test_how_fast_it_is_is_not_judged_by_a_few_queries_of_either_arm(
    half: Deployment, of_candidate: int, of_champion: int
) -> None:
    logged(of_candidate, half, took_ms=100)
    logged(of_champion, champion(), took_ms=10)

    assert canary_watch.canaries_check() == ""


def test_one_whose_answers_are_shown_to_be_wrong_more_often_ends(half: Deployment) -> None:
    Deployment.objects.filter(pk=half.pk).update(stop_rule={"errors": None})
    shuffled(half, failing={"champion": 0.02, "candidate": 0.12})

    reason = canary_watch.canaries_check()

    assert reason.startswith("more of its answers are wrong or fail than of the champion's (p = ")
    assert not is_live(half)


@pytest.mark.parametrize(("minutes", "is_ended"), [(119, True), (121, False), (None, False)])
def test_it_ends_when_its_time_is_over(half: Deployment, minutes: int | None, is_ended: bool) -> None:
    Deployment.objects.filter(pk=half.pk).update(stop_rule={"minutes": minutes})

    reason = canary_watch.canaries_check()

    assert reason == ("its 119 minutes are over" if is_ended else "")


@pytest.mark.parametrize("part", ["errors", "p95_factor", "wrong"])
def test_what_a_rule_leaves_open_is_not_judged(half: Deployment, part: str) -> None:
    rule = {"errors": None, "p95_factor": None, "wrong": None}
    Deployment.objects.filter(pk=half.pk).update(stop_rule=rule)
    if part == "errors":
        logged(100, half, failed=50)
    elif part == "p95_factor":
        logged(100, half, took_ms=100)
        logged(100, champion(), took_ms=1)
    else:
        shuffled(half, failing={"champion": 0.0, "candidate": 0.2}, count=400)

    assert canary_watch.canaries_check() == ""


def test_a_candidate_in_the_shadow_ends_when_it_fails(data_dir: Path) -> None:
    shadow = began(candidate_deployed(is_shadow=True, share=0), hours=2)
    logged(4, champion(), shadow={"deployment": shadow.pk, "version": "2.0", "failed": "RuntimeError"})

    assert canary_watch.canaries_check().startswith("4 of its latest 4 queries failed")
    assert not is_live(shadow)


def test_a_fault_inside_the_arm_ends_it_and_every_shopper_had_an_answer(
    data_dir: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = canary(photos)
    assert search.search_by_image(data=photos[0], visitor="somebody").arm == "candidate"
    break_arm(monkeypatch, "candidate")

    answers = [search.search_by_image(data=photos[n % 6], visitor="somebody") for n in range(3)]
    query_log.flush()
    call_command("sweep", "--once")

    assert [answer.arm for answer in answers] == ["champion"] * 3
    assert all(answer.results for answer in answers)
    assert not is_live(deployment)
    assert deployment.end_reason.startswith("stopped by itself: 3 of its latest 4 queries failed, 75.0 %")
    assert search.search_by_image(data=photos[0], visitor="somebody").arm == "champion"


@pytest.mark.parametrize(
    ("fields", "judged"),
    [
        ({"share": 50}, ["queries fail", "slowest", "shown"]),
        ({"share": 100, "scope": {"vertical": "landmark"}}, ["queries fail", "slowest"]),
        ({"share": 0, "is_shadow": True}, ["queries fail"]),
    ],
)
def test_only_what_can_end_it_is_listed(data_dir: Path, fields: dict[str, Any], judged: list[str]) -> None:
    rule = rule_judged(candidate_deployed(**fields))

    said = rule_words(rule)

    assert len(said) == len(judged)
    assert all(part in words for part, words in zip(judged, said))


class TestRules:
    def test_what_is_not_said_is_as_usual(self) -> None:
        assert rule_checked(None) == DEFAULT_RULE
        assert rule_checked({"errors": 0.1, "minutes": 90}) == {**DEFAULT_RULE, "errors": 0.1, "minutes": 90}

    @pytest.mark.parametrize("name", BOUNDS)
    def test_each_part_keeps_to_its_bounds(self, name: str) -> None:
        low, high = BOUNDS[name]
        assert rule_checked({name: low})[name] == low
        assert rule_checked({name: high})[name] == high
        for value in (low - 1, high + 1, "0.1", True, float("nan"), [1]):
            with pytest.raises(InvalidInput, match=f"stop_rule: {name} is .*, allowed: ") as caught:
                rule_checked({name: value})
            assert list(caught.value.fields) == ["stop_rule"]

    @pytest.mark.parametrize(
        ("rule", "words"), [({"least_queries": None}, "least_queries"), ({"x": 1}, "'x'")]
    )
    def test_an_unknown_part_and_one_that_is_needed_are_refused(
        self, rule: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(InvalidInput, match=words):
            rule_checked(rule)

    def test_it_reads_as_sentences(self) -> None:
        assert rule_words({"minutes": 90}) == [
            "when more than 2 % of its latest queries fail, judged after 50",
            "when its slowest 5 % take 2 times as long as the champion's, judged after 50",
            "when it is shown, at level 0.05, that more of its answers are wrong or fail",
            "after 90 minutes",
        ]
        assert rule_words({"errors": None, "p95_factor": None, "wrong": None}) == []
