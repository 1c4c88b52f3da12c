"""From evidence to verdicts: value from rows, bounds from queries, Holm in families, headroom first."""

from typing import Any

import numpy as np
import pytest

from ml.experiments.claims import Claim, Question, Side, answer, meets, question_of
from ml.experiments.evidence import Evidence, evidence_of
from ml.experiments.ledger import RunRecord
from ml.experiments.statistics import Estimate, paired_difference
from tests.ml.experiments.planted import QUERIES, planted_runs


def question(**changes: Any) -> Question:
    fields: dict[str, Any] = {
        "id": "C2",
        "cell": "one - none",
        "statistic": "paired_recall_at_1",
        "setting": "digits",
        "a": Side("one", "recall_at_1"),
        "b": Side("none", "recall_at_1"),
        "target": "low > 0",
    }
    return Question(**fields | changes)


def only(found: list[Claim]) -> Claim:
    (claim,) = found
    return claim


def test_a_planted_gain_holds_with_the_rows_value_and_the_queries_bounds() -> None:
    runs = planted_runs()
    claim = only(answer([question()], evidence_of(runs)))
    one, none = (
        np.stack([run.per_query["recall_at_1"] for run in runs if run.name == name])
        for name in ("one", "none")
    )
    expected = paired_difference(one, none, np.arange(QUERIES) // 2, seed=0)

    assert claim.holds is True
    assert claim.estimate.value == pytest.approx(np.nanmean(one) - np.nanmean(none))
    assert (claim.estimate.low, claim.estimate.high) == (expected.low, expected.high)
    assert claim.estimate.low > 0
    assert (claim.estimate.n_seeds, claim.estimate.n_clusters) == (3, QUERIES // 2)


def test_the_reverse_and_no_gain_do_not_hold() -> None:
    reverse = question(a=Side("none", "recall_at_1"), b=Side("one", "recall_at_1"))
    same = only(answer([question()], evidence_of(planted_runs(gain=0.0))))

    assert only(answer([reverse], evidence_of(planted_runs()))).holds is False
    assert (same.holds, same.estimate.value) == (False, 0.0)


def test_a_level_and_a_value_without_queries_are_judged_too() -> None:
    level = question(cell="level", b=None, target="value >= 0.4")
    size = question(cell="bytes", a=Side("one", "bytes"), b=None, target="value <= 1001")
    found = answer([level, size], evidence_of(planted_runs()))

    assert [claim.holds for claim in found] == [True, True]
    assert found[1].estimate.value == 1001
    assert found[1].estimate.n_clusters == 1
    assert found[1].estimate.low == pytest.approx(1001 - 4.303 / np.sqrt(3), abs=0.15)  # three seeds, t of 2


def test_a_ratio_divides() -> None:
    evidence = evidence_of(planted_runs())
    ratio = only(answer([question(compare="ratio", target="value >= 1, low > 1")], evidence))
    values = [evidence.values(setting="digits", name=name, metric="recall_at_1") for name in ("one", "none")]
    one, none = (np.mean(list(found.values())) for found in values)

    assert ratio.estimate.value == pytest.approx(one / none)
    assert ratio.holds is True


def test_cells_of_a_family_share_the_error_and_a_cell_alone_does_not() -> None:
    evidence = evidence_of([*planted_runs(), *planted_runs("photos", gain=0.1)])
    cells = [
        question(),
        question(cell="photos", setting="photos"),
        question(cell="map", a=Side("one", "map")),
    ]
    cells[2] = question(cell="map", a=Side("one", "map"), b=Side("none", "map"))
    alone = answer(cells, evidence)
    family = answer([question_of(claim.as_json() | {"counted": claim.as_json()["counted"] | {"family": "all"}})
                     for claim in alone], evidence)  # fmt: skip
    widths = [
        (inside.estimate.high - inside.estimate.low) / (outside.estimate.high - outside.estimate.low)
        for inside, outside in zip(family, alone)
    ]

    assert max(widths) > 1.1
    assert min(widths) >= 1
    assert all(inside.estimate.p >= outside.estimate.p for inside, outside in zip(family, alone))


def test_without_headroom_a_cell_is_untestable_whatever_came_out() -> None:
    bound, old = Side("one", "map"), Side("none", "map")
    roomy = question(headroom=(Side("one", "recall_at_1"), Side("none", "recall_at_1")))
    cramped = question(headroom=(old, bound))
    found = answer([roomy], evidence_of(planted_runs())), answer([cramped], evidence_of(planted_runs()))

    assert [only(claims).holds for claims in found] == [True, "untestable"]


def test_only_seeds_that_both_sides_have_count() -> None:
    runs = [run for run in planted_runs() if (run.name, run.seed) != ("none", 2)]
    claim = only(answer([question()], evidence_of(runs)))

    assert claim.estimate.n_seeds == 2


def test_fewer_seeds_than_the_claim_was_registered_with_give_no_verdict() -> None:
    enough, too_few = (
        only(answer([question(min_seeds=count)], evidence_of(planted_runs()))) for count in (3, 4)
    )

    assert enough.estimate.n_seeds == 3
    assert (enough.holds, too_few.holds) == (True, "untestable")


def test_a_claim_object_holds_the_question_that_made_it() -> None:
    asked = question(
        headroom=(Side("one", "map"), Side("none", "map")), family="f", min_seeds=2, note="few pixels"
    )

    claim = only(answer([asked], evidence_of(planted_runs())))
    assert question_of(claim.as_json()) == asked


@pytest.mark.parametrize(
    ("target", "met"),
    [
        ("low > 0", True),
        ("low > 0.01", False),
        ("value >= 0.02, low > 0", True),
        ("value >= 0.02, low > 0.01", False),
        ("value <= 300000, high < 1e-1", True),
        ("low >= -0.003", True),
    ],
)
def test_a_target_is_met_when_every_term_is(target: str, met: bool) -> None:
    assert meets(target, Estimate(0.02, 0.01, 0.03, 0.004, 5, 100)) is met


def test_what_cannot_be_counted_is_refused_with_its_place() -> None:
    evidence = evidence_of(planted_runs())
    with pytest.raises(ValueError, match="C2/one - none: target 'better'"):
        question(target="better")
    with pytest.raises(ValueError, match=r"C2/one - none, setting 'digits': no seed has a row of .*two"):
        answer([question(a=Side("two", "recall_at_1"))], evidence)
    with pytest.raises(ValueError, match=r"cells stand twice: \[\('C2', 'one - none'\)\]"):
        answer([question(), question()], evidence)


def test_rows_that_contradict_their_queries_are_refused() -> None:
    evidence = evidence_of(planted_runs())
    rows = [dict(row) | {"recall_at_1": 0.99} for row in evidence.rows if row["name"] == "one"]
    rows += [dict(row) for row in evidence.rows if row["name"] == "none"]

    with pytest.raises(ValueError, match=r"by the rows but .* by the queries"):
        answer([question()], Evidence(rows, evidence.tables))


def test_runs_that_do_not_belong_together_are_refused() -> None:
    first, second = planted_runs()[:2]
    other = RunRecord("two", "digits", 0, {}, {"map": np.zeros(QUERIES)}, items=np.arange(QUERIES))

    with pytest.raises(ValueError, match="twice"):
        evidence_of([first, second, first])
    with pytest.raises(ValueError, match="run two, seed 0: its queries are not those"):
        evidence_of([first, second, other])
