"""The twin-bottleneck study: its arms differ as they say, its measures are right, its claims are all asked."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from ml.evaluation.retrieval import retrieval_values, signs_of
from ml.experiments.data import ClassSplit, Dataset, RetrievalTask, class_split, few
from ml.experiments.evidence import Evidence
from ml.experiments.ledger import Ledger, RunRecord
from ml.experiments.protocol import Options, PlannedRun
from ml.experiments.twin_bottleneck import EXPERIMENT
from ml.experiments.twin_bottleneck.arms import LENGTHS, SATBH, SHIPPED, Arm, ablations, main_arms
from ml.experiments.twin_bottleneck.costs import (
    BYTES_OF_FLOAT,
    MIXES,
    chosen_mix,
    fused_scan,
    pool_of,
)
from ml.experiments.twin_bottleneck.end_to_end import recipes
from ml.experiments.twin_bottleneck.heads import FeatureBatches, HeadConfig, Vectors
from ml.experiments.twin_bottleneck.measuring import code_quality, float_quality, macro
from ml.experiments.twin_bottleneck.runs import Task, label_sets, measure
from ml.experiments.twin_bottleneck.trunks import (
    FEATURES_FILE,
    Condition,
    Features,
    features_of,
    recipe,
    training_images,
)

FEW_STEPS = HeadConfig(epochs=1, batch=32, code_bits=32)


@pytest.fixture(scope="module")
def split(small_grocery: Dataset) -> ClassSplit:
    return class_split(small_grocery, validation=small_grocery.classes[:2])


def test_features_are_standardised_by_training_images_alone(split: ClassSplit, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).standard_normal((len(split.images), 6)).astype(np.float32) * 3 + 5
    options = Options(seeds=(0,), smoke=True, threads=1, ledger=Ledger(tmp_path))

    def standardised(vectors: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        def work(_checkpoint: Path) -> RunRecord:
            return RunRecord(
                name="trunk",
                setting=name,
                seed=0,
                values={},
                files={FEATURES_FILE: save({"features": vectors})},
            )

        trunk = PlannedRun(name="trunk", setting=name, seed=0, identity={}, work=work)
        return features_of(split, Condition(), trunk, options).vectors

    found = standardised(raw, "a")
    assert np.allclose(found[split.train].mean(axis=0), 0, atol=1e-4)
    assert np.allclose(found[split.train].std(axis=0), 1, atol=1e-3)
    moved = raw.copy()
    moved[np.setdiff1d(np.arange(len(raw)), split.train)] += 100
    assert np.allclose(standardised(moved, "b")[split.train], found[split.train])


@pytest.fixture(scope="module")
def features(split: ClassSplit) -> Features:
    """A stand-in for a trunk: mean colours of a four by four grid."""
    pixels = split.images.images.pixels.float() / 255
    grid = pixels.reshape(-1, 3, 4, 16, 4, 16).mean(dim=(3, 5)).flatten(1).numpy()
    own = grid[split.train]
    vectors = (grid - own.mean(axis=0)) / (own.std(axis=0) + 1e-6)
    return Features(split=split, vectors=vectors.astype(np.float32), known=split.train_labels)


def test_each_ablation_changes_what_its_name_says_and_nothing_else() -> None:
    for arm in ablations():
        base = SATBH if arm.name.startswith("satbh") else SHIPPED
        losses = {name for name, value in asdict(arm.settings).items() if value != getattr(base, name)}
        heads = {name for name, value in asdict(arm.heads).items() if value != getattr(HeadConfig(), name)}
        assert losses or heads or arm.has_tags, arm.name
        assert not (losses and heads), arm.name
    names = [arm.name for arm in ablations()]
    assert len(set(names)) == len(names)
    assert all("," in name for name in names)  # what the plan puts last


def test_few_labels_leave_every_class_one_and_wrong_labels_are_another_class(split: ClassSplit) -> None:
    labels, classes = split.train_labels, len(split.base)
    few_known = Condition(share=0.01).apply(labels, classes)
    assert sorted(few_known[few_known >= 0].tolist()) == list(range(classes))
    assert np.array_equal(few_known[few_known >= 0], labels[few_known >= 0])
    many = np.tile(labels, 50)
    noisy = Condition(noise=0.4).apply(many, classes)
    assert (noisy >= 0).all()
    assert abs(float((noisy != many).mean()) - 0.4) < 0.03
    assert np.array_equal(noisy, Condition(noise=0.4).apply(many, classes))
    assert np.array_equal(Condition().apply(labels, classes), labels)


def test_a_trunk_sees_the_labels_its_heads_see_and_no_other_photo(split: ClassSplit) -> None:
    known = Condition(share=0.3).apply(split.train_labels, len(split.base))
    images = training_images(split, known)
    assert len(images) == int((known >= 0).sum()) < len(known)
    assert np.array_equal(images.labels.numpy(), known[known >= 0])
    shown = split.images.images.pixels[split.train[known >= 0]]
    assert bool((images.pixels == shown).all())


def test_a_quarter_of_a_batch_is_labelled_where_labels_are_few(features: Features) -> None:
    known = torch.from_numpy(Condition(share=0.3).apply(features.known, len(features.split.base)))
    vectors = torch.from_numpy(features.vectors[features.split.train])
    batches = FeatureBatches(vectors, known, replace(FEW_STEPS, batch=40), seed=0)
    drawn = list(batches.epoch(3))
    assert len(drawn) == batches.steps_per_epoch
    assert all(int((batch.labels >= 0).sum()) == 10 and len(batch.labels) == 40 for batch in drawn)
    again = next(batches.epoch(3))
    assert torch.equal(again.images, drawn[0].images)


def test_rare_classes_are_drawn_as_often_as_asked() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    share = {}
    for exponent in (1.0, 0.0):
        config = replace(FEW_STEPS, batch=5000, class_exponent=exponent)
        batches = FeatureBatches(torch.zeros(100, 2), labels, config, seed=0)
        rows = batches.draw(torch.Generator().manual_seed(0))
        share[exponent] = float((labels[rows] == 1).float().mean())
    assert share[1.0] == pytest.approx(0.1, abs=0.02)
    assert share[0.0] == pytest.approx(0.5, abs=0.03)


def test_seen_and_unseen_queries_meet_all_entries_and_their_own_kind(features: Features) -> None:
    task = features.split.final
    codes = np.packbits(features.vectors[:, :32] > 0, axis=1)
    found = code_quality(codes, task)
    unseen = task.query_unseen
    assert unseen.any()
    assert not unseen.all()
    assert np.isnan(found["map_at_1000_seen"][unseen]).all()
    assert np.isnan(found["map_at_1000_unseen"][~unseen]).all()
    signs = signs_of(codes)
    alone = retrieval_values(
        signs[task.queries[unseen]], task.query_labels[unseen],
        signs[task.gallery[task.gallery_unseen]], task.gallery_labels[task.gallery_unseen], thousand=True,
    )  # fmt: skip
    assert alone.map_at_1000 is not None
    assert np.allclose(found["map_at_1000_unseen_unseen"][unseen], alone.map_at_1000, equal_nan=True)
    easier, harder = found["map_at_1000_unseen_unseen"][unseen], found["map_at_1000_all"][unseen]
    assert (easier >= harder - 1e-9)[~np.isnan(easier)].all()
    assert set(float_quality(features.vectors, task)) == set(found)


def test_a_macro_mean_counts_rare_classes_as_much_as_common_ones() -> None:
    values, labels = np.array([1.0, 1, 1, 0, np.nan]), np.array([0, 0, 0, 1, 2])
    assert macro(values, labels) == 0.5


@pytest.mark.parametrize(("share", "entries"), [(5, 1000), (10, 7632), (30, 20_000)])
def test_a_pool_reads_no_more_than_its_share_and_one_more_would(share: int, entries: int) -> None:
    pool = pool_of(share, entries, code_bytes=16, embedding_bytes=256)
    limit = BYTES_OF_FLOAT * entries / share
    assert entries * 16 + pool * 256 <= limit < entries * 16 + (pool + 1) * 256


def test_a_mix_of_nothing_but_embeddings_is_the_float_scan(features: Features) -> None:
    vectors = _unit_vectors(features)
    task = features.split.choosing
    found = float_quality(vectors.embeddings, task)["map_at_100_all"]
    assert np.allclose(fused_scan(vectors, task, 0.0), found, equal_nan=True)
    by_code = code_quality(vectors.codes, task)["map_at_100_all"]
    assert np.allclose(fused_scan(vectors, task, 1.0), by_code, equal_nan=True, atol=1e-6)


def test_unseen_classes_have_half_of_the_say_in_the_mix() -> None:
    """Codes mislead the two unseen queries, embeddings half of the forty seen ones: counted alike, codes would win."""
    codes = np.packbits(scipy.linalg.hadamard(8)[:5] > 0, axis=1)
    asked = np.repeat(np.arange(5), [10, 10, 10, 10, 2])
    query_codes = codes[np.where(asked == 4, 0, asked)]
    query_embeddings = np.eye(8, dtype=np.float32)[np.where(np.isin(asked, (2, 3)), 4, asked)]
    vectors = Vectors(
        np.concatenate([codes, query_codes]),
        np.concatenate([np.eye(8, dtype=np.float32)[:5], query_embeddings]), 0.0,
    )  # fmt: skip
    task = RetrievalTask(
        gallery=np.arange(5), gallery_labels=np.arange(5), gallery_unseen=np.arange(5) == 4,
        queries=5 + np.arange(42), query_labels=asked, query_unseen=asked == 4, query_items=np.arange(42),
    )  # fmt: skip
    assert 0 < chosen_mix(vectors, task) < 0.5
    alike = {mix: float(np.nanmean(fused_scan(vectors, task, mix))) for mix in MIXES}
    assert max(alike, key=lambda mix: alike[mix]) >= 0.5


def _unit_vectors(features: Features) -> Vectors:
    unit = features.vectors / np.linalg.norm(features.vectors, axis=1, keepdims=True)
    return Vectors(np.packbits(features.vectors[:, :32] > 0, axis=1), unit, 0.0)


def _arms() -> Iterator[Arm]:
    for arm in main_arms(32, seeds=1):
        yield replace(arm, heads=replace(FEW_STEPS, dimension=arm.heads.dimension))


@pytest.mark.parametrize("arm", list(_arms()), ids=lambda arm: arm.name)
def test_every_arm_gives_a_row_with_what_claims_ask_of_it(
    arm: Arm, features: Features, tmp_path: Path
) -> None:
    record = measure(Task(arm, "small/32 bits", 0, lambda: features), tmp_path / "checkpoint")
    wanted = {f"map_at_1000_{view}" for view in ("all", "seen", "unseen", "seen_seen", "unseen_unseen")}
    assert wanted <= set(record.per_query)
    assert len(record.per_query["map_at_1000_all"]) == len(features.split.final.queries)
    assert record.values["map_at_1000_all"] == pytest.approx(np.nanmean(record.per_query["map_at_1000_all"]))
    assert 0 < float(record.values["choosing_map_at_1000_all"]) <= 1


def test_heads_of_the_product_length_are_asked_what_two_stages_cost(
    features: Features, tmp_path: Path
) -> None:
    arm = Arm("shipped", settings=SHIPPED, heads=replace(FEW_STEPS, code_bits=128, dimension=128))
    record = measure(Task(arm, "small/128 bits", 0, lambda: features), tmp_path / "checkpoint")
    assert {"float_scan_seen", "two_stage_10_seen", "two_stage_30_unseen"} <= set(record.per_query)
    entries = len(features.split.final.gallery)
    assert float(record.values["bytes_10"]) <= BYTES_OF_FLOAT * entries / 10


def test_tags_that_all_photos_of_a_class_share_are_labels_beside_the_class(split: ClassSplit) -> None:
    sets, classes = label_sets(split), len(split.base)
    assert np.array_equal(sets[:, :classes], np.eye(classes))
    fruit = sorted({tag for name in split.base for tag in split.tags[name]}).index("fruit") + classes
    is_fruit = ["fruit" in split.tags[name] for name in split.base]
    assert sets[:, fruit].astype(bool).tolist() == is_fruit
    assert 0 < sum(is_fruit) < classes


def test_arms_of_the_end_differ_in_their_method_alone(split: ClassSplit) -> None:
    trunk = recipe(split, Condition(), precision="float32", smoke=True)
    kinds = {name: own.method.kind for name, own in recipes(trunk).items()}
    assert kinds == {
        "compact": "compact", "shipped": "twin-bottleneck", "satbh": "twin-bottleneck", "jmlh": "twin-bottleneck"
    }  # fmt: skip
    assert all(replace(own, method=trunk.method) == trunk for own in recipes(trunk).values())


def test_a_whole_smoke_run_fits_the_plan(
    small_grocery: Dataset, small_fashion: Dataset, tmp_path: Path
) -> None:
    options = Options(seeds=(0,), smoke=True, threads=1, ledger=Ledger(tmp_path))
    planned = EXPERIMENT.plan([small_grocery, few(small_fashion, 12)], options)
    keys = [(run.setting, run.name, run.seed) for run in planned]
    assert len(set(keys)) == len(keys)
    assert [run.name for run in planned[:2]] == ["trunk", "trunk"]
    shipped = next(run for run in planned if run.name == "shipped")
    record = shipped.work(tmp_path / "checkpoint")
    assert float(record.values["map_at_1000_all"]) > 0
    trunk = next(run for run in planned if run.setting == f"{shipped.setting.split('/')[0]}/trunk")
    kept = options.ledger.find(trunk.full_identity(EXPERIMENT.name, smoke=True))
    assert kept is not None


def test_the_claims_ask_every_length_and_the_hardest_rival() -> None:
    quality = {"shipped": 0.6, "satbh": 0.5, "tbh": 0.2, "jmlh": 0.55, "itq": 0.4, "lsh": 0.3}
    rows = [
        {"name": name, "seed": seed, "setting": f"union/{bits} bits"}
        | {f"map_at_1000_{view}": value for view in ("all", "seen", "seen_seen", "unseen")}
        for name, value in quality.items()
        for seed in range(10)
        for bits in LENGTHS
    ]
    asked = EXPERIMENT.questions(Evidence(rows, {}))
    by_id = {claim: [q for q in asked if q.id == claim] for claim in ("C3", "C3b", "C4", "C5")}
    assert {claim: len(cells) for claim, cells in by_id.items()} == {"C3": 4, "C3b": 12, "C4": 4, "C5": 2}
    sides = {claim: {(q.a.name, q.b.name if q.b else "") for q in cells} for claim, cells in by_id.items()}
    assert sides == {
        "C3": {("satbh", "tbh")}, "C3b": {("shipped", "jmlh")}, "C4": {("satbh", "jmlh")},
        "C5": {("shipped", "shipped")},
    }  # fmt: skip
    assert {(q.a.metric, q.target, q.family) for q in by_id["C3b"]} == {
        ("map_at_1000_all", "low > 0", "C3b map_at_1000_all"),
        ("map_at_1000_seen", "value >= -0.01", "C3b map_at_1000_seen"),
        ("map_at_1000_seen_seen", "value >= -0.01", "C3b map_at_1000_seen_seen"),
    }
    assert {(q.a.metric, q.needs, q.family) for q in by_id["C4"]} == {("map_at_1000_unseen", "one", "C4")}
    assert {(q.a.metric, q.b.metric, q.target) for q in by_id["C5"] if q.b} == {
        ("float_scan_seen", "two_stage_10_seen", "value <= 0.005"),
        ("float_scan_unseen", "two_stage_10_unseen", "value <= 0.02"),
    }
    assert all(q.min_seeds == 10 for q in asked)


def test_few_labels_are_asked_of_the_full_model_and_plausibility_asks_nothing() -> None:
    rows = [
        {"name": name, "seed": seed, "setting": setting, "map_at_1000_all": 0.5}
        for name in ("satbh", "jmlh")
        for seed in range(10)
        for setting in (
            "union/128 bits/10% of labels",
            "union/128 bits/20% wrong labels",
            "fashion_mnist/32 bits",
        )
    ]
    (asked,) = EXPERIMENT.questions(Evidence(rows, {}))
    assert (asked.id, asked.setting, asked.a.metric) == (
        "C4",
        "union/128 bits/10% of labels",
        "map_at_1000_all",
    )


def test_one_pack_alone_is_asked_every_length_the_ablations_and_end_to_end(
    small_grocery: Dataset, tmp_path: Path
) -> None:
    options = Options(seeds=(0, 1, 2, 3), smoke=False, threads=1, ledger=Ledger(tmp_path))
    planned = EXPERIMENT.plan([small_grocery], options)
    settings = {run.setting for run in planned}
    lengths = {f"grocery/{bits} bits" for bits in LENGTHS}
    assert settings == lengths | {"grocery/trunk", "grocery/end to end"}
    assert {arm.name for arm in ablations()} < {run.name for run in planned}
    keys = [(run.setting, run.name, run.seed) for run in planned]
    assert len(set(keys)) == len(keys)
