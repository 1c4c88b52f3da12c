"""Who knew what: shares of images and of classes that stand in each other, and what trunks and heads learn from."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.experiments.compatible.heads import HeadConfig, ViewStream, train_heads
from ml.experiments.compatible.new_rows import new_features
from ml.experiments.compatible.places import SMOKE, Place
from ml.experiments.compatible.settings import CHAIN, UPGRADES, WIDTHS, Generation, learned_classes
from ml.experiments.compatible.trunks import (
    FEWEST_STEPS,
    STEPS,
    VIEWS,
    Features,
    features_of,
    planned_trunk,
    recipe_of,
)
from ml.experiments.data import ClassSplit
from ml.experiments.ledger import identity_key
from tests.ml.compatible.shop import BASE, LABELS, WIDTH, options_of, place_of, split_of


def rows(generation: Generation, split: ClassSplit) -> set[int]:
    """Of the training images that it learned from."""
    return set(np.flatnonzero(generation.known(split) >= 0).tolist())


def many() -> ClassSplit:
    """Fifty training images of each of twenty classes."""
    names = tuple(f"{label}" for label in range(20))
    labels = np.repeat(np.arange(20), 50)
    return replace(split_of(), base=names, train=np.arange(1_000), train_labels=labels)


def test_images_of_a_smaller_share_are_among_those_of_a_larger_one() -> None:
    split = many()
    shares = [rows(Generation(images=share), split) for share in (0.1, 0.3, 0.6, 1.0)]
    assert [len(share) for share in shares] == [100, 300, 600, 1_000]
    for smaller, larger in pairwise(shares):
        assert smaller < larger
    of_each = np.bincount(split.train_labels[sorted(shares[1])])
    assert of_each.tolist() == [15] * 20


def test_classes_that_are_known_and_the_rest_are_all_and_share_none() -> None:
    split = many()
    known, rest = (learned_classes(split, which) for which in ("known", "rest"))
    assert known.sum() == 6
    assert np.array_equal(rest, ~known)
    assert learned_classes(split, "all").all()
    by_rows = [rows(Generation(classes=which), split) for which in ("known", "rest")]
    assert not by_rows[0] & by_rows[1]
    assert by_rows[0] | by_rows[1] == rows(Generation(), split)
    for which, flags in (("known", known), ("rest", rest)):
        found = Generation(classes=which).known(split)  # type: ignore[arg-type]
        assert np.array_equal(found, np.where(flags[split.train_labels], split.train_labels, -1))


def test_the_same_split_always_knows_the_same() -> None:
    for generation in CHAIN:
        assert np.array_equal(generation.known(many()), generation.known(many()))


def test_what_the_old_encoder_knew_the_new_one_knows_too_but_for_new_classes() -> None:
    split = many()
    for upgrade in UPGRADES:
        old, new = rows(upgrade.old, split), rows(upgrade.new, split)
        if upgrade.name == "new-classes":
            assert not old & new
        else:
            assert old < new
    for before, after in pairwise(CHAIN):
        assert rows(before, split) <= rows(after, split)
    assert len({generation.title for generation in CHAIN}) == len(CHAIN)


def test_a_trunk_takes_fewer_steps_over_fewer_images_and_its_generation_is_its_width() -> None:
    split = many()

    def steps(generation: Generation) -> int:
        recipe = recipe_of(split, generation, smoke=False)
        known = generation.known(split)
        drawn = recipe.sampling.classes_per_batch * recipe.sampling.images_per_class
        assert recipe.sampling.classes_per_batch == len(np.unique(known[known >= 0]))
        assert recipe.method.encoder.trunk.widths == WIDTHS[generation.width]
        return round(recipe.fit.epochs * max(1, int((known >= 0).sum()) // drawn))

    assert steps(Generation()) == pytest.approx(STEPS, rel=0.02)
    assert steps(Generation(images=0.6)) == pytest.approx(0.6 * STEPS, rel=0.02)
    assert steps(Generation(images=0.1)) == pytest.approx(FEWEST_STEPS, rel=0.02)
    steps(Generation(width="large", classes="known"))


def test_generations_have_trunks_of_their_own_under_one_setting(tmp_path: Path) -> None:
    split, options = many(), options_of(tmp_path)
    generations = {upgrade.name: upgrade.old for upgrade in UPGRADES}.values()
    every = {*generations, *(upgrade.new for upgrade in UPGRADES), *CHAIN}
    runs = [planned_trunk(split, generation, options) for generation in every]
    assert len({identity_key(run.identity) for run in runs}) == len({run.name for run in runs}) == len(every)
    assert {(run.setting, run.seed) for run in runs} == {("shop/trunks", 0)}
    other = replace(split, fingerprint="another")
    assert (
        planned_trunk(other, CHAIN[0], options).identity != planned_trunk(split, CHAIN[0], options).identity
    )


def test_a_trunk_says_of_every_image_and_of_views_of_what_it_learned(tmp_path: Path) -> None:
    split, options, generation = split_of(), options_of(tmp_path), Generation(images=0.3, classes="known")
    found = features_of(split, generation, planned_trunk(split, generation, options), options)
    known = generation.known(split)
    assert np.array_equal(found.rows, split.train[known >= 0])
    assert np.array_equal(found.labels, LABELS[found.rows])
    assert set(found.labels.tolist()) == set(np.flatnonzero(learned_classes(split, "known")).tolist())
    assert found.vectors.shape[0] == len(LABELS)
    assert found.views.shape == (VIEWS, len(found.rows), found.vectors.shape[1])
    own = found.vectors[found.rows]
    np.testing.assert_allclose(own.mean(axis=0), 0, atol=1e-3)
    # A feature that is the same for all images, as of dead channels, stays so.
    scales = own.std(axis=0)
    np.testing.assert_allclose(scales[scales > 0.1], 1, atol=1e-2)
    assert (scales > 0.1).any()
    apart = np.abs(found.views[0] - found.views[1]).max(axis=1)
    assert (apart > 0).all()


def test_wrong_labels_are_those_of_what_new_heads_learn_alone(tmp_path: Path) -> None:
    place, noisy = place_of(tmp_path), place_of(tmp_path, noise=0.4)
    clean, wrong = new_features(place), new_features(noisy)
    assert np.array_equal(clean.labels, LABELS[clean.rows])
    turned = clean.labels != wrong.labels
    assert 0.25 < turned.mean() < 0.55
    assert set(wrong.labels.tolist()) <= set(range(BASE))
    for name in ("vectors", "views", "rows"):
        assert np.array_equal(getattr(clean, name), getattr(wrong, name))
    assert np.array_equal(noisy.features[0].labels, place.features[0].labels)
    assert np.array_equal(new_features(noisy).labels, wrong.labels)
    assert (noisy.title, place.title) == ("shop/more-data, 40% wrong labels", "shop/more-data")
    union = Place(split_of("union"), place.upgrade, place.options, noise=0.1)
    assert union.title == "more-data, 10% wrong labels"


def made(labels: np.ndarray) -> Features:
    """A view says in its first number of which image it is, in its second which view."""
    views = np.zeros((VIEWS, len(labels), 3), np.float32)
    views[..., 0] = np.arange(len(labels))
    views[..., 1] = np.arange(VIEWS)[:, None]
    return Features(np.zeros((50, 3), np.float32), views, np.arange(len(labels)) + 5, labels)


def test_batches_hold_distinct_classes_and_beside_each_view_what_the_old_encoder_said_of_its_image() -> None:
    labels = np.repeat([2, 4, 7, 9], [2, 6, 9, 20])
    old = np.arange(50, dtype=np.float32)[:, None] * np.array([[10.0, 100.0]], np.float32)
    stream = ViewStream(
        made(labels), old, HeadConfig(steps=5, classes_per_batch=3, images_per_class=4), seed=1
    )
    batches = list(stream.epoch(2))
    assert len(batches) == stream.steps_per_epoch == 5
    for batch in batches:
        image = batch.images[:, 0].long()
        assert np.array_equal(labels[image.numpy()], batch.labels.numpy())
        assert torch.unique(batch.labels, return_counts=True)[1].tolist() == [4, 4, 4]
        torch.testing.assert_close(batch.images[:, 3:], torch.from_numpy(old[image.numpy() + 5]))
        for label in (4, 7, 9):  # enough images to show each once
            shown = image[batch.labels == label]
            assert len(torch.unique(shown)) == len(shown)
    assert len(torch.unique(torch.cat([batch.images[:, 1] for batch in batches]))) == VIEWS
    again = list(stream.epoch(2))
    assert all(torch.equal(one.images, other.images) for one, other in zip(batches, again))
    assert not torch.equal(batches[0].images, next(iter(stream.epoch(3))).images)


def test_heads_are_the_same_for_the_same_seed_and_give_unit_embeddings_of_every_image(tmp_path: Path) -> None:
    features, _ = place_of(tmp_path).features
    first, again, other = (train_heads(features, SMOKE, classes=BASE, seed=seed) for seed in (0, 0, 1))
    assert features.vectors.shape == (len(LABELS), WIDTH)
    np.testing.assert_allclose(np.linalg.norm(first.encoded.embeddings, axis=1), 1, atol=1e-5)
    assert first.encoded.codes.shape == (len(LABELS), SMOKE.code_bits // 8)
    assert first.centres.shape == (BASE, SMOKE.dimension)
    assert np.array_equal(first.encoded.embeddings, again.encoded.embeddings)
    assert np.array_equal(first.encoded.codes, again.encoded.codes)
    assert not np.array_equal(first.encoded.embeddings, other.encoded.embeddings)
    assert len(first.history) == SMOKE.epochs
