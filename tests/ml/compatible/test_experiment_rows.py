"""Rows of tier A: what their values are, what they are compared with, and what wrong labels reach."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load

from ml.evaluation.compatibility import relative_flip_rate
from ml.experiments.compatible.arms import (
    DESCRIBED_SEEDS,
    FREE,
    NDPP,
    ODPP,
    OURS,
    PLAIN,
    STRENGTHS,
    WHOLE_SEEDS,
    Arm,
    claimed_arms,
    ours,
    rivals,
    strengths,
    variants,
)
from ml.experiments.compatible.heads import Holding, train_heads
from ml.experiments.compatible.judging import OldSystem, compared_with_free
from ml.experiments.compatible.measuring import by_knowledge, crowded_contrast
from ml.experiments.compatible.new_rows import (
    KEPT,
    KEPT_SEEDS,
    NEW_SEED,
    Task,
    known_labels,
    new_features,
    trained_arm,
)
from ml.experiments.compatible.old_rows import (
    VECTORS_FILE,
    as_stored,
    encoded_from,
    kept_vectors,
    old_system,
    planned_old,
)
from ml.experiments.compatible.places import SMOKE, Place
from ml.experiments.compatible.relevance import NAME, planned_relevance
from ml.experiments.corrector.serving_encoders import Encoded
from ml.experiments.data import RetrievalTask
from ml.experiments.ledger import RunRecord, identity_key
from ml.methods.compatible.old_space import OldSpace
from ml.methods.compatible.perturbation import PrototypeAlignment
from ml.methods.compatible.rivals import BctAlignment, HotRefreshAlignment, LceAlignment, UniBctAlignment
from ml.methods.compatible.rivals_adversarial import AdvBctAlignment
from tests.ml.compatible.shop import BASE, LABELS, arm_of, average_precisions, place_of, task_of
from tests.ml.compatible.spaces import plane

Records = Mapping[str, RunRecord]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place_of(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def old(place: Place) -> OldSystem:
    return old_system(place, 0)


@pytest.fixture(scope="module")
def records(place: Place) -> Records:
    """Of the old system, of what claims name, and of one rival."""
    arms = [*claimed_arms(), ours(), next(rivals())]
    return {"old": old_system(place, 0).record} | {arm.name: task_of(place, arm).record() for arm in arms}


def vectors(record: RunRecord) -> NDArray[np.float32]:
    """Of every image, as the row kept them."""
    return encoded_from(load(record.files[VECTORS_FILE])).embeddings


def test_a_rows_values_are_the_means_of_its_queries_values(records: Records) -> None:
    for record in records.values():
        assert record.items is not None
        assert len(record.items) == 24
        for metric, own in record.per_query.items():
            assert record.values[metric] == pytest.approx(np.nanmean(own)), (record.name, metric)
        assert {"self_map", "self_recall_at_1"} <= set(record.per_query)
        assert {"choosing_self_map", "choosing_self_recall_at_1"} <= set(record.values)
        assert not any(metric.startswith("choosing") for metric in record.per_query)
    assert {"classes", "nearest_cosine", "threshold"} <= set(records["old"].values)


def test_queries_of_the_new_encoder_are_asked_of_what_each_stored(records: Records, place: Place) -> None:
    stored, task, choosing = vectors(records["old"]), place.split.final, place.split.choosing
    own = average_precisions(stored, stored, task)
    np.testing.assert_allclose(records["old"].per_query["self_map"], own, atol=1e-6)
    for name in KEPT:
        record, new = records[name], vectors(records[name])
        np.testing.assert_allclose(
            record.per_query["cross_map"], average_precisions(new, stored, task), atol=1e-6
        )
        np.testing.assert_allclose(
            record.per_query["self_map"], average_precisions(new, new, task), atol=1e-6
        )
        chosen = average_precisions(new, stored, choosing).mean()
        assert record.values["choosing_cross_map"] == pytest.approx(chosen, abs=1e-6)
        reverse = average_precisions(stored, new, task)
        assert np.abs(reverse - record.per_query["cross_map"]).max() > 0.01


def test_a_whole_row_tells_flips_against_the_fused_answers_of_the_old_system(records: Records) -> None:
    before = records["old"].per_query["fused_self_recall_at_1"]
    for name in (FREE, PLAIN, NDPP, ODPP, OURS):
        record = records[name]
        for state, end in (("cross", ""), ("self", "_backfilled")):
            now = record.per_query[f"fused_{state}_recall_at_1"]
            assert np.array_equal(record.per_query[f"negative_flips{end}"], (before == 1) & (now == 0))
            assert np.array_equal(record.per_query[f"positive_flips{end}"], (before == 0) & (now == 1))
        now = record.per_query["fused_cross_recall_at_1"]
        assert record.values["relative_flips"] == relative_flip_rate(before, now)
    rival = records["bct"]
    assert not [metric for metric in rival.values if metric.startswith(("fused", "code", "negative"))]


def test_the_crowded_contrast_is_a_difference_of_two_means(
    records: Records, place: Place, old: OldSystem
) -> None:
    """Worked out plainly: prototypes, their nearest other, the quarter of classes where it is nearest."""
    split = place.split
    of_class = [old.encoded.embeddings[split.train[split.train_labels == label]] for label in range(BASE)]
    means = np.stack([rows.mean(axis=0) for rows in of_class])
    prototypes = means / np.linalg.norm(means, axis=1, keepdims=True)
    cosines = prototypes @ prototypes.T - 9 * np.eye(BASE)
    nearest = cosines.max(axis=1)
    edge = np.quantile(nearest, 0.75) - 1e-6  # two classes that are each other's nearest are crowded alike
    crowded = np.flatnonzero(nearest >= edge)
    assert 3 <= len(crowded) <= 4  # of ten
    asked = split.final.query_labels
    for name in (FREE, NDPP):
        values = records[name].per_query["self_map"]
        inside = np.isin(asked, crowded)
        expected = values[inside].mean() - values[~inside & (asked < BASE)].mean()
        assert records[name].values["crowded_contrast"] == pytest.approx(expected, abs=1e-5)
        assert np.isnan(records[name].per_query["crowded_contrast"][asked >= BASE]).all()


def test_a_contrast_leaves_out_queries_without_a_value_or_a_prototype() -> None:
    space = plane(0, 10, 60, 100, 180)  # nearest cosines: the first two classes are the crowded ones
    space = OldSpace(
        space.prototypes, torch.tensor([9, 9, 9, 9, 0]), space.concentrations, space.radii
    )  # the last has none
    labels = np.array([0, 1, 2, 3, 3, 4, 5, 0])
    unseen = labels == 5
    rows = np.arange(len(labels))
    task = RetrievalTask(rows, labels, unseen, rows, labels, unseen, rows)
    values = np.array([0.8, 0.4, 0.1, 0.3, 0.5, 9.0, 9.0, np.nan])
    found = crowded_contrast(task, values, space)
    assert np.isnan(found).tolist() == [False] * 5 + [True] * 3
    assert np.nanmean(found) == pytest.approx((0.8 + 0.4) / 2 - (0.1 + 0.3 + 0.5) / 3)


def test_queries_are_told_apart_by_who_learned_their_class() -> None:
    labels = np.array([0, 0, 1, 2, 3, 9])
    rows, unseen = np.arange(6), labels == 9
    task = RetrievalTask(rows, labels, unseen, rows, labels, unseen, rows)
    old, new = np.array([True, False, True, False]), np.array([True, True, False, False])
    values = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 0.2])
    found = by_knowledge(task, old, new, values, "map")
    assert found == pytest.approx({"map_both": 0.2, "map_new": 0.5, "map_old": 0.7, "map_unseen": 0.55})
    assert by_knowledge(task, new, new, values, "map").keys() == {"map_both", "map_unseen"}


def test_scores_are_neutral_where_nothing_is_lost_and_nothing_gained() -> None:
    values = {
        "self_map": 0.6, "cross_map": 0.4, "choosing_self_map": 0.5, "choosing_cross_map": 0.5,
    }  # fmt: skip
    old = {"self_map": 0.4, "choosing_self_map": 0.3}
    found = compared_with_free(values, old, {"self_map": 0.6, "choosing_self_map": 0.5})
    sigmoid = 1 / (1 + np.exp(-1))
    assert found == pytest.approx(
        {
            "gain": 0.0, "p_up": 0.5, "p_comp": 0.5, "p_1": 0.5, "choosing_gain": 1.0, "choosing_p_up": 0.5,
            "choosing_p_comp": sigmoid, "choosing_p_1": sigmoid / (0.5 + sigmoid),
        }
    )  # fmt: skip
    worse = compared_with_free(values, old, {"self_map": 0.4, "choosing_self_map": 0.5})
    assert {"gain", "p_comp", "p_1"} & set(worse) == set()  # free training was no better than the old system
    assert worse["p_up"] > 0.5


def test_rows_are_compared_with_free_training_of_their_own_seed(records: Records) -> None:
    old, free = records["old"].values, records[FREE].values
    for name in (FREE, PLAIN, NDPP, OURS, "bct"):
        values = records[name].values
        told = {
            key: value for key, value in values.items() if key.endswith(("gain", "p_up", "p_comp", "p_1"))
        }
        assert told == pytest.approx(compared_with_free(values, old, free))
        assert len(told) == 8
    assert free["p_up"] == 0.5


def test_rows_say_by_how_much_they_perturbed_and_keep_vectors_only_where_others_stand_on_them(
    records: Records, place: Place
) -> None:
    degrees = {name: record.values.get("perturbed_degrees") for name, record in records.items()}
    assert (degrees["old"], degrees[FREE], degrees["bct"], degrees[PLAIN]) == (None, None, None, 0)
    assert min(float(degrees[name] or 0) for name in (NDPP, OURS)) > 1
    kept = {name for name, record in records.items() if record.files}
    assert kept == {"old", *KEPT}
    assert task_of(place, arm_of(NDPP), seed=KEPT_SEEDS).record().files == {}


def test_an_arm_is_measured_with_codes_only_for_the_first_seeds(place: Place) -> None:
    arm = arm_of(PLAIN)
    assert (arm.at(WHOLE_SEEDS - 1), arm.at(WHOLE_SEEDS)) == (arm, replace(arm, is_whole=False))
    record = task_of(place, arm.at(WHOLE_SEEDS)).record()
    assert not [metric for metric in record.per_query if metric.startswith(("code", "fused", "negative"))]
    assert {"self_map", "cross_map", "crowded_contrast"} <= set(record.per_query)


def test_identities_of_claimed_arms_differ_in_the_arm_alone(place: Place) -> None:
    runs = [task_of(place, arm).planned() for arm in (*claimed_arms(), ours())]
    rest = [{key: value for key, value in run.identity.items() if key != "arm"} for run in runs]
    assert all(own == rest[0] for own in rest)
    assert rest[0] == {"parent": planned_old(place, 0).identity}
    assert len({identity_key(run.identity) for run in runs}) == len(runs) == 5
    assert {(run.setting, run.seed) for run in runs} == {("shop/more-data", 0)}


def test_every_arm_is_the_loss_that_its_name_says(place: Place, old: OldSystem) -> None:
    kinds = {
        "bct": BctAlignment, "unibct": UniBctAlignment, "lce": LceAlignment, "hot-refresh": HotRefreshAlignment,
        "advbct": AdvBctAlignment, PLAIN: PrototypeAlignment, NDPP: PrototypeAlignment, OURS: PrototypeAlignment,
    }  # fmt: skip
    arms = {arm.name: arm for arm in (*claimed_arms(), ours(), *rivals())}
    assert set(arms) == {*kinds, FREE, ODPP}

    class Parts:
        embedding_centres = torch.nn.Parameter(torch.ones(BASE, SMOKE.dimension))

    class Student:
        parts = Parts()

    for name, kind in kinds.items():
        made = arms[name].alignment(old.stored(place.split), old.rows, old.learned, SMOKE, 0)
        assert type(made(Student())) is kind, name  # type: ignore[arg-type]
    told = {name: arms[name].settings for name in (PLAIN, NDPP, ODPP, OURS)}
    assert [(own.kind, own.entry_weight) for own in told.values()] == [
        ("none", 0), ("ndpp", 0), ("odpp", 0), ("ndpp", 1),
    ]  # fmt: skip
    curve = [arm.settings.strength for arm in strengths(1)]
    assert curve == list(STRENGTHS)
    every = [*arms.values(), *strengths(1), *variants()]
    assert len({arm.name for arm in every}) == len(every)
    assert len({identity_key(arm.as_values()) for arm in every}) == len(every)


def test_a_free_row_is_trained_without_a_thought_of_the_old_encoder(place: Place, records: Records) -> None:
    alone = train_heads(place.features[1], SMOKE, classes=BASE, seed=NEW_SEED)
    np.testing.assert_array_equal(vectors(records[FREE]), as_stored(alone).embeddings)


def test_what_later_rows_stand_on_is_what_was_measured(place: Place) -> None:
    heads = train_heads(place.features[0], SMOKE, classes=BASE, seed=0)
    read, measured = encoded_from(load(kept_vectors(heads)[VECTORS_FILE])), as_stored(heads)
    assert np.array_equal(read.embeddings, measured.embeddings)
    assert np.array_equal(read.codes, measured.codes)
    np.testing.assert_allclose(np.linalg.norm(read.embeddings, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(read.embeddings, heads.encoded.embeddings, atol=1e-3)


def test_a_compatible_row_takes_the_old_systems_word_for_its_images_classes_and_codes(
    place: Place, old: OldSystem
) -> None:
    """Other entries than those that are trained on change nothing; those that are do."""
    task = task_of(place, replace(arm_of(OURS), is_whole=False))
    trained = trained_arm(task, old, None).encoded.embeddings

    def told(rows: NDArray[np.int64]) -> bool:
        turned = old.encoded.embeddings.copy()
        turned[rows] = np.roll(turned[rows], 1, axis=0)
        other = replace(old, encoded=Encoded(old.encoded.codes, turned, 0.0))
        return not np.array_equal(trained_arm(task, other, None).encoded.embeddings, trained)

    others = np.setdiff1d(np.arange(len(LABELS)), place.split.train)
    assert not told(others)
    assert told(place.split.train)


def test_wrong_labels_change_what_new_heads_learn_and_not_the_old_system(tmp_path: Path) -> None:
    clean, noisy = place_of(tmp_path), place_of(tmp_path, noise=0.4)
    before, after = planned_old(clean, 0), planned_old(noisy, 0)
    assert (before.setting, before.identity) == (after.setting, after.identity)
    runs = [task_of(own, arm_of(FREE)).planned() for own in (clean, noisy)]
    assert runs[1].identity == {**runs[0].identity, "noise": 0.4}
    rows = [task_of(own, arm_of(FREE)).record() for own in (clean, noisy)]
    assert [row.setting for row in rows] == ["shop/more-data", "shop/more-data, 40% wrong labels"]
    assert float(rows[0].values["self_map"]) > float(rows[1].values["self_map"]) + 0.01


def test_wrong_labels_are_wrong_in_what_new_heads_are_held_to_and_true_where_they_are_judged(
    tmp_path: Path,
) -> None:
    place, arm = place_of(tmp_path, noise=0.4), replace(arm_of(OURS), is_whole=False)
    old, split, labels = old_system(place, 0), place.split, known_labels(place)
    assert 0.25 < np.mean(labels != split.train_labels) < 0.55
    stored = old.stored(split, labels)
    assert stored.codes is not None
    assert stored.entries is not None
    assert np.array_equal(stored.entries.labels.numpy(), labels)
    vectors = old.encoded.embeddings[split.train]
    means = np.stack([vectors[labels == label].mean(axis=0) for label in range(BASE)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(stored.space.prototypes.numpy(), means, atol=1e-5)
    made = arm.alignment(stored, old.rows, old.learned, SMOKE, 0)
    holding = Holding(old.encoded.embeddings, stored.codes, made)
    by_hand = train_heads(new_features(place), SMOKE, classes=BASE, seed=NEW_SEED, holding=holding)
    task = task_of(place, arm)
    trained = trained_arm(task, old, None)
    assert np.array_equal(trained.encoded.embeddings, by_hand.encoded.embeddings)
    record, own = task.record(), as_stored(trained)
    expected = average_precisions(own.embeddings, own.embeddings, split.final)
    np.testing.assert_allclose(record.per_query["self_map"], expected, atol=1e-6)
    contrast = crowded_contrast(split.final, record.per_query["self_map"], old.stored(split).space)
    np.testing.assert_allclose(record.per_query["crowded_contrast"], contrast)


def test_free_training_never_waits_for_itself(tmp_path: Path) -> None:
    """Of places with wrong labels fewer seeds are planned, but the arm is the same one."""
    place = place_of(tmp_path, noise=0.2)
    free = next(arm for arm in claimed_arms(DESCRIBED_SEEDS) if arm.name == FREE)
    task = Task(place, free, arm_of(FREE), 0)
    assert task.arm != task.free
    assert task.planned().identity == replace(task, arm=task.free).planned().identity
    record = task.record()
    assert (record.name, record.values["p_up"]) == (FREE, 0.5)


@pytest.mark.parametrize("upgrade", ["more-classes", "new-classes", "larger-trunk"])
def test_rows_of_every_setting_say_what_is_known(upgrade: str, tmp_path: Path) -> None:
    place = place_of(tmp_path, upgrade)
    system = old_system(place, 0)
    record = task_of(place, Arm(name="bct", rule="bct")).record()
    told = {key.removeprefix("cross_map_") for key in record.values if key.startswith("cross_map_")}
    expected = {"more-classes": {"both", "new"}, "new-classes": {"old", "new"}, "larger-trunk": {"both"}}
    assert told == expected[upgrade] | {"unseen"}
    assert system.learned.sum() == (BASE if upgrade == "larger-trunk" else 3)
    assert system.stored(
        place.split
    ).space.known.all()  # all images are entries, whoever learned their classes


def test_half_a_gallery_encoded_anew_is_judged_with_calibrations_of_the_choosing_task(
    records: Records, place: Place, tmp_path: Path
) -> None:
    assert records[NDPP].files
    task = task_of(place, arm_of(NDPP))
    run = planned_relevance(task)
    record = run.work(tmp_path / "none")
    assert (run.name, run.setting) == (record.name, record.setting) == (NAME, "shop/more-data/mixed gallery")
    final = place.split.final
    is_old = np.zeros(len(final.gallery), bool)
    is_old[np.random.default_rng(0).permutation(len(is_old))[: len(is_old) // 2]] = True
    expected = [is_old[final.gallery_labels == label].mean() for label in final.query_labels]
    np.testing.assert_allclose(record.per_query["expected_share"], expected)
    for metric, own in record.per_query.items():
        assert record.values[metric] == pytest.approx(np.nanmean(own))
    assert 0.2 < float(record.values["old_share"]) < 0.8

    other = replace(final, gallery_labels=np.roll(final.gallery_labels, 7))
    shuffled = replace(task, place=replace(place, split=replace(place.split, final=other)))
    again = planned_relevance(shuffled).work(tmp_path / "none")
    calibrated = [
        name for name in record.values if name.startswith(("old_", "self_")) and name != "old_share"
    ]
    assert len(calibrated) == 12
    assert {name: again.values[name] for name in calibrated} == {
        name: record.values[name] for name in calibrated
    }
    assert float(again.values["mixed_map"]) < float(record.values["mixed_map"]) - 0.1
