"""A bundle from any catalogue's labelled photos: which photo plays which part, and what comes out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.artifacts import load_bundle
from ml.base_version import catalogue_photos
from ml.base_version.catalogue import calibration_of, initial_weights, recipe_for, train_catalogue
from ml.base_version.catalogue_photos import divide, spread, validation_rows
from ml.base_version.recipe import Recipe, recipe_of
from ml.config import merged
from ml.data.images import ImageSet
from tests.conftest import ROOT
from tests.ml.photos import few_photos

LABELS = torch.tensor([0] * 40 + [1] * 8 + [2] * 7 + [3] + [-1] * 4)
TINY = {
    "stored_size": 40,
    "method": {
        "encoder": {
            "input_size": 32, "code_bits": 64, "code_hidden": 32, "dimension": 32,
            "trunk": {"widths": [16, 16, 32, 32]},
        },
    },
    "fit": {"epochs": 12, "warmup_epochs": 1.0, "validate_every": 4},
    "sampling": {"classes_per_batch": 5, "images_per_class": 4, "sizes": [[1.0, 32]]},
}  # fmt: skip


def tiny_recipe(images: ImageSet) -> Recipe:
    return merged(recipe_for("parity", torch.bincount(images.labels).tolist()), TINY)


def test_one_photo_in_eight_of_larger_classes_is_for_validation_and_never_trained_on() -> None:
    division = divide(LABELS)

    held = LABELS[division.validation]
    assert [int((held == label).sum()) for label in range(4)] == [5, 1, 0, 0]
    assert sorted([*division.training.tolist(), *division.validation.tolist()]) == list(range(len(LABELS)))
    assert (division.labels[division.validation] == -1).all()
    assert torch.equal(division.labels[division.training], LABELS[division.training])


@pytest.mark.parametrize(
    ("fraction", "kept"),
    [(1.0, [35, 7, 7, 1]), (0.5, [18, 4, 4, 1]), (0.1, [4, 1, 1, 1]), (0.001, [1, 1, 1, 1])],
)
def test_a_share_of_each_class_keeps_its_label_and_at_least_one(fraction: float, kept: list[int]) -> None:
    division = divide(LABELS, label_fraction=fraction)

    assert [int((division.labels == label).sum()) for label in range(4)] == kept
    shown = division.labels >= 0
    assert torch.equal(division.labels[shown], LABELS[shown])
    # the same photos are set aside whatever the share, and the same ones again
    assert torch.equal(division.validation, divide(LABELS).validation)
    assert torch.equal(division.labels, divide(LABELS, label_fraction=fraction).labels)


def test_another_seed_chooses_other_photos() -> None:
    assert not torch.equal(divide(LABELS, seed=1).validation, divide(LABELS, seed=0).validation)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"allowed: above 0, up to 1"):
        divide(LABELS, label_fraction=fraction)


@pytest.mark.parametrize(
    ("sizes", "batch", "steps"),
    [([30] * 10, (10, 6), (300, 420)), ([3] * 2, (2, 16), (50, 70)), ([10] * 1000, (32, 4), (2500, 3500))],
)
def test_batches_and_length_suit_the_catalogue(
    sizes: list[int], batch: tuple[int, int], steps: tuple[int, int]
) -> None:
    recipe = recipe_for("parity", sizes)

    assert (recipe.sampling.classes_per_batch, recipe.sampling.images_per_class) == batch
    per_epoch = max(1, sum(sizes) // (batch[0] * batch[1]))
    assert steps[0] <= recipe.fit.epochs * per_epoch <= steps[1]
    assert recipe.fit.epochs >= 10
    longer = recipe_for("parity", sizes, from_scratch=True)
    assert longer.fit.epochs > recipe.fit.epochs
    assert recipe.method.kind == "twin-bottleneck"


def test_one_class_cannot_be_told_apart() -> None:
    with pytest.raises(ValueError, match="1 classes, at least 2"):
        recipe_for("parity", [30])


def test_training_starts_from_a_version_of_the_same_shape_only() -> None:
    start = load_bundle(ROOT / "ml" / "weights" / "default")

    found = initial_weights(start, recipe_of("parity"))

    assert found is start.weights
    assert initial_weights(start, recipe_of("budget")) is None
    assert initial_weights(None, recipe_of("parity")) is None


@pytest.fixture(scope="module")
def photos(data_packs: Path) -> ImageSet:
    """90 photos of ten classes, the last one's without a label."""
    images = few_photos(data_packs, per_class=9, size=40)
    return replace(images, names=images.names[:9], labels=torch.where(images.labels == 9, -1, images.labels))


