"""Growth with the stored codes: made-up catalogues of two sizes cost an update the same, and the claim says so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.experiments.claims import answer
from ml.experiments.evidence import evidence_of
from ml.experiments.ledger import Ledger, RunRecord
from ml.experiments.lifelong.arms import UPDATE
from ml.experiments.lifelong.growth import (
    NEW_ITEMS,
    SEEDS,
    SETS,
    SIZES,
    generation_of,
    growth_questions,
    kept_bytes,
    measured_growth,
    planned_growth,
    stored_codes,
)
from ml.experiments.protocol import Options
from ml.methods.lifelong.statistics import CodeStatistics

SMALL, LARGE = 400, 2_000


def test_made_up_codes_stay_near_the_codeword_of_their_label_set() -> None:
    stored = stored_codes(LARGE, seed=0)
    statistics = CodeStatistics.of(stored.sets, stored.codes)
    words = statistics.codewords()
    flipped = [(code != words[labels]).mean() for code, labels in zip(stored.codes, stored.sets, strict=True)]
    assert {tally.items for tally in statistics.tallies.values()} == {LARGE // SETS}
    assert len(words) == SETS
    assert np.mean(flipped) == pytest.approx(0.05, abs=0.005)
    np.testing.assert_array_equal(stored.codes, stored_codes(LARGE, seed=0).codes)
    assert (stored.codes != stored_codes(LARGE, seed=1).codes).any()


def test_a_generation_keeps_as_many_bytes_of_many_codes_as_of_few() -> None:
    few, many = (
        generation_of(CodeStatistics.of(stored.sets, stored.codes), UPDATE, seed=0)
        for stored in (stored_codes(SMALL, seed=0), stored_codes(LARGE, seed=0))
    )
    assert many.statistics.items == 5 * few.statistics.items
    assert kept_bytes(many) == kept_bytes(few)
    assert kept_bytes(few) > 200 * 128 * 128 * 4  # the covariances alone


def test_a_run_measures_each_size_of_a_catalogue_and_trains_as_many_steps_at_all() -> None:
    config = replace(UPDATE, refit_items=100, rounds=1, final_epochs=0)
    record = measured_growth({"10k": SMALL, "1m": LARGE}, 1, config, 3, Path("unused"))
    values = record.values
    assert (record.name, record.setting, record.seed) == ("growth", "growth", 3)
    assert values["epoch_steps_10k"] == values["epoch_steps_1m"] == 13 * NEW_ITEMS // config.batch
    assert values["kept_bytes_10k"] == values["kept_bytes_1m"]
    for name in (
        "step_ms",
        "memory_mb",
        "update_seconds",
        "statistics_seconds",
        "digest_seconds",
        "gate_seconds",
    ):
        assert float(values[f"{name}_10k"]) >= 0
        assert float(values[f"{name}_1m"]) > 0


def growing(*, seeds: int, step: float, memory: float) -> list[RunRecord]:
    """Runs in which a step takes 5 ms and memory is 100 MB at ten thousand codes, and so many times that at most."""
    values = {
        "step_ms_10k": 5.0,
        "step_ms_1m": 5 * step,
        "memory_mb_10k": 100.0,
        "memory_mb_1m": 100 * memory,
    }
    return [RunRecord(name="growth", setting="growth", seed=seed, values=values) for seed in range(seeds)]


def test_time_and_memory_may_grow_by_a_tenth() -> None:
    evidence = evidence_of(growing(seeds=SEEDS, step=1.05, memory=1.2))
    time, memory = answer(growth_questions(evidence), evidence)
    assert (time.question.id, time.question.statistic) == ("C6e", "step_growth_ratio")
    assert time.estimate.value == pytest.approx(1.05)
    assert time.holds is True
    assert memory.estimate.value == pytest.approx(1.2)
    assert memory.holds is False


def test_too_few_seeds_leave_the_claim_open_and_no_run_leaves_it_unasked() -> None:
    evidence = evidence_of(growing(seeds=SEEDS - 1, step=1.0, memory=1.0))
    assert [claim.holds for claim in answer(growth_questions(evidence), evidence)] == ["untestable"] * 2
    assert growth_questions(evidence_of([])) == []


def test_five_seeds_are_planned_with_all_sizes_and_a_smoke_run_leaves_out_the_million(tmp_path: Path) -> None:
    options = Options(seeds=tuple(range(10)), smoke=False, threads=1, ledger=Ledger(tmp_path))
    runs = planned_growth(options)
    assert [run.seed for run in runs] == [0, 1, 2, 3, 4]
    assert runs[0].identity["sizes"] == SIZES == {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}
    assert "1m" not in planned_growth(replace(options, smoke=True))[0].identity["sizes"]
