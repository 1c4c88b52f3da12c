"""The live strip: what each arm answered, counted as by hand, and honest about what can be compared."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.utils import timezone

from ml.evaluation.sequential import shares_compare
from searchapp.models import Deployment, Feedback, Query
from searchapp.services import canary_stats, catalogue
from searchapp.services.canary_rows import MOST_OUTCOMES, in_scope, outcomes_of, rows_of
from tests.searchapp.canaries import began, candidate_deployed, champion, logged, shuffled

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("data_dir")]


@pytest.fixture
def half(data_dir: Path) -> Deployment:
    """Half of the visitors for two hours."""
    return began(candidate_deployed(share=50), hours=2)


def test_there_is_no_strip_without_a_candidate(data_dir: Path) -> None:
    champion()

    assert canary_stats.strip() is None


def test_each_arm_is_counted_by_what_it_answered_since_the_candidate_began(half: Deployment) -> None:
    logged(20, half, failed=2, right=3, wrong=4, clicked=5, took_ms=20)
    logged(40, champion(), failed=1, right=1, wrong=2, clicked=10, took_ms=10)
    logged(7, champion(), begin=timezone.now() - timedelta(hours=3))  # before
    logged(9, champion(), kind="vector")  # always the champion's to answer

    found = canary_stats.strip()

    assert found is not None
    new, old = found.candidate, found.champion
    assert (new.version, new.queries, new.clicked, new.right, new.wrong, new.errors) == (
        "2.0",
        20,
        5,
        3,
        4,
        2,
    )
    assert (old.version, old.queries, old.clicked, old.right, old.wrong, old.errors) == (
        "1.0",
        40,
        10,
        1,
        2,
        1,
    )
    assert (new.p50_ms, new.p95_ms, old.p50_ms) == (20.0, 20.0, 10.0)
    assert (new.click_share, new.wrong_share, new.error_share) == (0.25, 0.3, 0.1)
    assert found.is_at_once
    assert "at the same time" in found.comparison


def test_an_answer_of_which_something_was_right_is_not_a_wrong_one(half: Deployment) -> None:
    (row,) = logged(1, half, right=1)
    row.refresh_from_db()
    Feedback.objects.create(query_id=row.pk, sku="apple-1", verdict="wrong")

    found = canary_stats.strip()

    assert found is not None
    assert (found.candidate.right, found.candidate.wrong) == (1, 0)


def test_times_are_percentiles_of_the_latest_answers(half: Deployment) -> None:
    begin = timezone.now() - timedelta(minutes=50)
    for number in range(1, 101):
        logged(1, half, begin=begin + timedelta(seconds=number), took_ms=float(number))
    logged(1, half, failed=1, took_ms=9999.0)

    found = canary_stats.strip()

    assert found is not None
    assert found.candidate.p50_ms == pytest.approx(50.5)
    assert found.candidate.p95_ms == pytest.approx(95.05)


def test_the_tests_see_a_candidate_that_does_worse_and_no_difference_where_there_is_none(
    half: Deployment,
) -> None:
    shuffled(half, failing={"champion": 0.02, "candidate": 0.12}, clicked=0.3)

    found = canary_stats.strip()

    assert found is not None
    assert found.wrong is not None
    assert found.clicks is not None
    assert found.wrong.is_shown(0.05)
    assert not found.clicks.is_shown(0.05)


def test_only_what_came_within_five_minutes_counts_in_a_test_and_no_younger_query(half: Deployment) -> None:
    old = logged(1, half, wrong=1, clicked=1)[0]
    late = logged(1, half, begin=timezone.now() - timedelta(minutes=30), wrong=1, clicked=1)[0]
    Feedback.objects.filter(query_id=late.pk).update(created_at=late.asked_at + timedelta(minutes=6))
    changed = logged(1, half, begin=timezone.now() - timedelta(minutes=20), right=1)[0]
    Feedback.objects.create(query_id=changed.pk, sku="b", verdict="wrong")
    failed = logged(1, champion(), begin=timezone.now() - timedelta(minutes=10), failed=1)[0]
    logged(1, half, begin=timezone.now() - timedelta(minutes=1), wrong=1)

    outcomes = outcomes_of(rows_of(half, timezone.now()), timezone.now())

    assert old.asked_at < late.asked_at < changed.asked_at < failed.asked_at
    assert outcomes.of_candidate.tolist() == [True, True, True, False]
    assert outcomes.wrong.tolist() == [True, False, False, True]
    assert outcomes.clicked.tolist() == [True, True, False, False]
    assert MOST_OUTCOMES >= 10_000


def test_each_visitor_counts_once_by_the_first_query_and_nobody_unknown_counts(half: Deployment) -> None:
    logged(30, half, wrong=30, clicked=30, visitor_hash="a" * 16)
    logged(30, half, failed=30, visitor_hash="")
    logged(2, champion(), visitor_hash="b" * 16)
    fallen_back = logged(1, half, begin=timezone.now() - timedelta(minutes=30), failed=1)[0]
    answered_at = fallen_back.asked_at + timedelta(milliseconds=1)
    logged(1, champion(), begin=answered_at, visitor_hash=fallen_back.visitor_hash)

    outcomes = outcomes_of(rows_of(half, timezone.now()), timezone.now())
    found = canary_stats.strip()

    assert sorted(zip(outcomes.of_candidate.tolist(), outcomes.wrong.tolist())) == [
        (False, False), (True, True), (True, True),
    ]  # fmt: skip
    assert outcomes.of_candidate.tolist()[-1]
    assert found is not None
    assert found.candidate.queries == 61  # all of them are figures
    assert "In the tests each visitor counts once" in found.comparison


def test_visitors_who_ask_often_raise_no_more_false_alarms_than_the_level() -> None:
    """Alike arms, a quarter of 300 visitors, 3,000 queries of which most are by few, who fail again and again."""
    alarms = {"queries": 0, "visitors": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        weight = rng.pareto(1.0, 300) + 0.1
        visitors = rng.choice(300, 3000, p=weight / weight.sum())
        of_candidate = (rng.random(300) < 0.25)[visitors]
        wrong = rng.random(3000) < rng.beta(0.3, 2.7, 300)[visitors]
        firsts = np.sort(np.unique(visitors, return_index=True)[1])
        for name, rows in (("queries", np.arange(3000)), ("visitors", firsts)):
            found = shares_compare(wrong[rows], of_candidate[rows], alternative="greater")
            alarms[name] += found.is_shown(0.05)

    assert alarms["visitors"] <= 0.05 * 200
    assert alarms["queries"] > 0.1 * 200


def test_a_canary_that_gets_everything_is_compared_with_as_long_a_time_before_and_not_tested(
    data_dir: Path,
) -> None:
    everything = began(candidate_deployed(), hours=2)
    logged(10, everything)
    logged(6, champion(), begin=timezone.now() - timedelta(hours=3))
    logged(5, champion(), begin=timezone.now() - timedelta(hours=5))

    found = canary_stats.strip()

    assert found is not None
    assert (found.candidate.queries, found.champion.queries) == (10, 6)
    assert not found.is_at_once
    assert (found.wrong, found.clicks) == (None, None)
    assert "no test is made" in found.comparison


@pytest.mark.parametrize(
    ("scope", "inside"),
    [
        ({}, {"all", "apple", "path", "fruit", "drink", "vertical", "place"}),
        ({"category": "fruit"}, {"apple", "path", "fruit"}),
        ({"category": "apple"}, {"apple", "path"}),
        ({"category": "gone"}, set()),
        ({"vertical": "product"}, {"apple", "path", "fruit", "drink", "vertical"}),
        ({"vertical": "landmark"}, {"place"}),
    ],
)
def test_a_scope_takes_the_queries_whose_filters_lie_inside(
    data_dir: Path, scope: dict[str, str], inside: set[str]
) -> None:
    for path in ("Fruit > Apple", "Drink"):
        catalogue.category_ensure(path)
    filters: dict[str, dict[str, Any]] = {
        "all": {},
        "apple": {"category": "apple"},
        "path": {"category": "Fruit > Apple"},
        "fruit": {"category": "fruit"},
        "drink": {"category": "drink"},
        "vertical": {"vertical": "product"},
        "place": {"vertical": "landmark", "category": "apple"},
    }
    for name, chosen in filters.items():
        logged(1, champion(), filters=chosen, text=name)
    if "category" in scope and inside:
        inside = inside | {"place"}

    assert set(in_scope(Query.objects.all(), scope).values_list("text", flat=True)) == inside


def test_a_candidate_in_the_shadow_is_shown_by_how_far_it_agrees(data_dir: Path) -> None:
    shadow = began(candidate_deployed(is_shadow=True, share=0), hours=2)
    said = {"deployment": shadow.pk, "version": "2.0", "skus": []}
    for overlap, is_alike in ((1.0, True), (0.5, False)):
        logged(1, champion(), shadow={**said, "overlap": overlap, "is_first_alike": is_alike, "took_ms": 8.0})
    logged(1, champion(), shadow={**said, "failed": "RuntimeError"})
    logged(2, champion(), shadow={**said, "deployment": 999, "failed": "RuntimeError"})  # an earlier one
    logged(4, champion())

    found = canary_stats.strip()

    assert found is not None
    assert found.agreement == canary_stats.Agreement(0.75, 0.5)
    assert (found.candidate.queries, found.candidate.errors, found.candidate.p50_ms) == (3, 1, 8.0)
    assert found.champion.queries == 9
    assert found.wrong is None
    assert "people see the answers of 1.0 alone" in found.comparison


def test_live_figures_are_of_the_last_minutes(data_dir: Path) -> None:
    logged(10, champion(), begin=timezone.now() - timedelta(minutes=2), failed=1, took_ms=12.0)
    logged(10, champion(), begin=timezone.now() - timedelta(minutes=7))

    found = canary_stats.live_figures()

    assert (found.queries_per_minute, found.errors, found.p50_ms, found.p95_ms) == (2.0, 1, 12.0, 12.0)


def test_without_a_query_nothing_is_made_up(half: Deployment) -> None:
    found = canary_stats.strip()

    assert found is not None
    assert found.candidate == canary_stats.ArmFigures("2.0")
    assert (found.candidate.click_share, found.candidate.wrong_share, found.candidate.error_share) == (
        None,
    ) * 3
    assert found.wrong is not None
    assert found.wrong.p_value == 1.0
