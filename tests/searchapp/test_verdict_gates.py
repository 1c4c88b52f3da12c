"""Gates say what their limits allow, by the limits and the decisions of now; nothing is measured again for that."""

import math
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ml.evaluation.intervals import Interval
from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import AuditEvent, Category, FlipDecision, ModelVersion, Verdict
from searchapp.services import measuring, operator_settings, verdict_flips, verdicts
from searchapp.services.held_out import HeldOut, held_out_fingerprint
from searchapp.services.held_out_answers import NOBODY, Answers
from searchapp.services.measured_intervals import difference_of, turned
from searchapp.services.verdict_categories import (
    category_changes,
    category_rows,
    confidence_each,
    worst_loss,
)
from searchapp.services.verdict_costs import slowness
from searchapp.services.verdict_gates import allowing_for_unseen, gate_row, gates_now
from searchapp.services.verdict_report import first_of
from tests.searchapp.api_cast import user_make
from tests.searchapp.coded_rows import version_of

pytestmark = [pytest.mark.django_db, pytest.mark.database]
LOSS = {"name": "map_loss", "threshold": 0.01, "value": 0.02, "low": 0.015, "high": 0.03, "items": 40}
TURNED = "ab" * 32


def stored(*gates: dict[str, Any], flips: int = 1) -> Verdict:
    """The verdict on 2.0 beside 1.0, as if it had been measured with these gates."""
    first = version_of("1.0")
    report = {
        "gates": list(gates),
        "flips": {
            "queries": 40,
            "negative": flips,
            "examples": {"negative": [{"query": TURNED}], "positive": []},
        },
    }
    held_out = held_out_fingerprint([])
    version = version_of("2.0", parent=first)
    return Verdict.objects.create(version=version, against=first, held_out=held_out, report=report)


def asked(category: int, item: int) -> HeldOut:
    return HeldOut(uuid.uuid4().hex * 2, "", True, item, category, item)


def answers(right: Sequence[float]) -> Answers:
    values = {name: np.array(right, np.float64) for name in ("map", "recall_at_1", "recall_at_10", "mrr")}
    return Answers(values, np.full(len(right), NOBODY))


@pytest.mark.parametrize(
    ("difference", "items", "verdict"),
    [
        ([0.0] * 9, range(9), "cannot_tell"),  # no interval at all, of too few items
        ([0.0] * 10, range(10), "pass"),
        ([0.5] * 40, [0] * 40, "cannot_tell"),  # forty photos of one item
        ([-0.02] * 10, range(10), "fail"),
        ([-0.01] * 10, range(10), "pass"),  # at the limit
        ([-0.3, 0.3] * 10, range(20), "cannot_tell"),
        ([np.nan] * 10, range(10), "cannot_tell"),
    ],
)
def test_a_gate_fails_above_its_limit_passes_below_and_otherwise_nobody_can_tell(
    difference: list[float], items: Sequence[int], verdict: str
) -> None:
    own, other = np.array(difference) + 0.5, np.full(len(difference), 0.5)

    loss = turned(difference_of(own, other, np.array(items)))

    assert gate_row("map_loss", 0.01, loss)["verdict"] == verdict


def test_no_loss_among_few_items_does_not_say_that_rare_ones_lose_nothing() -> None:
    rng, limit = np.random.default_rng(0), 0.01
    passed = {}
    for items in (10, 30, 60):
        passed[items] = 0
        for _ in range(100):
            losses = np.where(rng.random(items) < 0.05, 0.6, 0.0)  # 0.03 in the mean
            loss = turned(difference_of(np.zeros(items), losses, np.arange(items)))
            passed[items] += gate_row("map_loss", limit, allowing_for_unseen(loss))["verdict"] == "pass"
    assert (passed[10], passed[30]) == (0, 0)
    assert passed[60] <= 10
    for items, verdict in ((58, "cannot_tell"), (59, "pass")):
        same = allowing_for_unseen(Interval(0.0, 0.0, 0.0, items))
        assert gate_row("map_loss", limit, same)["verdict"] == verdict
    assert (
        gate_row("map_loss", limit, allowing_for_unseen(Interval(-0.1, -0.15, -0.06, 10)))["verdict"]
        == "pass"
    )


def test_a_limit_that_an_operator_changes_judges_what_was_measured_anew() -> None:
    verdict = stored({**LOSS, "verdict": "fail"})
    assert [gate["verdict"] for gate in gates_now(verdict)] == ["fail"]

    for limit, word in ((0.02, "cannot_tell"), (0.03, "pass"), (0.014, "fail")):
        operator_settings.setting_change(name="gate.map_loss", value=limit, user=None, reason="to see")
        (gate,) = measuring.gates_of(verdict.version, verdict.against) or []
        assert (gate["threshold"], gate["verdict"]) == (limit, word)
    assert verdict.report["gates"][0]["threshold"] == 0.01


