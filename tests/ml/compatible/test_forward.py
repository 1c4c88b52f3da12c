"""Maps from stored embeddings to a new encoder's, and which images are encoded anew first."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from ml.methods.compatible.forward import (
    PUBLISHED_EPOCHS,
    PUBLISHED_WIDTH,
    Classifier,
    ForwardConfig,
    ForwardMap,
    Stored,
    fastfill_loss,
    fit_forward_map,
)
from ml.methods.compatible.forward_order import class_mean_distances, largest_first

D, CLASSES = 8, 6
QUICK = ForwardConfig(width=32, epochs=30, batch=50, learning_rate=1e-2)
Floats = NDArray[np.float32]


def unit(vectors: NDArray[np.floating]) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def directions(count: int, dimension: int = D, *, seed: int = 0) -> Floats:
    return unit(np.random.default_rng(seed).normal(size=(count, dimension)))


def turned(vectors: Floats, *, seed: int = 7) -> Floats:
    """By a rotation, as an independent encoder's space is."""
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0]
    return unit(vectors @ rotation)


def left_by(stored: Stored, new: Floats, unseen: Stored, wanted: Floats, **changes: object) -> float:
    """Mean squared distance to what the new encoder gives images that the map was not fitted to."""
    found = fit_forward_map(stored, new, QUICK, seed=0, **changes)  # type: ignore[arg-type]
    moved, _ = found.applied(unseen)
    return float(np.square(moved - wanted).sum(axis=1).mean())


def test_an_old_space_is_turned_into_an_unrelated_new_one() -> None:
    old, unseen = directions(600), directions(200, seed=1)
    left = left_by(Stored(old), turned(old), Stored(unseen), turned(unseen))
    assert left < 0.1
    assert np.square(unseen - turned(unseen)).sum(axis=1).mean() > 1  # without a map