def test_a_catalogue_becomes_a_bundle_that_says_how_it_came_about(photos: ImageSet, tmp_path: Path) -> None:
    images = replace(photos, labels=photos.labels)
    recipe = tiny_recipe(replace(images, labels=images.labels[images.labels >= 0]))

    made = train_catalogue(
        images, recipe, tmp_path / "bundle", label_fraction=0.5, command="manage.py train_base",
        checkpoint=tmp_path / "fit",
    )  # fmt: skip

    manifest = load_bundle(tmp_path / "bundle").manifest
    assert made.bundle.digest == manifest.digest
    assert manifest.method == "twin-bottleneck"
    assert manifest.labels == images.names
    note = manifest.training
    assert {
        name: note[name] for name in ("command", "label_fraction", "validation_images", "labels_used")
    } == {
        "command": "manage.py train_base",
        "label_fraction": 0.5,
        "validation_images": 9,
        "labels_used": 36,
    }
    assert (note["seed"], note["images"], note["classes"]) == (0, 90, 9)
    assert note["data_fingerprint"] == images.fingerprint
    assert note["started_from"] is None
    assert note["recipe"]["fit"]["epochs"] == 12
    assert 0 <= manifest.metrics["validation"]["best_mean_map"] <= 1
    calibration = made.bundle.calibration
    assert 0 < calibration.weak <= calibration.strong < 1
    assert made.is_warm is False
    with pytest.raises(FileExistsError):
        train_catalogue(images, recipe, tmp_path / "bundle")


def test_a_catalogue_without_a_validation_part_is_calibrated_by_leaving_each_photo_out(
    data_packs: Path,
) -> None:
    images = few_photos(data_packs, per_class=4, size=112)
    encoder = load_bundle(ROOT / "ml" / "weights" / "default").encoder()
    division = divide(images.labels)
    assert len(division.validation) == 0

    calibration = calibration_of(encoder, images, division)

    assert 0 < calibration.weak <= calibration.strong < 1
    assert calibration.code_weight + calibration.embedding_weight > 0
    assert calibration.pool_size == 40


def test_cleanly_separated_photos_give_no_false_certainty(data_packs: Path) -> None:
    """Photos that were trained on stand far apart; a few of them prove no probability above (Q + 1) / (Q + 2)."""
    from ml.training.calibration import Similarities, fit_fusion

    relevant = np.arange(10)[:, None] == np.arange(60)[None, :] % 10
    random = np.random.default_rng(0)
    similarity = np.where(relevant, 0.9, 0.0) + 0.01 * random.standard_normal(relevant.shape)
    pairs = Similarities(similarity, similarity, relevant)

    sure, careful = fit_fusion(pairs, pairs), fit_fusion(pairs, pairs, is_cautious=True)

    assert sure.probability(np.array(0.9), np.array(0.9)) > 0.999
    assert careful.probability(np.array(0.9), np.array(0.9)) == pytest.approx(11 / 12, abs=0.01)
    assert careful.probability(np.array(0.0), np.array(0.0)) < 0.01
    assert careful.code_weight == careful.embedding_weight  # of equally good mixes the even one


def test_validation_photos_are_spread_over_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_photos, "MAX_COMPARED", 5)

    assert spread(torch.arange(9)).tolist() == [0, 2, 4, 6, 8]
    assert spread(torch.arange(3)).tolist() == [0, 1, 2]


def test_the_epoch_is_chosen_over_all_classes_by_labels_that_training_sees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalogue_photos, "MAX_COMPARED", 10)
    labels = torch.cat(
        [torch.full((50,), -1), torch.arange(8).repeat_interleave(40)]
    )  # unlabelled photos came first
    division = divide(labels, label_fraction=0.5)

    queries, entries = validation_rows(division)

    assert len(entries) == 40
    assert set(labels[entries].tolist()) == set(range(8))
    assert (division.labels[entries] >= 0).all()
    assert set(queries.tolist()) <= set(division.validation.tolist())


def test_photos_without_label_make_no_match_too_sure(data_packs: Path) -> None:
    """Asked as queries they would find themselves, and nothing else would ever be called strong."""
    images = few_photos(data_packs, per_class=4, size=112)
    encoder = load_bundle(ROOT / "ml" / "weights" / "default").encoder()
    hidden = replace(images, labels=torch.where(images.labels == 9, -1, images.labels))

    alone, beside = (calibration_of(encoder, one, divide(one.labels)) for one in (images, hidden))

    assert abs(beside.strong - alone.strong) < 0.1
