"""The sequential test of two shares: right however often one looks, and able to see what is there."""

from itertools import product

import numpy as np
import pytest

from ml.evaluation.sequential import PRIOR, Alternative, shares_compare

Shares = tuple[float, float]


def shown(shares: Shares, *, of_candidate: float, alternative: Alternative, queries: int = 3000) -> float:
    """In what part of 200 seeded runs the test said so, after any of the queries."""
    said = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        arm = rng.random(queries) < of_candidate
        outcomes = rng.random(queries) < np.where(arm, shares[1], shares[0])
        said += shares_compare(outcomes, arm, alternative=alternative).is_shown(0.05)
    return said / 200


@pytest.mark.parametrize("of_candidate", [0.1, 0.5])
@pytest.mark.parametrize("alternative", ["greater", "differs"])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_equal_arms_are_told_apart_in_less_than_one_run_of_twenty_although_one_looks_after_every_block(
    share: float, alternative: Alternative, of_candidate: float
) -> None:
    # Twice the standard error of 200 runs at 0.05 is 0.031.
    assert shown((share, share), of_candidate=of_candidate, alternative=alternative) <= 0.081


def test_a_share_that_drifts_in_both_arms_alike_is_not_taken_for_a_difference() -> None:
    said = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        arm = rng.random(2000) < np.linspace(0.05, 0.5, 2000)  # the candidate's part grows meanwhile
        outcomes = rng.random(2000) < np.where(np.arange(2000) < 1000, 0.02, 0.4)
        said += shares_compare(outcomes, arm, alternative="greater").is_shown(0.05)
    assert said / 200 <= 0.081


@pytest.mark.parametrize(
    ("shares", "of_candidate", "alternative", "least"),
    [
        ((0.05, 0.15), 0.1, "greater", 0.9),
        ((0.05, 0.10), 0.5, "greater", 0.9),
        ((0.30, 0.20), 0.5, "differs", 0.9),
    ],
)
def test_a_difference_that_is_there_is_found(
    shares: Shares, of_candidate: float, alternative: Alternative, least: float
) -> None:
    assert shown(shares, of_candidate=of_candidate, alternative=alternative) >= least


def test_a_candidate_that_does_better_is_never_shown_to_do_worse() -> None:
    assert shown((0.3, 0.2), of_candidate=0.5, alternative="greater") <= 0.05


def test_it_is_what_one_gets_block_by_block() -> None:
    rng = np.random.default_rng(3)
    arm, outcomes = rng.random(400) < 0.3, rng.random(400) < 0.2
    seen = {False: [0, 0], True: [0, 0]}  # hits, queries
    block: list[tuple[bool, bool]] = []
    won, most = 1.0, 1.0
    for is_candidate, outcome in zip(arm.tolist(), outcomes.tolist()):
        block.append((is_candidate, outcome))
        if len({of for of, _ in block}) < 2:
            continue
        share = {of: (hits + PRIOR) / (asked + 2 * PRIOR) for of, (hits, asked) in seen.items()}
        between = sum(share[of] for of, _ in block) / len(block)
        for of, hit in block:
            won *= (share[of] / between) if hit else (1 - share[of]) / (1 - between)
            seen[of][0] += hit
            seen[of][1] += 1
        most, block = max(most, won), []

    found = shares_compare(outcomes, arm, alternative="differs")

    assert found.evidence == pytest.approx(won)
    assert found.p_value == pytest.approx(1 / most)
    assert (found.champion, found.candidate) == (seen[False][1], seen[True][1])


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("alternative", ["greater", "differs"])
def test_nobody_can_expect_to_win_when_the_arms_are_equal(alternative: Alternative, chance: float) -> None:
    """Exactly, over every possible outcome of nine queries."""
    arm = np.array([0, 0, 1, 1, 0, 0, 1, 0, 1], dtype=bool)
    expected = 0.0
    for outcomes in product([False, True], repeat=len(arm)):
        hits = sum(outcomes)
        evidence = shares_compare(np.array(outcomes), arm, alternative=alternative).evidence
        expected += chance**hits * (1 - chance) ** (len(arm) - hits) * evidence
    assert expected <= 1 + 1e-9


def test_without_both_arms_nothing_is_known() -> None:
    for arm in ([], [False] * 5, [True] * 5):
        found = shares_compare(np.ones(len(arm), bool), np.array(arm, bool), alternative="greater")
        assert (found.p_value, found.evidence) == (1.0, 1.0)


def test_each_outcome_needs_its_arm() -> None:
    with pytest.raises(ValueError, match="2 outcomes but 1 arms"):
        shares_compare(np.ones(2, bool), np.ones(1, bool), alternative="greater")