def test_an_answer_that_must_not_turn_blocks_until_that_is_taken_back() -> None:
    verdict, user = (
        stored({**LOSS, "high": 0.0, "low": 0.0, "value": 0.0, "verdict": "pass"}),
        user_make("olga"),
    )
    pair: dict[str, Any] = {"version": verdict.version, "against": verdict.against, "image_sha256": TURNED}

    with pytest.raises(InvalidInput, match="only with a reason"):
        verdict_flips.flip_decide(**pair, decision="block", user=user)
    verdict_flips.flip_decide(**pair, decision="block", user=user, reason=" our best seller ")

    blocked = gates_now(verdict)[-1]
    assert {name: blocked[name] for name in ("name", "threshold", "value", "verdict")} == {
        "name": "blocked_flips", "threshold": 0, "value": 1, "verdict": "fail",
    }  # fmt: skip
    decided = verdict_flips.decisions_of(verdict.version, verdict.against)[TURNED]
    assert (decided.decision, decided.reason, decided.created_by) == ("block", "our best seller", user)
    verdict.report["flips"]["negative_queries"] = ["cd" * 32]
    assert [gate["name"] for gate in gates_now(verdict)] == [
        "map_loss"
    ]  # it stays right by what was measured since
    verdict_flips.flip_decide(**pair, decision="accept", user=user)
    verdict.report["flips"]["negative_queries"] = [TURNED]
    assert [gate["name"] for gate in gates_now(verdict)] == ["map_loss"]
    assert verdict_flips.flip_decide(**pair, decision=None, user=user) is None
    assert verdict_flips.flip_decide(**pair, decision=None, user=user) is None
    assert not FlipDecision.objects.exists()
    told = AuditEvent.objects.filter(action="flip.decide").order_by("pk")
    assert [(event.before["decision"], event.after["decision"], event.reason) for event in told] == [
        (None, "block", "our best seller"),
        ("block", "accept", ""),
        ("accept", None, ""),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decision": "maybe"}, "it is 'maybe', allowed: accept, block or nothing"),
        ({"image_sha256": "cd" * 32}, "no answer to query 'cdcdcdcdcdcd' turned wrong between 1.0 and 2.0"),
    ],
)
def test_only_an_answer_that_turned_wrong_can_be_decided_on(changes: dict[str, str], words: str) -> None:
    verdict = stored()
    call: dict[str, Any] = {"image_sha256": TURNED, "decision": "accept", "user": None, **changes}

    with pytest.raises(InvalidInput, match=words):
        verdict_flips.flip_decide(version=verdict.version, against=verdict.against, **call)

    assert not FlipDecision.objects.exists()


def test_the_worst_category_fails_only_when_its_own_interval_does_though_many_are_looked_at() -> None:
    rng = np.random.default_rng(1)
    queries = [asked(category, 100 * category + n) for category in range(20) for n in range(6)]
    before = rng.uniform(0.4, 0.9, len(queries))
    after = before - rng.normal(0.0, 0.1, len(queries))
    after[:6] = before[:6] - 0.3 - 0.001 * np.arange(6)  # one category is far worse beyond doubt

    changes = category_changes(queries, before, after)

    level = confidence_each(20)
    assert level == pytest.approx(1 - 0.05 / 20)
    assert changes[0].category_id == 0
    assert [c.after - c.before for c in changes] == sorted(c.after - c.before for c in changes)
    lows, highs = [], []
    for category in range(20):
        losses = (before - after)[6 * category : 6 * category + 6]
        low, high = stats.t.interval(level, 5, losses.mean(), losses.std(ddof=1) / math.sqrt(6))
        (found,) = [change for change in changes if change.category_id == category]
        assert found.loss is not None
        assert (found.loss.low, found.loss.high) == pytest.approx((max(-1, low), min(1, high)), abs=1e-6)
        lows.append(max(-1, low))
        highs.append(min(1, high))
    worst = worst_loss(changes)
    assert worst is not None
    assert (worst.low, worst.high) == pytest.approx((max(lows), max(highs)), abs=1e-6)
    assert gate_row("worst_category", 0.03, worst)["verdict"] == "fail"
    calm = worst_loss(changes[1:])
    assert gate_row("worst_category", 0.03, calm)["verdict"] == "cannot_tell"