def test_side_information_brings_what_the_old_embedding_lost() -> None:
    """The old embedding shows half of what there is; the side information all of it."""
    whole, unseen = directions(600), directions(200, seed=1)
    new, wanted = turned(whole), turned(unseen)
    seen = [unit(part * (np.arange(D) < D // 2)) for part in (whole, unseen)]
    without = left_by(Stored(seen[0]), new, Stored(seen[1]), wanted)
    beside = left_by(Stored(seen[0], whole * 30), new, Stored(seen[1], unseen * 30), wanted)
    assert beside < 0.4 * without


def test_without_side_information_its_branch_is_not_there() -> None:
    plain = ForwardMap(D, 0, D, width=32, seed=0)
    beside = ForwardMap(D, 5, D, width=32, seed=0)
    assert plain.side is None
    assert [layer.in_features for layer in plain.modules() if isinstance(layer, torch.nn.Linear)] == [
        D, 2 * D, 2 * D, 32, 32, 32,
    ]  # fmt: skip
    assert [layer.in_features for layer in beside.modules() if isinstance(layer, torch.nn.Linear)] == [
        D, 2 * D, 5, 2 * D, 4 * D, 32, 32, 32,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="side information is missing"):
        beside.applied(Stored(directions(3)))
    with pytest.raises(ValueError, match="side information is given"):
        plain.applied(Stored(directions(3), directions(3, 5)))


def test_defaults_are_the_published_settings() -> None:
    config = ForwardConfig()
    assert (config.width, config.epochs, config.batch) == (PUBLISHED_WIDTH, PUBLISHED_EPOCHS, 1_024)
    assert (PUBLISHED_WIDTH, PUBLISHED_EPOCHS) == (2_048, 80)
    assert (config.learning_rate, config.weight_decay, config.warmup_epochs) == (5e-4, 3e-5, 5)
    assert (config.schedule().final_share, config.schedule().warmup_epochs) == (0, 5)
    with pytest.raises(ValueError, match="width is 0"):
        ForwardConfig(width=0)
    with pytest.raises(ValueError, match="learning_rate 0"):
        ForwardConfig(learning_rate=0)


def test_the_same_input_gives_the_same_map_and_leaves_other_draws_alone() -> None:
    old = directions(50)
    config = replace(QUICK, epochs=2)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, second, third = (
        fit_forward_map(Stored(old), turned(old), config, seed=seed).applied(Stored(old))[0]
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.rand(2), expected)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - third).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)


def test_what_is_made_of_an_image_does_not_depend_on_the_others() -> None:
    old = directions(60)
    found = fit_forward_map(Stored(old), turned(old), replace(QUICK, epochs=2), seed=0)
    together, alone = found.applied(Stored(old)), found.applied(Stored(old[:1]))
    np.testing.assert_allclose(alone[0], together[0][:1], atol=1e-6)
    np.testing.assert_allclose(alone[1], together[1][:1], atol=1e-6)


def test_no_batch_is_a_single_image() -> None:
    """Batch norm has nothing to say of one."""
    for count in (2, 3, 5):
        old = directions(count)
        found = fit_forward_map(Stored(old), turned(old), replace(QUICK, batch=2, epochs=1), seed=0)
        assert np.isfinite(found.applied(Stored(old))[0]).all()
    with pytest.raises(ValueError, match="1 stored and 1 new"):
        fit_forward_map(Stored(directions(1)), directions(1), QUICK, seed=0)


def test_the_loss_of_fastfill_is_least_at_the_logarithm_of_the_error() -> None:
    moved, new = torch.tensor([[0.0, 2.0], [3.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    classifier, labels = torch.tensor([[0.0, 4.0], [4.0, 0.0]]), torch.tensor([0, -1])
    told = float(F.cross_entropy(torch.tensor([[4.0, 0.0]]), torch.tensor([0])))  # h is read normalised
    log_errors = torch.tensor([1.0 + told, 4.0]).log().requires_grad_()
    loss = fastfill_loss(moved, new, log_errors, classifier, labels)
    assert float(loss.detach()) == pytest.approx((1 + np.log(1 + told) + 1 + np.log(4)) / 4, abs=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert log_errors.grad is not None
    assert float(log_errors.grad.abs().max()) < 1e-6


def test_fastfill_foretells_which_images_a_map_serves_badly() -> None:
    """The new embedding of one half of the sphere cannot be told from the old one."""
    rng = np.random.default_rng(0)
    old, unseen = directions(800), directions(300, seed=1)

    def seen(vectors: Floats) -> Floats:
        lost = vectors[:, :1] > 0
        return unit(np.where(lost, directions(len(vectors), seed=int(rng.integers(1_000))), turned(vectors)))

    labels = np.full(len(old), -1)
    labels[:4] = [0, 1, 2, 3]
    classifier = Classifier(20 * directions(CLASSES, seed=5), labels)
    found = fit_forward_map(Stored(old), seen(old), QUICK, seed=0, classifier=classifier)
    _, log_errors = found.applied(Stored(unseen))
    first = largest_first(log_errors)[: int((unseen[:, 0] > 0).sum())]
    assert (unseen[first, 0] > 0).mean() > 0.9


def test_fastfill_brings_images_to_the_new_encoders_classes() -> None:
    """Its classifier tells those that the map was not fitted to better apart than after FCT."""
    rng = np.random.default_rng(2)
    labels, centres = rng.integers(0, CLASSES, 500), directions(CLASSES, seed=3)
    old = Stored(unit(centres[labels] + rng.normal(0, 0.3, (500, D))))
    new = unit(turned(centres)[labels] + rng.normal(0, 0.5, (500, D)))
    rows, seen, unseen = 20 * turned(centres), np.arange(300), np.arange(300, 500)

    def told(classifier: Classifier | None) -> float:
        found = fit_forward_map(old.picked(seen), new[seen], QUICK, seed=0, classifier=classifier)
        logits = found.applied(old.picked(unseen))[0] @ rows.T
        return float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels[unseen])))

    assert told(Classifier(rows, labels[seen])) < 0.6 * told(None)


def test_orders_begin_with_the_largest_and_of_equals_with_the_first() -> None:
    np.testing.assert_array_equal(largest_first(np.array([1.0, 3.0, 2.0, 3.0])), [1, 3, 2, 0])
    with pytest.raises(ValueError, match="1 of 2 values"):
        largest_first(np.array([1.0, np.nan]))


def test_distances_are_to_the_own_class_mean_and_without_a_class_to_the_nearest() -> None:
    east, north = [1.0, 0.0], [0.0, 1.0]
    between = [np.sqrt(0.5), np.sqrt(0.5)]
    vectors = np.array([east, east, north, north, between], np.float32)
    found = class_mean_distances(vectors, np.array([0, 0, 1, 1, -1]))
    np.testing.assert_allclose(found, [0, 0, 0, 0, 1 - np.sqrt(0.5)], atol=1e-6)
    misplaced = class_mean_distances(vectors, np.array([5, 5, 9, 5, -1]))
    tilted = np.array([2.0, 1.0]) / np.sqrt(5)  # the mean of two of east and one of north
    np.testing.assert_allclose(misplaced[[0, 2, 3]], [1 - tilted[0], 0, 1 - tilted[1]], atol=1e-6)
    with pytest.raises(ValueError, match="0 of them known"):
        class_mean_distances(vectors, np.full(5, -1))


def test_side_information_of_other_images_is_refused() -> None:
    with pytest.raises(ValueError, match="3 embeddings with side information of 2"):
        Stored(directions(3), directions(2, 4))
