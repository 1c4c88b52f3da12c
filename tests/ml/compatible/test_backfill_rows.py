"""Rows of galleries mapped forward or encoded anew in part, on made-up encoders whose answers are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from ml.data.images import ImageSet
from ml.experiments.compatible.arms import FREE, NDPP, Arm
from ml.experiments.compatible.backfill import (
    FORWARD,
    PARTIAL,
    Moved,
    Pair,
    curves,
    forward_values,
    found_map,
    orders,
    pair_of,
    partial_values,
    planned_backfill,
)
from ml.experiments.compatible.backfill_presenting import backfill_plots, backfill_tables
from ml.experiments.compatible.new_rows import Task
from ml.experiments.compatible.old_rows import VECTORS_FILE, planned_old
from ml.experiments.compatible.places import Place
from ml.experiments.compatible.settings import UPGRADES
from ml.experiments.compatible.trunks import EXPERIMENT, FEATURES_FILE
from ml.experiments.data import ClassSplit, Part, RetrievalTask
from ml.experiments.evidence import evidence_of
from ml.experiments.ledger import Ledger, RunRecord
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.compatible.forward import Classifier, ForwardConfig, Stored

CLASSES, BASE, EACH, D, SIDE = 10, 8, 20, 8, 6  # eight classes are trained on, two are not
QUICK = ForwardConfig(width=32, epochs=15, batch=32, learning_rate=1e-2)
LABELS = np.repeat(np.arange(CLASSES), EACH)
Floats = NDArray[np.float32]


def unit(vectors: NDArray[np.floating]) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def rotation() -> NDArray[np.float64]:
    return np.linalg.qr(np.random.default_rng(5).normal(size=(D, D)))[0]


def split_of() -> ClassSplit:
    """Of each class the first four images ask, the others are entries."""
    place = np.tile(np.arange(EACH), CLASSES)
    gallery, queries = np.flatnonzero(place >= 4), np.flatnonzero(place < 4)
    own = LABELS[gallery], LABELS[queries]
    task = RetrievalTask(gallery, own[0], own[0] >= BASE, queries, own[1], own[1] >= BASE, queries)
    names = tuple(f"class {label}" for label in range(CLASSES))
    pixels = torch.zeros(len(LABELS), 3, 24, 24, dtype=torch.uint8)
    images = ImageSet(pixels, torch.from_numpy(LABELS), names, ("pack",) * len(LABELS), "made up")
    train = gallery[own[0] < BASE]
    return ClassSplit(
        name="union", images=Part(images, np.arange(len(LABELS))), base=names[:BASE], validation=(),
        unseen=names[BASE:], train=train, train_labels=LABELS[train], choosing=task, final=task, without_class=0,
        tags={}, fingerprint="made up",
    )  # fmt: skip


def about_centres(spread: float, *, seed: int) -> Floats:
    centres = np.random.default_rng(1).normal(size=(CLASSES, D))
    return unit(centres[LABELS] + np.random.default_rng(seed).normal(0, spread, (len(LABELS), D)))


def better() -> Pair:
    """The new encoder spreads classes less, and its space is turned; side information is that of the new one."""
    split, new = split_of(), unit(about_centres(0.3, seed=3) @ rotation())
    old = about_centres(0.7, seed=2)
    centres = unit(np.random.default_rng(1).normal(size=(CLASSES, D)) @ rotation())
    side = np.asarray(5 * new[:, :SIDE], np.float32)
    classifier = Classifier(16 * centres[:BASE], split.train_labels)
    return Pair(split, Stored(old, side), new, split.train, classifier)


def everyone(pair: Pair) -> NDArray[np.int64]:
    return np.arange(len(pair.split.final.queries))


def test_a_curve_runs_from_the_start_to_the_new_gallery_in_the_given_order() -> None:
    pair = better()
    start = unit(pair.stored.embeddings @ rotation())
    rows = pair.split.final.gallery
    first, last = np.arange(len(rows)), np.arange(len(rows))[::-1]
    found = curves(pair, "raw", start, {"up": first, "down": last})
    for order in ("up", "down"):
        assert found[f"map_raw_{order}_0"] == found_map(pair, start, everyone(pair)).every
        assert found[f"map_raw_{order}_100"] == found_map(pair, pair.new, everyone(pair)).every
        points = [found[f"map_raw_{order}_{percent}"] for percent in range(0, 101, 10)]
        assert found[f"area_raw_{order}"] == pytest.approx(np.mean(np.array(points, float)))
    half = start.copy()
    half[rows[: len(rows) // 2]] = pair.new[rows[: len(rows) // 2]]
    assert found["map_raw_up_50"] == found_map(pair, half, everyone(pair)).every
    assert found["map_raw_down_50"] != found["map_raw_up_50"]


def test_queries_of_classes_that_were_never_learned_are_counted_apart() -> None:
    pair = better()
    spoilt = pair.new.copy()
    spoilt[LABELS >= BASE] *= -1  # entries of these classes alone are put at the far side
    found, before = (
        found_map(pair, entries, everyone(pair), asking=pair.new) for entries in (spoilt, pair.new)
    )
    learned = ~pair.split.final.query_unseen
    assert found.unseen < 0.2
    assert before.unseen > 0.9
    assert found_map(pair, spoilt, np.flatnonzero(learned)).every > 0.9
    assert np.isnan(found_map(pair, spoilt, np.flatnonzero(learned)).unseen)
    share = 1 - learned.mean()
    rest = found_map(pair, spoilt, np.flatnonzero(learned)).every
    assert found.every == pytest.approx(share * found.unseen + (1 - share) * rest)


def test_an_order_knows_the_classes_of_what_the_new_encoder_learned_alone() -> None:
    pair = better()
    rows = pair.split.final.gallery
    np.testing.assert_array_equal(pair.labels(), np.where(LABELS[rows] < BASE, LABELS[rows], -1))
    errors = np.random.default_rng(0).normal(size=len(LABELS)).astype(np.float32)
    found = orders(pair, Moved(pair.stored.embeddings, errors), 0)
    assert set(found) == {"predicted", "class_mean", "random", "true"}
    for order in found.values():
        np.testing.assert_array_equal(np.sort(order), np.arange(len(rows)))
    assert (np.diff(errors[rows][found["predicted"]]) <= 0).all()
    left = np.square(pair.stored.embeddings[rows] - pair.new[rows]).sum(axis=1)
    assert (np.diff(left[found["true"]]) <= 1e-6).all()


def test_maps_bring_back_most_of_what_an_independent_encoder_loses() -> None:
    pair = better()
    found = {name: float(value) for name, value in forward_values(pair, QUICK, 0).items()}
    assert found["cross_map"] < 0.3 * found["old_map"]
    assert found["old_map"] + 0.1 < found["transformed_map"] < found["full_map"] - 0.1
    assert found["transformed_side_map"] > found["transformed_map"] + 0.03
    assert found["map_fastfill_random_0"] == found["fastfill_map"]
    assert "area_fct_predicted" not in found
    assert found["map_fct_random_0"] == found["transformed_side_map"]
    assert found["map_fct_random_100"] == found["full_map"]
    assert (found["fitted_to"], found["entries"]) == (len(pair.learned), len(pair.split.final.gallery))


def test_what_a_map_is_fitted_to_is_what_the_new_encoder_learned_alone() -> None:
    pair = better()
    fewer = replace(
        pair,
        learned=pair.learned[:40],
        classifier=replace(pair.classifier, labels=pair.classifier.labels[:40]),
    )
    quick = replace(QUICK, epochs=2)
    elsewhere = fewer.new.copy()
    elsewhere[pair.learned[40:]] = elsewhere[pair.learned[40:]][::-1]
    states = [
        forward_values(own, quick, 0)["transformed_map"] for own in (fewer, replace(fewer, new=elsewhere))
    ]
    assert states[0] == states[1]


def test_a_compatible_gallery_stays_as_it_is_until_encoded_anew() -> None:
    pair = better()
    compatible = replace(pair, new=unit(pair.new @ rotation().T))  # in the old encoder's space
    found = partial_values(compatible, replace(QUICK, epochs=2), 0)
    stale = found_map(compatible, compatible.stored.embeddings, everyone(pair)).every
    assert {found[f"map_raw_{order}_0"] for order in ("predicted", "class_mean", "random", "true")} == {stale}
    assert float(found["area_raw_random"]) > stale


def kept(embeddings: Floats, centres: Floats) -> dict[str, bytes]:
    codes = np.zeros((len(embeddings), 16), np.uint8)
    return {
        VECTORS_FILE: save({"codes": codes, "embeddings": embeddings.astype(np.float16), "centres": centres})
    }


def tasks_of(pair: Pair, folder: Path) -> tuple[Task, Task]:
    """Encoders and trunks are found in a ledger and never trained."""
    options = Options(seeds=(0,), smoke=True, threads=1, ledger=Ledger(folder))
    place = Place(pair.split, next(one for one in UPGRADES if one.name == "new-classes"), options)
    assert pair.stored.side is not None
    features = {"vectors": pair.stored.side.astype(np.float16), "views": np.zeros((1, 2, SIDE), np.float16)}
    centres = np.asarray(pair.classifier.rows * 3, np.float32)

    def put(run: PlannedRun, files: dict[str, Any]) -> None:
        record = RunRecord(run.name, run.setting, run.seed, {}, files=files)
        options.ledger.run(run.full_identity(EXPERIMENT, smoke=True), lambda _: record)

    for trunk in place.trunks:
        put(trunk, {FEATURES_FILE: save(features)})
    put(planned_old(place, 0), kept(pair.stored.embeddings, centres))
    free = Task(place, Arm(name=FREE, rule="free"), Arm(name=FREE, rule="free"), 0)
    compatible = replace(free, arm=Arm(name=NDPP))
    for task, turn in ((free, np.eye(D)), (compatible, rotation().T)):
        put(task.planned(), kept(unit(pair.new @ turn), centres))
    return free, compatible


def test_a_pair_is_what_the_rows_of_both_encoders_kept(tmp_path: Path) -> None:
    made = better()
    free, _ = tasks_of(made, tmp_path)
    pair = pair_of(free)
    np.testing.assert_allclose(pair.new, made.new, atol=1e-3)
    np.testing.assert_allclose(pair.stored.embeddings, made.stored.embeddings, atol=1e-3)
    scale = free.place.heads.losses.scale
    np.testing.assert_allclose(np.linalg.norm(pair.classifier.rows, axis=1), scale, atol=1e-3)
    learned = free.place.upgrade.new.known(made.split)
    assert 0 < len(pair.learned) < len(made.split.train)
    np.testing.assert_array_equal(pair.learned, made.split.train[learned >= 0])
    np.testing.assert_array_equal(pair.classifier.labels, LABELS[pair.learned])
    assert pair.stored.side_size == SIDE


def test_rows_are_shown_by_setting_gallery_and_order(tmp_path: Path) -> None:
    planned = planned_backfill(*tasks_of(better(), tmp_path))
    assert [(run.name, run.setting) for run in planned] == [
        (FORWARD, "new-classes/backfill"), (PARTIAL, "new-classes/backfill"),
    ]  # fmt: skip
    assert planned[0].identity != planned[1].identity
    records = [run.work(tmp_path / "none") for run in planned]
    evidence = evidence_of(records)
    states, areas = (table["rows"] for table in backfill_tables(evidence))
    values = records[0].values
    assert [(row["setting"], row["queries"]) for row in states] == [
        ("new-classes", "all"), ("new-classes", "unseen"),
    ]  # fmt: skip
    assert states[1]["FCT"].startswith(f"{100 * float(values['transformed_map_unseen']):.1f} (")
    assert states[0]["full backfill"] == f"{100 * float(values['full_map']):.1f}"
    gain = (float(values["fastfill_map"]) - float(values["old_map"])) / (
        float(values["full_map"]) - float(values["old_map"])
    )
    assert (
        states[0]["FastFill, side information"] == f"{100 * float(values['fastfill_map']):.1f} ({gain:.2f})"
    )
    assert [row["gallery"] for row in areas] == ["FastFill", "FCT, side information", "compatible encoder"]
    assert areas[1]["predicted error"] is None
    raw = [100 * float(records[1].values[f"{area}_raw_random"]) for area in ("area", "area_unseen")]
    assert areas[2]["random"] == f"{raw[0]:.1f} ({raw[1]:.1f})"
    (plot,) = backfill_plots(evidence)
    assert plot["file"] == "compatible_backfill_new-classes.png"
    assert len(plot["series"]) == 6
    assert plot["series"][0]["x"] == list(range(0, 101, 10))
    assert plot["series"][0]["y"][-1] == pytest.approx(float(values["map_fastfill_predicted_100"]))
    assert backfill_tables(evidence_of([])) == []
    assert backfill_plots(evidence_of([])) == []
