"""A candidate from a catalogue's photos and what is stored of them: bundle, pilot, validation, resumption."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.artifacts import Bundle, load_bundle
from ml.base_version import catalogue_candidate
from ml.base_version.candidate import candidate_recipe
from ml.base_version.catalogue import recipe_for
from ml.base_version.catalogue_candidate import (
    Material,
    pilot_epochs,
    run_pilot,
    train_candidate,
)
from ml.base_version.catalogue_photos import divide, images_of, inputs_of, mean_precisions, outputs_of
from ml.base_version.fitted_heads import fitted_heads
from ml.base_version.stored import stored_of
from ml.base_version.stored_photos import AskedPhotos, StoredPhotos, Validation
from ml.config import merged
from ml.methods.corrector.config import HardNegatives
from ml.models.encoder import ImageEncoder
from ml.models.export import encoder_from_weights
from ml.training.loop import Progress
from tests.conftest import ROOT
from tests.ml.photos import few_photos

TINY: dict[str, Any] = {
    "stored_size": 40,
    "method": {"encoder": {"input_size": 32, "code_hidden": 32, "trunk": {"widths": [16, 16, 32, 32]}}},
    "fit": {"epochs": 8, "warmup_epochs": 1.0, "validate_every": 4},
    "sampling": {"classes_per_batch": 5, "images_per_class": 4, "sizes": [[1.0, 32]]},
}


@pytest.fixture(scope="module")
def parent(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="module")
def material(data_packs: Path, parent: Bundle) -> Material:
    """Ninety photos of ten classes; three have no entry, and of ten another trunk made it."""
    images = few_photos(data_packs, per_class=9, size=40)
    big = few_photos(data_packs, per_class=9, size=96)
    encoded = parent.encoder().encode(big.pixels.permute(0, 2, 3, 1).contiguous().numpy())
    present = np.ones(len(images), np.bool_)
    present[:3] = False
    by_producer = present.copy()
    by_producer[-10:] = False
    stored = StoredPhotos(encoded.packed_codes, encoded.embeddings, present, by_producer, parent.digest)
    recipe = recipe_for("parity", torch.bincount(images.labels).tolist(), method="compact")
    return Material(images, stored, merged(candidate_recipe(recipe, parent, "ndpp"), TINY), parent)


class Killed(Exception):
    pass


def test_a_catalogue_becomes_a_candidate_that_reads_entries_of_both(
    material: Material, parent: Bundle, tmp_path: Path
) -> None:
    """Killed after five epochs and taken up again; its epochs are those of one that was left alone."""
    seen: list[Progress] = []

    def heard(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 5:
            raise Killed

    with pytest.raises(Killed):
        train_candidate(material, tmp_path / "bundle", checkpoint=tmp_path / "fit", on_epoch=heard)
    made = train_candidate(
        material, tmp_path / "bundle", checkpoint=tmp_path / "fit", on_epoch=heard, command="manage.py"
    )
    alone: list[Progress] = []

    def left_alone(progress: Progress) -> None:
        alone.append(progress)
        if progress.epoch == 8:
            raise Killed

    with pytest.raises(Killed):
        train_candidate(material, tmp_path / "alone", on_epoch=left_alone)

    assert [progress.epoch for progress in seen] == list(range(1, 9))
    assert [progress.logs for progress in seen] == [progress.logs for progress in alone]
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert manifest.digest == made.bundle.digest
    assert set(manifest.calibration) == {"self", parent.digest}
    assert (manifest.method, manifest.code_bits, manifest.labels) == ("compact", 128, material.images.names)
    note = manifest.training
    assert (note["compatibility"]["alignment"], note["compatibility"]["parent"]) == ("ndpp", parent.digest)
    assert (note["command"], note["stored_images"], note["started_from"]) == ("manage.py", 87, None)
    summary = manifest.metrics["compatibility"]["validation"]
    assert (
        summary["queries"] > 20
    )  # nine validation photos would calibrate by chance: training photos ask each other
    assert set(summary) == {"queries", "old_self_test", "cross_test", "self_test", "flips_at_1"}
    last = seen[-1].logs
    assert last["validation"] == pytest.approx((last["cross"] + last["own"]) / 2)
    assert "cross" not in seen[0].logs
    with pytest.raises(FileExistsError):
        train_candidate(material, tmp_path / "bundle")


def test_a_pilot_is_a_tenth_and_says_what_it_found_beside_the_parent(material: Material) -> None:
    epochs: list[int] = []

    pilot = run_pilot(material, on_epoch=lambda progress: epochs.append(progress.epoch))

    assert pilot is not None
    assert epochs == [1, 2]
    assert pilot.epochs == pilot_epochs(material.recipe) == 2
    gain = pilot.gain()
    assert gain is not None
    means = pilot.found.means
    assert gain.value == pytest.approx(np.nanmean(pilot.found.cross - pilot.old))
    assert 0 < means["cross"] < 1
    assert means["own"] > means["cross"] - 1
    late = HardNegatives(from_epoch=5)
    assert run_pilot(replace(material, recipe=replace(material.recipe, negatives=late))) is not None
    longer = replace(material.recipe, fit=replace(material.recipe.fit, epochs=70))
    assert pilot_epochs(longer) == 7


def test_the_pilot_asks_photos_that_the_parent_never_saw_either(
    material: Material, parent: Bundle, tmp_path: Path
) -> None:
    """Photos the parent was trained on flatter it; and what the whole training came to is told of the same ones."""
    labels = torch.arange(10).repeat_interleave(9)
    held_out = replace(images_of(material.images, torch.arange(0, 90, 3)), labels=labels[::3])
    asked = AskedPhotos.of(held_out, parent)

    pilot = run_pilot(replace(material, asked=asked))

    assert pilot is not None
    assert len(pilot.old) == len(pilot.found.cross) == 30
    assert np.array_equal(
        asked.coded[1], parent.encoder().encode(inputs_of(held_out, torch.arange(30), 96)).embeddings
    )
    short = replace(material.recipe, fit=replace(material.recipe.fit, epochs=1, warmup_epochs=0.0))
    made = train_candidate(replace(material, recipe=short, asked=asked), tmp_path / "bundle")
    told = made.bundle.manifest.metrics["compatibility"]["asked"]
    assert set(told) == {"cross", "own"}
    assert all(0 < value < 1 for value in told.values())


def test_a_trunk_trained_elsewhere_begins_with_heads_for_the_stored_space(
    data_packs: Path, parent: Bundle, material: Material
) -> None:
    """Its own find nothing there; solved from what is stored they find photos that they were not solved from."""
    shipped = load_bundle(ROOT / "ml" / "weights" / "budget")
    images = few_photos(data_packs, per_class=12, size=96)
    asked = AskedPhotos.of(images, parent)
    is_new = torch.arange(len(images)) % 4 == 0
    rows, queries = torch.nonzero(~is_new).flatten(), torch.nonzero(is_new).flatten()

    weights = fitted_heads(shipped, images, rows, asked.coded[0][rows], asked.coded[1][rows])

    def precision(weights: Any) -> float:
        encoder = encoder_from_weights(shipped.manifest.encoder_config, weights)
        pixels = torch.from_numpy(inputs_of(images, queries, 96)).permute(0, 3, 1, 2)
        entries = asked.coded[0][rows], asked.coded[1][rows]
        found = mean_precisions(
            outputs_of(encoder, pixels), images.labels[queries].numpy(), entries, images.labels[rows].numpy()
        )
        return float(found.mean())

    assert precision(shipped.weights) < 0.35
    assert precision(weights) > 0.7
    assert all(
        np.array_equal(weights[name], shipped.weights[name]) for name in weights if name.startswith("trunk.")
    )
    with pytest.raises(ValueError, match="codes of 64 and embeddings of 128 are stored"):
        fitted_heads(shipped, images, rows, asked.coded[0][rows][:, :64], asked.coded[1][rows])
    candidate = replace(
        material,
        start=shipped,
        recipe=candidate_recipe(recipe_for("budget", [9] * 10, method="compact"), parent, "bct"),
    )
    assert candidate.is_warm
    assert not replace(material, start=shipped).is_warm


def test_heads_are_solved_from_stored_training_photos_alone(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not at all where training goes on from the version that stored them, or from its own checkpoint."""
    shipped = load_bundle(ROOT / "ml" / "weights" / "budget")
    calls: list[list[int]] = []

    def watched(start: Bundle, _images: Any, rows: torch.Tensor, *_: Any) -> Any:
        assert start is shipped
        calls.append(rows.tolist())
        raise Killed

    monkeypatch.setattr(catalogue_candidate, "fitted_heads", watched)
    budget = candidate_recipe(recipe_for("budget", [9] * 10, method="compact"), material.parent, "bct")
    with pytest.raises(Killed):
        run_pilot(replace(material, start=shipped, recipe=replace(budget, stored_size=96)))

    division = divide(material.images.labels)
    assert calls == [[row for row in division.training.tolist() if material.stored.present[row]]]


