"""The planted-shift study on a made-up shop: what is planned, what the alarm is set from, and what is asked among."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load

from ml.base_version.recipe import Recipe, Trained, train_encoder
from ml.data.images import ImageSet
from ml.evaluation.hamming import hamming_values
from ml.evaluation.intervals import paired_interval
from ml.experiments.ledger import RunRecord
from ml.experiments.lifelong import shift_study, shift_trunks
from ml.experiments.lifelong.arms import UPDATE
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.curriculum import LabelScheme
from ml.experiments.lifelong.shift_runs import planned_shifts
from ml.experiments.lifelong.shift_study import ARRIVED, ASKED, SHIFTED_FILE, Cell, Study
from ml.experiments.lifelong.shifts import KINDS, shifted
from ml.experiments.lifelong.trunks import Features
from ml.methods.lifelong.memory import fitted_gaussians
from ml.methods.lifelong.shift_alarm import own_residuals, usual
from tests.ml.experiments.shelves import place_of, shelves

Codes = NDArray[np.uint8]
Labels = NDArray[np.int64]
ENTRIES, VALIDATING, ASKING = 24, 16, 40  # photos of base classes


@pytest.fixture(scope="module")
def features() -> Features:
    return shelves()


@pytest.fixture(scope="module")
def place(features: Features, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place_of(features, tmp_path_factory.mktemp("ledger"))


class Asked(NamedTuple):
    rows: dict[str, RunRecord]
    among: list[Labels]  # labels of what each asking went among
    learned: list[ImageSet]  # what each new trunk went on with


@pytest.fixture(scope="module")
def asked(features: Features, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """A smoke run's rows of both shifts, and one after a new trunk, trained for two steps."""
    folder = tmp_path_factory.mktemp("asked")
    short = place_of(features, folder, smoke=True)
    whole = place_of(features, folder)
    among: list[Labels] = []
    learned: list[ImageSet] = []

    def watched(codes: Codes, labels: Labels, stored: Codes, own: Labels) -> object:
        among.append(own)
        return hamming_values(codes, labels, stored, own)

    def trained(images: ImageSet, made_by: Recipe, **more: Any) -> Trained:
        learned.append(images)
        return train_encoder(images, made_by, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shift_study, "hamming_values", watched)
        patch.setattr(shift_trunks, "train_encoder", trained)
        patch.setattr(shift_trunks, "TRUNK_STEPS", 2)
        runs = {run.name: run for run in planned_shifts(short, short.options)}
        renewed = {run.name: run for run in planned_shifts(whole, whole.options, seeds=0)}[
            "unshifted, new trunk"
        ]
        rows = {name: run.work(folder / "unused") for name, run in [*runs.items(), (renewed.name, renewed)]}
    return Asked(rows, among, learned)


def test_every_kind_and_strength_is_planned_for_each_seed_and_new_trunks_for_one(place: Place) -> None:
    def unread() -> Features:
        raise AssertionError("a plan opens nothing")

    place = replace(place, read=unread)
    plan = list(planned_shifts(place, place.options))
    old, new = ([run for run in plan if ("new trunk" in run.name) == is_new] for is_new in (False, True))
    cells = {
        "unshifted",
        *(f"{kind} {strength}" for kind in KINDS for strength in ("0.15", "0.3", "0.6", "1")),
    }
    for seed in range(3):
        assert {run.name for run in old if run.seed == seed} == cells
    assert len(old) == 63
    assert {run.name for run in new} == {f"{cell}, new trunk" for cell in cells if "0.6" not in cell}
    assert [run.seed for run in new] == [0] * 16
    assert {run.setting for run in plan} == {"shop/planted shift"}
    fewer = list(planned_shifts(place, place.options, strengths=(0.3, 0.6), seeds=1, has_trunks=False))
    assert [run.name for run in fewer] == [
        "unshifted", *(f"{kind} {strength}" for kind in KINDS for strength in (0.3, 0.6)),
    ]  # fmt: skip


def test_no_strength_is_what_photos_are_without_a_shift(asked: Asked) -> None:
    row = asked.rows["unshifted"]
    for remedy in ("increment", "refit"):
        np.testing.assert_array_equal(
            row.per_query[f"map_{remedy}"], row.per_query[f"map_unshifted_{remedy}"]
        )
    np.testing.assert_array_equal(row.per_query["map_no_action"], row.per_query["map_unshifted"])
    assert [row.values[f"loss_no_action{bound}"] for bound in ("", "_low", "_high")] == [0, 0, 0]
    assert row.values["has_fired"] == 0


