"""The experiment's plan, and tier B: which encoders it shares with the corrector experiment."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from ml.data.images import ImageSet
from ml.experiments.compatible.arms import (
    CLAIMED_SEEDS,
    DESCRIBED_SEEDS,
    FREE,
    NDPP,
    ODPP,
    OLD,
    OURS,
    PLAIN,
    STRENGTHS,
    claimed_arms,
    ours,
    rivals,
)
from ml.experiments.compatible.asking import FEWEST_SEEDS
from ml.experiments.compatible.study import EXPERIMENT
from ml.experiments.compatible.whole import SEEDS, Whole, planned_whole
from ml.experiments.corrector.serving_encoders import EXPERIMENT as SHARED
from ml.experiments.corrector.serving_encoders import VECTORS_FILE, Encoded, Role, known_to
from ml.experiments.corrector.serving_runs import planned_serving
from ml.experiments.data import Dataset, Part
from ml.experiments.evidence import Evidence
from ml.experiments.ledger import Ledger, RunRecord, identity_key
from ml.experiments.protocol import Options, PlannedRun
from tests.ml.compatible.shop import LABELS, arm_of, average_precisions, options_of, split_of

NAMES, SIDE = 12, 24


def part(name: str, each: int, channels: int, seed: int) -> Part:
    labels = np.repeat(np.arange(NAMES), each)
    pixels = (
        np.random.default_rng(seed).integers(0, 255, (len(labels), channels, SIDE, SIDE)).astype(np.uint8)
    )
    names = tuple(f"{name}:{label:02}" for label in range(NAMES))
    images = ImageSet(
        torch.from_numpy(pixels), torch.from_numpy(labels), names, (name,) * len(labels), f"{name} {seed}"
    )
    return Part(images, np.arange(len(labels)))


def dataset(name: str, kind: Any = "pack") -> Dataset:
    channels = 1 if kind == "digits" else 3
    train, validation, test = (part(name, each, channels, seed) for seed, each in enumerate((20, 3, 4)))
    return Dataset(name, kind, train, validation, test, None, None, f"{name}, made up")


EVERY = [dataset("grocery"), dataset("clothing"), dataset("fashion_mnist", "digits")]


def options(folder: Path, *, seeds: int = CLAIMED_SEEDS, smoke: bool = False) -> Options:
    return Options(seeds=tuple(range(seeds)), smoke=smoke, threads=1, ledger=Ledger(folder / "ledger"))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> list[PlannedRun]:
    folder = tmp_path_factory.mktemp("plan")
    found = EXPERIMENT.plan(EVERY, options(folder))
    assert not list(folder.iterdir())  # nothing was trained
    return found


def keys(runs: Iterable[PlannedRun], *, smoke: bool = False) -> list[str]:
    return [identity_key(run.full_identity(EXPERIMENT.name, smoke=smoke)) for run in runs]


def seeds_of(plan: list[PlannedRun], setting: str, name: str) -> list[int]:
    return [run.seed for run in plan if (run.setting, run.name) == (setting, name)]


def test_a_plan_holds_each_run_once_under_a_name_the_ledger_can_keep(plan: list[PlannedRun]) -> None:
    assert len(set(keys(plan))) == len(plan) == len({(run.setting, run.name, run.seed) for run in plan})
    for run in plan:
        assert identity_key(json.loads(json.dumps(run.identity))) == identity_key(run.identity)


def test_a_plan_holds_every_setting_of_the_union_two_of_grocery_and_one_of_digits(
    plan: list[PlannedRun],
) -> None:
    free = {run.setting for run in plan if run.name == FREE}
    clean = {setting for setting in free if "wrong labels" not in setting and setting != "chain"}
    assert clean == {
        "more-data", "more-classes", "new-classes", "larger-trunk", "grocery/more-classes", "grocery/larger-trunk",
        "fashion_mnist/more-data", "end-to-end/union", "end-to-end/grocery",
    }  # fmt: skip
    assert free - clean - {"chain"} == {f"more-data, {share}% wrong labels" for share in (10, 20, 40)}
    for setting in free:
        wanted = {FREE, PLAIN, NDPP, ODPP} | ({OLD} if setting in clean else set())
        assert wanted <= {run.name for run in plan if run.setting == setting}
    curves = {run.setting for run in plan if run.name == f"{NDPP} {STRENGTHS[0]:g}"}
    assert curves == {"more-data", "grocery/more-classes"}
    assert {run.name for run in plan if run.setting == "chain"} == {FREE, PLAIN, NDPP, ODPP}
    described = {arm.name for arm in rivals()}
    assert described <= {run.name for run in plan if run.setting == "new-classes"}


def test_what_claims_ask_of_is_measured_with_enough_seeds_and_what_is_described_with_no_more(
    plan: list[PlannedRun],
) -> None:
    every = [(run.setting, run.name) for run in plan]
    for setting in ("more-data", "grocery/larger-trunk"):
        for name in (OLD, FREE, PLAIN, NDPP, ODPP):
            assert seeds_of(plan, setting, name) == list(range(CLAIMED_SEEDS))
    for setting, name in every:
        if setting in {"chain", "end-to-end/union"} and name in {OLD, FREE, PLAIN, NDPP, ODPP}:
            assert len(seeds_of(plan, setting, name)) >= FEWEST_SEEDS
        if name in {OURS, *(arm.name for arm in rivals())}:
            assert len(seeds_of(plan, setting, name)) <= DESCRIBED_SEEDS
    for strength in STRENGTHS:
        assert len(seeds_of(plan, "more-data", f"{NDPP} {strength:g}")) >= FEWEST_SEEDS
    for setting, name in every:  # an arm is compared with free training of the same seed
        if "wrong labels" in setting:
            assert seeds_of(plan, setting, name) == seeds_of(plan, setting, FREE)


def test_a_plan_begins_with_trunks_and_goes_on_with_claims_seed_by_seed(plan: list[PlannedRun]) -> None:
    claimed = {OLD, FREE, PLAIN, NDPP, ODPP}
    kinds = [0 if run.setting.endswith("/trunks") else 1 if run.name in claimed else 2 for run in plan]
    assert kinds == sorted(kinds)
    for kind in (1, 2):
        seeds = [run.seed for run, own in zip(plan, kinds, strict=True) if own == kind]
        assert seeds == sorted(seeds)


def test_a_smoke_plan_has_every_kind_of_row_of_one_small_pack(tmp_path: Path) -> None:
    runs = EXPERIMENT.plan(EVERY, options(tmp_path, seeds=1, smoke=True))
    assert len(set(keys(runs, smoke=True))) == len(runs) == len({(r.setting, r.name, r.seed) for r in runs})
    names = {run.name for run in runs}
    assert {
        OLD,
        OURS,
        "bct",
        "half backfilled",
        f"{NDPP} 3.2",
        *(arm.name for arm in claimed_arms()),
    } <= names
    settings = {run.setting for run in runs}
    assert {
        "chain",
        "end-to-end/grocery",
        "grocery/more-classes",
        "grocery/more-classes/mixed gallery",
    } <= settings
    assert not [setting for setting in settings if "union" in setting or "mnist" in setting]
    assert not list(tmp_path.iterdir())
    heads = [run.identity["parent"]["heads"] for run in runs if run.name == NDPP and "parent" in run.identity]
    assert {(own["epochs"], own["steps"]) for own in heads} == {(2, 3)}


def test_whole_encoders_are_those_of_the_corrector_experiment(tmp_path: Path) -> None:
    """Of the old role and the independent one: found in one ledger, trained once for both."""
    own = options(tmp_path, seeds=3)
    theirs = {
        identity_key(run.full_identity(SHARED, smoke=False)): run.name
        for run in planned_serving(EVERY[:2], own)
    }
    mine = EXPERIMENT.plan(EVERY[:2], own)
    for setting in ("end-to-end/union", "end-to-end/grocery"):
        serving = f"serving/{setting.split('/')[1]}/encoders"
        for seed in range(SEEDS):
            rows = {run.name: run for run in mine if (run.setting, run.seed) == (setting, seed)}
            encoders = {OLD: rows[OLD].identity["encoder"], FREE: rows[FREE].identity["encoder"]}
            assert encoders[OLD] == rows[FREE].identity["old"] == rows[NDPP].identity["old"]
            for name, role in ((OLD, "old"), (FREE, "independent")):
                run = PlannedRun(
                    name=role, setting=serving, seed=seed, identity=encoders[name], work=rows[name].work
                )
                assert theirs[identity_key(run.full_identity(SHARED, smoke=False))] == role


def test_whole_arms_differ_from_free_training_in_the_alignment_alone(tmp_path: Path) -> None:
    whole = Whole(split_of(), 0, options_of(tmp_path))
    free = whole.runs()["independent"].identity
    for arm in (*claimed_arms(), ours()):
        if arm.rule == "prototypes":
            told = dict(whole.planned_arm(arm).identity)
            recipe = dict(told["recipe"])
            assert recipe.pop("compatibility") == arm.settings.as_values()
            assert recipe == free["recipe"]
            assert told["learned"] == free["learned"]
            assert told["data"] == free["data"]
    planned = planned_whole(whole.split, [*claimed_arms(), *rivals(), ours()], whole.options)
    assert [run.name for run in planned] == [OLD, FREE, PLAIN, NDPP, ODPP, OURS]


def encoded(spread: float, seed: int) -> Encoded:
    rng = np.random.default_rng(seed)
    vectors = np.random.default_rng(1).normal(size=(LABELS.max() + 1, 128))[LABELS]
    vectors = vectors + rng.normal(0, spread, vectors.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    bits = np.packbits(vectors > 0, axis=1)
    back = vectors.astype(np.float32)
    return Encoded(bits, back / np.linalg.norm(back, axis=1, keepdims=True), 0.0)


def put(whole: Whole, role: Role, found: Encoded) -> None:
    """Into the ledger, so that none is trained."""
    run = whole.runs()[role]
    files = {VECTORS_FILE: save({"codes": found.codes, "embeddings": found.embeddings})}
    record = RunRecord(run.name, run.setting, run.seed, {"encode_seconds": 0.0}, files=files)
    whole.options.ledger.run(run.full_identity(SHARED, smoke=True), lambda _: record)


def test_whole_rows_measure_the_shared_encoders_and_train_a_compatible_one(tmp_path: Path) -> None:
    whole = Whole(split_of(), 0, options_of(tmp_path))
    old, free = encoded(3.0, seed=2), encoded(1.5, seed=3)
    put(whole, "old", old)
    put(whole, "independent", free)
    rows = {name: whole.planned_shared(name).work(tmp_path / "none") for name in (OLD, FREE)}
    rows[OURS] = whole.planned_arm(arm_of(OURS)).work(tmp_path / "none")

    task = whole.split.final
    for name, asking, answering, metric in (
        (OLD, old, old, "self_map"), (FREE, free, free, "self_map"), (FREE, free, old, "cross_map"),
    ):  # fmt: skip
        expected = average_precisions(asking.embeddings, answering.embeddings, task)
        np.testing.assert_allclose(rows[name].per_query[metric], expected, atol=1e-6)
    assert {record.setting for record in rows.values()} == {"end-to-end/shop"}
    assert rows[FREE].values["p_up"] == 0.5
    told = {
        "perturbed_degrees",
        "epochs",
        "fused_cross_map",
        "code_cross_map",
        "negative_flips",
        "p_1",
        "gain",
    }
    assert told <= set(rows[OURS].values)
    assert float(rows[OURS].values["perturbed_degrees"]) > 0
    for record in rows.values():
        for metric, own in record.per_query.items():
            assert record.values[metric] == pytest.approx(np.nanmean(own))
    share = (known_to(whole.split, "old", 0) >= 0).mean()
    assert share == pytest.approx(0.3)


def test_the_experiment_is_found_under_its_name_and_shows_its_rows() -> None:
    assert (EXPERIMENT.name, EXPERIMENT.seeds) == ("compatible", CLAIMED_SEEDS)
    assert EXPERIMENT.questions(Evidence([], {})) == []
    assert {"title", "about"} <= set(EXPERIMENT.present(Evidence([], {})))


def test_another_seed_is_another_row_of_the_same_setting(tmp_path: Path) -> None:
    split = split_of()
    first, other = (Whole(split, seed, options_of(tmp_path)).planned_arm(arm_of(NDPP)) for seed in (0, 1))
    assert (first.setting, first.name) == (other.setting, other.name)
    assert identity_key(first.identity) != identity_key(other.identity)
    smaller = replace(split, fingerprint="another")
    assert Whole(smaller, 0, options_of(tmp_path)).planned_arm(arm_of(NDPP)).identity != first.identity