def test_validation_photos_ask_what_is_stored_and_never_what_is_not(
    material: Material, parent: Bundle
) -> None:
    """By the parent's own encoder the cross-test is its self-test; without entries there is nothing to ask."""
    division = divide(material.images.labels)
    validation = Validation.of(material.images, division, material.stored, 32)
    assert validation is not None
    present = material.stored.present[division.validation.numpy()]
    assert len(validation.old) == present.sum() <= len(present)
    nothing = replace(material.stored, present=np.zeros(len(material.images), np.bool_))
    assert Validation.of(material.images, division, nothing, 32) is None
    assert validation(ImageEncoder(material.recipe.method.encoder).eval()) < np.nanmean(validation.old)


def test_photos_that_validate_are_no_part_of_what_it_is_held_to(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray[Any, Any]] = []

    def watched(codes: Any, embeddings: Any, labels: Any, names: Any) -> Any:
        seen.extend([embeddings, labels])
        return stored_of(codes, embeddings, labels, names)

    monkeypatch.setattr(catalogue_candidate, "stored_of", watched)
    run_pilot(material)

    embeddings, labels = seen
    division = divide(material.images.labels)
    assert np.array_equal(embeddings, material.stored.embeddings[division.training.numpy()])
    absent = ~material.stored.present[division.training.numpy()]
    assert (labels[absent] == -1).all()
    assert (labels[~absent] >= 0).all()


def test_a_recipe_that_cannot_be_compared_is_refused_before_any_work(
    material: Material, tmp_path: Path
) -> None:
    encoder = replace(material.recipe.method.encoder, code_bits=64)
    recipe = replace(material.recipe, method=replace(material.recipe.method, encoder=encoder))

    with pytest.raises(ValueError, match="code_bits is 64, the parent's codes have 128"):
        train_candidate(replace(material, recipe=recipe), tmp_path / "bundle")