def test_a_strong_shift_is_seen_and_its_losses_are_counted_to_photos_as_they_are(asked: Asked) -> None:
    row, plain = asked.rows["darker 1"], asked.rows["unshifted"]
    assert row.values["has_fired"] == 1
    assert row.values["fire_rate"] == 1.0
    np.testing.assert_array_equal(row.per_query["map_unshifted"], plain.per_query["map_unshifted"])
    assert row.items is not None
    assert len(np.unique(row.items)) == ASKING // 2
    for name in ("no_action", "increment", "refit", "unshifted_increment", "unshifted_refit"):
        found = paired_interval(
            row.per_query["map_unshifted"], row.per_query[f"map_{name}"], row.items, seed=0
        )
        told = [row.values[f"loss_{name}{bound}"] for bound in ("", "_low", "_high")]
        assert told == [found.value, found.low, found.high]
    assert float(row.values["loss_no_action"]) > 0.05
    assert "loss_unshifted" not in row.values


def test_what_arrived_is_never_among_the_answers(asked: Asked, features: Features) -> None:
    chain = features.chain
    labels = chain.images.labels()[chain.gallery]
    entries = labels[labels < chain.ends[0]]
    assert len(entries) == ENTRIES
    assert len(asked.among) == 6 + 6 + 3  # each by old heads and after both remedies, or after the new trunk
    for stored in asked.among:
        np.testing.assert_array_equal(stored, entries)


def test_the_alarm_is_set_from_validation_photos_of_what_was_learned(place: Place) -> None:
    features, labels = place.features, place.features.chain.images.labels()
    chain, curriculum = features.chain, place.curriculum(LabelScheme())
    entries, held, queries = (
        rows[labels[rows] < chain.ends[0]] for rows in (chain.gallery, chain.validation, chain.queries)
    )
    sets, held_sets, asked_sets = (
        [curriculum.sets[row] for row in rows] for rows in (entries, held, queries)
    )
    memory = fitted_gaussians(
        features.vectors[entries], sets, per_set=UPDATE.gaussians, from_items=UPDATE.gaussians_from, seed=0
    )
    known = usual(
        own_residuals(features.vectors[held], held_sets, memory), held_sets, chain.images.items[held]
    )
    record = Study(place).seen(Cell("noise", 0.3))
    kept = load(record.files[SHIFTED_FILE])
    expected = known.alarm(
        own_residuals(kept[ASKED], asked_sets, memory), asked_sets, chain.images.items[queries]
    )
    found = record.values
    assert (found["held_out"], found["photos"], found["photo_items"]) == (VALIDATING, ASKING, ASKING // 2)
    assert found["statistic"] == pytest.approx(expected.statistic)
    assert found["chance"] == pytest.approx(expected.high)
    assert found["has_fired"] == expected.has_fired
    # Test photos ask, validation photos arrive, each with noise of their own.
    pixels = chain.images.images.pixels.numpy()
    for name, rows, seed in ((ASKED, queries, 0), (ARRIVED, held, 1)):
        taken = torch.from_numpy(shifted(pixels[rows], "noise", 0.3, seed=seed))
        np.testing.assert_allclose(kept[name], features.of_pixels(taken), atol=1e-5)


def test_a_new_trunk_goes_on_with_the_entries_and_what_arrived(asked: Asked, features: Features) -> None:
    chain, (learned,) = features.chain, asked.learned
    labels = chain.images.labels()
    rows = np.concatenate([own[labels[own] < chain.ends[0]] for own in (chain.gallery, chain.validation)])
    assert len(learned) == ENTRIES + VALIDATING
    assert learned.labels.tolist() == labels[rows].tolist()
    assert torch.equal(learned.pixels, chain.images.images.pixels[torch.from_numpy(rows)])


def test_a_new_trunk_answers_with_new_codes_and_leaves_the_old_one_as_it_is(
    asked: Asked, features: Features
) -> None:
    row = asked.rows["unshifted, new trunk"]
    assert set(row.per_query) == {"map_unshifted", "map_new_trunk", "map_unshifted_new_trunk"}
    np.testing.assert_array_equal(row.per_query["map_new_trunk"], row.per_query["map_unshifted_new_trunk"])
    assert not {"statistic", "chance", "has_fired"} & row.values.keys()
    for name, value in shelves().encoder.state_dict().items():
        torch.testing.assert_close(features.encoder.state_dict()[name], value, rtol=0, atol=0)
