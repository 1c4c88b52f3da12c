"""The update gate: what blocks an increment, what does not, and what it would have seen."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ml.evaluation.intervals import Interval
from ml.methods.lifelong.gate import (
    Gate,
    GateInput,
    gain_gate,
    increment_gates,
    loss_gate,
    may_publish,
    weights_gate,
)

ITEMS = np.arange(40)
WEIGHTS = {"image.weight": np.ones((3, 4), np.float32), "text.bias": np.zeros(5, np.float32)}


def answered(old: float, new: float, codes: str = "aa11", entries: int = 4752) -> GateInput:
    """Forty old and forty new queries with these mean precisions; what spreads is the same for every version."""
    spread = np.linspace(-0.1, 0.1, 40)
    return GateInput(
        old_codes=codes, old_entries=entries, old_precision=old + spread, new_precision=new + spread
    )


def gates(before: GateInput, after: GateInput, **changed: Any) -> dict[str, Gate]:
    given: dict[str, Any] = {"old_items": ITEMS, "new_items": ITEMS, "weights": WEIGHTS} | changed
    return {gate.name: gate for gate in increment_gates(before, after, **given)}


def test_an_increment_that_only_gains_passes_every_gate() -> None:
    found = gates(answered(0.8, 0.2), answered(0.8, 0.6))

    assert {name: gate.verdict for name, gate in found.items()} == {
        "old_codes_changed": "pass",
        "weights_not_finite": "pass",
        "old_query_map_loss": "pass",
        "new_class_gain": "pass",
    }
    assert may_publish(list(found.values()))
    assert found["old_codes_changed"].note == "4,752 old codes checked, 0 changed"
    assert found["new_class_gain"].value == pytest.approx(0.4)


@pytest.mark.parametrize(("codes", "entries"), [("bb22", 4752), ("aa11", 4751)])
def test_one_changed_or_missing_old_code_blocks_whatever_else_was_gained(codes: str, entries: int) -> None:
    found = gates(answered(0.8, 0.2), answered(0.9, 0.9, codes, entries))
    assert found["old_codes_changed"].verdict == "fail"
    assert [gate.verdict for gate in found.values()].count("fail") == 1
    assert not may_publish(list(found.values()))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_blocks_and_is_named(wrong: float) -> None:
    broken = WEIGHTS | {"image.weight": np.array([1.0, wrong], np.float32)}
    gate = weights_gate(broken)
    assert (gate.verdict, gate.value, gate.items) == ("fail", 1.0, 7)
    assert gate.note == "1 of 7 weights are not finite (in image.weight)"
    assert weights_gate(WEIGHTS).verdict == "pass"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.02, 0.01, "pass"),  # at most the limit
        (-0.02, 0.0101, "cannot_tell"),
        (0.01, 0.05, "cannot_tell"),
        (0.0101, 0.05, "fail"),
    ],
)
def test_old_queries_may_lose_a_hundredth(low: float, high: float, verdict: str) -> None:
    assert loss_gate(Interval((low + high) / 2, low, high, 40)).verdict == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0001, 0.3, "pass"),
        (0.0, 0.3, "cannot_tell"),
        (-0.1, 0.0, "cannot_tell"),
        (-0.1, -0.0001, "fail"),
    ],
)
def test_new_categories_must_not_be_found_worse_than_before(low: float, high: float, verdict: str) -> None:
    assert gain_gate(Interval((low + high) / 2, low, high, 40)).verdict == verdict


def test_what_nobody_can_tell_is_published_and_what_fails_is_not() -> None:
    untold = loss_gate(Interval(0.01, -0.1, 0.1, 40))
    failed = loss_gate(Interval(0.1, 0.05, 0.2, 40))
    assert may_publish([untold])
    assert not may_publish([untold, failed])
    with pytest.raises(ValueError, match="there are no gates"):
        may_publish([])


def test_a_loss_on_old_queries_is_positive_and_blocks() -> None:
    found = gates(answered(0.80, 0.2), answered(0.75, 0.6))
    loss = found["old_query_map_loss"]
    assert loss.value == pytest.approx(0.05)
    assert loss.verdict == "fail"
    assert not may_publish(list(found.values()))
    allowed = gates(answered(0.80, 0.2), answered(0.75, 0.6), map_loss_limit=0.06)
    assert allowed["old_query_map_loss"].verdict == "pass"


def test_the_gate_fails_just_above_the_loss_it_says_it_would_have_seen() -> None:
    seen_from = loss_gate(Interval(0.004, -0.003, 0.011, 40)).seen_from
    assert seen_from is not None
    assert seen_from == pytest.approx(0.017)
    for above, verdict in ((1e-6, "fail"), (-1e-6, "cannot_tell")):
        value = seen_from + above
        assert loss_gate(Interval(value, value - 0.007, value + 0.007, 40)).verdict == verdict

    seen_from = gain_gate(Interval(0.05, 0.01, 0.08, 40)).seen_from
    assert seen_from is not None
    assert seen_from == pytest.approx(-0.03)
    for above, verdict in ((1e-6, "cannot_tell"), (-1e-6, "fail")):
        value = seen_from + above
        assert gain_gate(Interval(value, value - 0.04, value + 0.03, 40)).verdict == verdict


def test_photos_of_one_item_are_one_piece_of_evidence() -> None:
    rng = np.random.default_rng(0)
    before = answered(0.8, 0.2)
    after = replace(before, old_precision=before.old_precision - 0.03 + np.repeat(rng.normal(0, 0.04, 10), 4))
    alone = gates(before, after)["old_query_map_loss"]
    together = gates(before, after, old_items=ITEMS // 4)["old_query_map_loss"]
    assert (alone.items, together.items) == (40, 10)
    assert alone.high is not None
    assert together.high is not None
    assert together.high - together.value > 1.5 * (alone.high - alone.value)  # type: ignore[operator]


def test_too_few_items_or_none_tell_nothing() -> None:
    before, after = answered(0.8, 0.2), answered(0.1, 0.0)
    few = gates(before, after, old_items=ITEMS // 5, new_items=ITEMS // 5)  # eight items
    assert [gate.verdict for gate in few.values()] == ["pass", "pass", "cannot_tell", "cannot_tell"]
    assert few["old_query_map_loss"].value == pytest.approx(0.7)
    assert (
        few["old_query_map_loss"].note
        == "held-out photos show 8 items of old categories, at least 10 are needed"
    )

    nothing = replace(before, new_precision=np.full(40, np.nan))
    none = gates(nothing, after)["new_class_gain"]
    assert (none.verdict, none.value, none.items, none.seen_from) == ("cannot_tell", None, 0, None)


def test_queries_that_do_not_match_are_refused() -> None:
    before, after = answered(0.8, 0.2), answered(0.8, 0.6)
    with pytest.raises(ValueError, match="40 and 40 values of 39 queries"):
        gates(before, after, old_items=ITEMS[:39])
    with pytest.raises(ValueError, match="40 and 39 values of 40 queries"):
        gates(before, replace(after, new_precision=after.new_precision[:39]))


def test_a_gate_is_plain_json() -> None:
    assert loss_gate(Interval(0.1234567891, 0.1, 0.15, 12)).as_json() == {
        "name": "old_query_map_loss",
        "threshold": 0.01,
        "value": 0.123457,
        "low": 0.1,
        "high": 0.15,
        "verdict": "fail",
        "items": 12,
        "note": "old queries lose 0.1235 of mean average precision (0.1000 to 0.1500, at most 0.01 allowed); "
        "a loss of more than 0.0335 would have been seen",
        "seen_from": 0.033457,
    }