def test_a_category_of_few_queries_has_no_interval_and_one_of_a_single_item_that_of_its_photos() -> None:
    one_item = [asked(1, 7) for _ in range(6)]
    few = [asked(2, n) for n in range(4)]
    pairs = [asked(3, n // 2) for n in range(6)]  # two photos of each of three items
    queries = one_item + few + pairs
    losses = np.array([0.1, 0.2, 0.1, 0.2, 0.1, 0.2, *[0.9] * 4, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3])
    before = np.full(len(queries), 0.9)

    changes = {change.category_id: change for change in category_changes(queries, before, before - losses)}

    assert changes[2].loss is None
    assert worst_loss([changes[2]]) is None
    level = confidence_each(2)
    for category, values in ((1, losses[:6]), (3, np.array([0.1, 0.2, 0.3]))):
        error = values.std(ddof=1) / math.sqrt(len(values))
        low, high = stats.t.interval(level, len(values) - 1, values.mean(), error)
        loss = changes[category].loss
        assert loss is not None
        assert (loss.low, loss.high) == pytest.approx((max(-1, low), min(1, high)), abs=1e-6)


def test_categories_are_told_worst_first_with_what_changed() -> None:
    rows = [Category.objects.create(name=name, slug=name, path=name) for name in ("better", "worse")]
    queries = [asked(row.pk, item) for row in rows for item in range(5)]
    before = np.full(10, 0.5)
    after = np.array([0.75] * 5 + [0.25] * 4 + [np.nan])

    told = category_rows(category_changes(queries, before, after))

    assert [(row["slug"], row["n"], row["before"], row["after"], row["change"]) for row in told] == [
        ("worse", 4, 0.5, 0.25, -0.25),
        ("better", 5, 0.5, 0.75, 0.25),
    ]
    assert [(row["low"], row["high"]) for row in told] == [(None, None), (0.25, 0.25)]


def test_flips_are_counted_both_ways_and_none_at_all_is_not_taken_for_never() -> None:
    queries = [asked(1, n) for n in range(20)]
    items = np.array([query.cluster for query in queries])
    before = answers([1.0] * 18 + [0.0, np.nan])
    after = answers([0.0] * 2 + [1.0] * 17 + [np.nan])

    told = verdict_flips.flips_row(queries, before, after, items)

    assert [told[name] for name in ("negative", "positive", "queries")] == [2, 1, 19]
    assert told["negative_rate"] == pytest.approx(2 / 19, abs=1e-6)
    assert [one["query"] for one in told["examples"]["positive"]] == [queries[18].image_sha256]
    assert len(told["examples"]["negative"]) == 2
    never = verdict_flips.negative_rate(before, before, items)
    assert never is not None
    assert (never.value, never.low) == (0.0, 0.0)
    assert (1 - never.high) ** 19 == pytest.approx(0.025)  # so many independent items may well hide it


def test_examples_are_the_answers_that_lose_most() -> None:
    queries = [asked(1, n) for n in range(70)]
    before, after = answers([1.0] * 70), answers([0.0] * 70)
    losses = np.random.default_rng(0).permutation(70) / 100
    after.values["map"] = before.values["map"] - losses

    told = verdict_flips.flips_row(queries, before, after, np.arange(70))

    worst = [queries[at].image_sha256 for at in np.argsort(-losses)[:60].tolist()]
    assert [one["query"] for one in told["examples"]["negative"]] == worst
    turned = sorted(queries[at].image_sha256 for at in np.flatnonzero(losses >= 0).tolist())
    assert told["negative_queries"] == turned  # all of them, so that a decision on any counts


def test_a_query_may_take_so_many_times_as_long_and_no_more() -> None:
    rng = np.random.default_rng(0)
    times = rng.uniform(1.0, 1.1, 40)

    twice = slowness(2.5 * times, times)

    assert isinstance(twice, Interval)
    assert twice.value == pytest.approx(2.5)
    assert twice.low <= 2.5 <= twice.high
    assert gate_row("latency", 2.0, twice)["verdict"] == "fail"
    assert gate_row("latency", 2.6, twice)["verdict"] == "pass"
    assert gate_row("latency", 2.0, slowness(times[:9], times[:9]))["verdict"] == "cannot_tell"
    assert slowness(times[:0], times[:0]) is None


def test_a_version_is_not_judged_beside_itself() -> None:
    version = version_of("1.0")
    with pytest.raises(Conflict, match="beside itself"):
        verdicts.verdict_make(version, version)


@pytest.mark.parametrize(
    ("version", "against", "first"),
    [
        ("2.0", "1.0", None),
        ("2.0", "1.2", "1.0"),
        ("1.2", "1.1", "1.0"),
        ("1.1", "1.0", None),
        ("3.0", "2.1", "2.0"),
    ],
)
def test_the_loss_over_a_chain_is_told_since_the_version_the_increments_began_with(
    version: str, against: str, first: str | None
) -> None:
    made: dict[str, ModelVersion] = {}
    for name in ("1.0", "1.1", "1.2", "2.0", "2.1", "3.0"):
        made[name] = version_of(name, parent=made.get("1.0"))

    found = first_of(made[version], made[against])

    assert (found and found.name) == first
