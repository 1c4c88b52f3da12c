"""What the fine-tunings of the corrector experiment measure, and what their claims ask."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.data.images import ImageSet
from ml.experiments.claims import answer
from ml.experiments.corrector.training_arms import (
    ALONE,
    FASTER,
    JOINT,
    OURS,
    PERIODIC,
    PLAIN,
    STALE,
    Arm,
    ablations,
    claimed_arms,
    described_arms,
    main_arms,
    noisy_arms,
)
from ml.experiments.corrector.training_asking import training_questions
from ml.experiments.corrector.training_bases import Ground, encoder_of, ground_of, planned_base, recipe
from ml.experiments.corrector.training_presenting import training_plots, training_tables
from ml.experiments.corrector.training_runs import FINAL_PAIRS, Task, measure
from ml.experiments.corrector.training_study import planned_training
from ml.experiments.data import Dataset, Part
from ml.experiments.evidence import Evidence, evidence_of
from ml.experiments.ledger import Ledger, RunRecord, identity_key
from ml.experiments.protocol import Options
from ml.methods.corrector.baselines import CachedTargets, InBatch, Landmarks, NegativeCache, UniformTargets
from ml.methods.corrector.joint import CorrectedCache

CLASSES = 4
STEPS = 8


def part(count: int, seed: int, names: str = "abcd") -> Part:
    """Squares in four places, one for each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = rng.integers(0, 60, (count, 1, 28, 28)).astype(np.uint8)
    for row, label in enumerate(labels):
        down, right = 14 * (label // 2), 14 * (label % 2)
        pixels[row, 0, down + 3 : down + 11, right + 3 : right + 11] += 150
    images = ImageSet(
        torch.from_numpy(pixels),
        torch.from_numpy(labels),
        tuple(names),
        ("made",) * count,
        f"{count} {seed}",
    )
    return Part(images, np.arange(count))


@pytest.fixture(scope="module")
def ground() -> Ground:
    dataset = Dataset("made", "digits", part(40, 1), part(8, 2), part(12, 3), None, None, "made")
    return ground_of(dataset, "made")


def measured(ground: Ground, arm: Arm, folder: Path) -> RunRecord:
    options = Options(seeds=(0,), smoke=True, threads=1, ledger=Ledger(folder))
    made_by = recipe(ground, precision="float32", smoke=True)
    base = encoder_of(ground, planned_base(ground, made_by, 0), made_by, options)
    joint = replace(arm.joint, refresh=2, check_every=3, probe=5)
    short = replace(arm, steps=STEPS, joint=joint)
    return measure(Task(short, ground, "training/made", 0, base, "float32"), folder / "none")


def arm(name: str) -> Arm:
    every = [*main_arms(), *described_arms(), *ablations(), *noisy_arms()]
    return next(one for one in every if one.name == name)


def test_entries_are_all_that_is_not_test_and_at_most_so_many_of_a_class(ground: Ground) -> None:
    assert (len(ground.entries), len(ground.queries)) == (48, 12)
    dataset = Dataset("made", "digits", part(40, 1), part(8, 2), part(12, 3), None, None, "made")
    few = ground_of(dataset, "few", per_class=3)
    assert torch.bincount(few.entries.labels).tolist() == [3, 3, 3, 3]
    assert few.fingerprint != ground.fingerprint


def test_a_row_of_ours_counts_every_extra_encode_and_what_it_closed(ground: Ground, tmp_path: Path) -> None:
    record = measured(ground, arm(OURS), tmp_path)
    own, values = record.per_query, record.values

    # Two looks at a probe of five at steps 3 and 6, one in the last report, and the pairs of the last fit: all items.
    uniform = float(values["extra_encodes"]) - 3 * 5 - min(FINAL_PAIRS, 48)
    # Every step encodes a fiftieth again of what its loss did, rounded: one for 25 to 74 targets, else none.
    assert 0 <= uniform <= STEPS
    assert float(values["trained_encodes"]) <= STEPS * 48
    assert np.array_equal(own["gap_closed"], own["overlap"] - own["overlap_stale"])
    assert np.array_equal(own["gap"], 1 - own["overlap_stale"])
    assert not np.isnan(own["overlap"]).any()  # fewer than a hundred queries: all are compared
    assert values["recall_at_1"] == pytest.approx(own["recall_at_1"].mean())
    assert set(np.unique(own["recall_at_1_view"])) <= {0.0, 1.0}
    assert "recall_at_1_exported" in own


def test_what_is_encoded_anew_at_each_step_chooses_as_fresh_embeddings_do(
    ground: Ground, tmp_path: Path
) -> None:
    exhaustive = replace(arm(PERIODIC), times=STEPS)
    record = measured(ground, exhaustive, tmp_path)
    assert record.per_query["overlap"].mean() > 0.98  # less only where float16 makes ties
    assert record.values["extra_encodes"] == STEPS * 48
    stale = measured(ground, arm(STALE), tmp_path)
    assert np.array_equal(stale.per_query["gap_closed"], np.zeros(12))
    assert stale.values["extra_encodes"] == 0
    # The same seed, the same base: the two differ in what they choose alone.
    assert stale.values["recall_at_1_base"] == record.values["recall_at_1_base"]


def test_what_sees_nothing_of_the_catalogue_has_no_overlap(ground: Ground, tmp_path: Path) -> None:
    record = measured(ground, arm("in batch"), tmp_path)
    assert record.values["extra_encodes"] == 0
    assert not {"overlap", "recall_at_1_view"} & set(record.per_query)


def test_a_plan_holds_each_run_once_under_a_name_the_ledger_can_keep(tmp_path: Path) -> None:
    datasets = [
        Dataset(title, "digits", part(40, 1, names), part(8, 2, names), part(12, 3, names), None, None, title)
        for title, names in (("fashion_mnist", "abcd"), ("mnist", "efgh"))
    ]
    options = Options(seeds=tuple(range(5)), smoke=False, threads=1, ledger=Ledger(tmp_path))
    runs = planned_training(datasets, options)
    keys = {identity_key(run.full_identity("corrector", smoke=False)) for run in runs}
    assert len(keys) == len(runs) == len({(run.setting, run.name, run.seed) for run in runs})
    places = {run.setting for run in runs if run.name == OURS}
    assert places == {
        "training/fashion_mnist", "training/fashion_mnist, 5,000 items", "training/mnist",
        "training/fashion_mnist and mnist",
    }  # fmt: skip
    assert {run.seed for run in runs} == {0, 1, 2}
    assert not list(tmp_path.iterdir())  # nothing was trained


def test_every_arm_is_the_policy_that_its_name_says() -> None:
    kinds = {
        OURS: CorrectedCache, PLAIN: CorrectedCache, PERIODIC: CachedTargets, STALE: CachedTargets, "in batch": InBatch,
        "uniform": UniformTargets, "negative cache": NegativeCache, "landmarks, ridge": Landmarks,
        "landmarks, rotation": Landmarks, "re-embedded 4 times": CachedTargets,
    }  # fmt: skip
    cache = torch.nn.functional.normalize(torch.randn(60, 8), dim=1).half()

    class Items:
        def __len__(self) -> int:
            return 60

    for name, kind in kinds.items():
        policy = arm(name).policy(Items(), cache, 0)  # type: ignore[arg-type]
        assert type(policy) is kind, name
    periods = {name: arm(name).policy(Items(), cache, 0).period for name in (STALE, PERIODIC)}  # type: ignore[arg-type,attr-defined]
    assert periods == {STALE: 0, PERIODIC: 20}
    assert (arm(OURS).joint, arm(PLAIN).joint.remembered) == (JOINT, 0)
    assert [one.name for one in claimed_arms()] == [OURS, PERIODIC, STALE]
    assert arm(f"{OURS}, 40% wrong labels").noise == 0.4
    assert arm(FASTER).learning_rate == 1e-3


def rows(items: int, *, gains: float) -> Evidence:
    """Three seeds of 40 queries; `gains`: Recall@1 of re-embedding above the stale arm's."""
    records = []
    for seed in range(3):
        for name, recall, closed, extra in (
            (OURS, 0.9, 0.6, 100), (PERIODIC, 0.9, 0.7, 9_000), (STALE, 0.9 - gains, 0.0, 0), (FASTER, 0.9, 0.2, 100),
            (PLAIN, 0.9, 0.3, 90), (ALONE, 0.9, 0.4, 80),
        ):  # fmt: skip
            per_query = {
                metric: np.full(40, value)
                for metric, value in (
                    ("recall_at_1", recall), ("recall_at_1_view", recall - 0.01), ("recall_at_1_stale", 0.5),
                    ("gap_closed", closed), ("gap", 0.8),
                )
            }  # fmt: skip
            values = {metric: float(own[0]) for metric, own in per_query.items()}
            counts = {"items": items, "extra_encodes": extra, "trained_encodes": 50, "training_seconds": 1.0}
            records.append(
                RunRecord(name, "training/made", seed, values | counts, per_query, items=np.arange(40))
            )
    return evidence_of(records)


def test_claims_are_asked_of_large_catalogues_and_need_headroom() -> None:
    assert training_questions(rows(59_999, gains=0.1)) == []
    evidence = rows(60_000, gains=0.01)
    found = answer(training_questions(evidence), evidence)
    claims = {claim.question.cell: claim for claim in found}
    assert claims["made, catalogue encoded anew"].holds == "untestable"
    assert claims["made, catalogue corrected, no image opened"].holds is True
    assert claims["made, catalogue corrected, no image opened"].estimate.value == pytest.approx(0.89 / 0.9)
    assert {claim.question.id: claim.holds for claim in found if claim.question.cell == "made"} == {
        "C11b": True,
        "C11c": True,
    }
    faster = claims["made, learning rate 0.001"]
    assert faster.holds is False
    assert faster.estimate.value == pytest.approx(0.25)
    told = next(
        question.note
        for question in training_questions(evidence)
        if question.cell == "made" and question.note
    )
    assert told == "ours; nothing remembered, the method file's form: 0.37; no map, one seed: 0.50"
    enough = rows(60_000, gains=0.1)
    anew = {claim.question.cell: claim.holds for claim in answer(training_questions(enough), enough)}
    assert anew["made, catalogue encoded anew"] is True


def test_the_page_shows_costs_side_by_side() -> None:
    (table,) = training_tables(rows(60_000, gains=0.1))
    (row,) = table["rows"]
    assert (row["catalogue"], row["items"], row["encoded by us"], row["ratio"]) == ("made", 60_000, 100, 90.0)
    assert training_plots(Evidence([], {})) == []


def test_a_mean_is_over_the_seeds_that_have_the_value() -> None:
    evidence = Evidence(
        [
            {"setting": "s", "name": "n", "seed": 0, "x": 1.0},
            {"setting": "s", "name": "n", "seed": 1, "x": 4.0},
            {"setting": "s", "name": "n", "seed": 2, "x": None},
            {"setting": "s", "name": "other", "seed": 0, "x": 100.0},
        ],
        {},
    )
    assert evidence.mean("s", "n", "x") == 2.5
    assert evidence.mean("s", "n", "y") is None
