"""Hard negatives at equal cost: which arms are planned, what a run measures, how the arms are told apart."""

from pathlib import Path

import numpy as np
import pytest

from ml.base_version.recipe import Recipe
from ml.config import config_from_dict
from ml.experiments.corrector.base_training import (
    AS_LONG,
    ASKING,
    NEGATIVES,
    PLAIN,
    base_training_tables,
    planned_base_training,
)
from ml.experiments.data import Dataset
from ml.experiments.evidence import evidence_of
from ml.experiments.ledger import Ledger, RunRecord
from ml.experiments.protocol import Options, PlannedRun


def planned(small_grocery: Dataset, folder: Path, *, smoke: bool) -> list[PlannedRun]:
    options = Options(seeds=(0, 1, 2, 3), smoke=smoke, threads=1, ledger=Ledger(folder))
    return planned_base_training([small_grocery], options)


def test_arms_of_equal_cost_are_planned_for_three_seeds_and_only_one_of_them_asks(
    small_grocery: Dataset, tmp_path: Path
) -> None:
    runs = planned(small_grocery, tmp_path, smoke=False)

    arms = [PLAIN, ASKING, AS_LONG]
    assert [(run.setting, run.seed, run.name) for run in runs] == [
        ("base training/grocery", seed, arm)
        for seed in range(3)
        for arm in arms
        if arm != AS_LONG or not seed
    ]
    recipes = {run.name: config_from_dict(Recipe, run.identity["recipe"]) for run in runs}
    assert {name: recipe.fit.epochs for name, recipe in recipes.items()} == dict(zip(arms, (24, 19, 19)))
    assert {name: recipe.negatives for name, recipe in recipes.items()} == {
        PLAIN: None, ASKING: NEGATIVES, AS_LONG: None,
    }  # fmt: skip
    assert recipes[PLAIN].method.kind == "twin-bottleneck"
    assert [run.identity["recipe"]["seed"] for run in runs] == [run.seed for run in runs]


def test_a_run_asks_both_tasks_and_says_what_it_cost(small_grocery: Dataset, tmp_path: Path) -> None:
    runs = planned(small_grocery, tmp_path, smoke=True)
    first = next(run for run in runs if run.name == ASKING)
    record = first.work(tmp_path / "checkpoint")

    assert not (tmp_path / "checkpoint").exists()
    assert float(record.values["processor_seconds"]) > 0
    assert record.values["epochs"] == 2
    assert float(record.values["negatives_task"]) > 0
    known = {name: ~np.isnan(values) for name, values in record.per_query.items()}
    assert set(known) == {
        f"{task}_{metric}" for task in ("choosing", "final") for metric in ("map", "recall_at_1")
    }
    assert (known["choosing_map"] ^ known["final_map"]).all()
    assert record.items is not None
    assert len(record.items) == len(known["final_map"])
    assert record.values["final_map"] == pytest.approx(np.nanmean(record.per_query["final_map"]))


def test_the_arm_that_asks_is_compared_query_by_query_with_both_others() -> None:
    def record(name: str, seed: int, better: float) -> RunRecord:
        """Two choosing queries, then four final ones; every value `better` than 0.5 by name."""
        values = np.full(6, 0.5 + better) + 0.01 * seed
        choosing, final = values.copy(), values.copy()
        choosing[2:] = final[:2] = np.nan
        per_query = {"choosing_map": choosing, "choosing_recall_at_1": choosing,
                     "final_map": final, "final_recall_at_1": final - 0.1}  # fmt: skip
        means = {metric: float(np.nanmean(own)) for metric, own in per_query.items()}
        return RunRecord(
            name=name, setting="base training/grocery", seed=seed, per_query=per_query, items=np.arange(6),
            values={"epochs": 7, "processor_seconds": 40.0 + seed} | means,
        )  # fmt: skip

    arms = {PLAIN: 0.1, ASKING: 0.2, AS_LONG: 0.05}
    evidence = evidence_of([record(name, seed, by) for name, by in arms.items() for seed in range(2)])
    reached, differences = base_training_tables(evidence)

    assert reached["rows"][0] == {
        "data": "grocery", "arm": "plain", "epochs": 7, "processor seconds": 40.5, "mAP, choosing": 60.5,
        "Recall@1, choosing": 60.5, "mAP, final": 60.5, "Recall@1, final": 50.5,
    }  # fmt: skip
    assert [row["arm"] for row in reached["rows"]] == [PLAIN, ASKING, AS_LONG]
    assert [(row["against"], row["seeds"], row["mAP, final"]) for row in differences["rows"]] == [
        (PLAIN, 2, "+10.0 (+10.0 to +10.0)"), (AS_LONG, 2, "+15.0 (+15.0 to +15.0)"),
    ]  # fmt: skip
    assert [table["rows"] for table in base_training_tables(evidence_of([]))] == [[], []]
