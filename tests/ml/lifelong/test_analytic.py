"""The last layer solved anew: it learns exactly, in any order, and forgets exactly."""

import numpy as np
import pytest
import torch

from ml.methods.lifelong.analytic import Floats, RidgeLayer, hidden_of, last_layer, rarity, with_last_layer
from ml.models.encoder import CodeHead
from tests.ml.lifelong.worlds import SETS, random_signs

WIDTH, BITS, RIDGE = 9, 16, 0.7
Known = tuple[Floats, Floats, Floats]


def items(count: int, seed: int) -> Known:
    """Hidden activations with a 1 behind them, +-1 targets, and how much each item counts."""
    rng = np.random.default_rng(seed)
    hidden = np.hstack([rng.normal(size=(count, WIDTH)), np.ones((count, 1))])
    return hidden, random_signs(count, BITS, rng).astype(np.float64), rng.uniform(0.2, 3, count)


def start() -> RidgeLayer:
    return RidgeLayer.unfitted(np.random.default_rng(9).normal(size=(WIDTH + 1, BITS)))


def learned(layer: RidgeLayer, *shards: Known) -> RidgeLayer:
    for hidden, targets, counts in shards:
        layer = layer.fitted(hidden, targets, counts, ridge=RIDGE)
    return layer


def assert_same(left: RidgeLayer, right: RidgeLayer) -> None:
    np.testing.assert_allclose(left.weights, right.weights, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(left.gram, right.gram, rtol=1e-10, atol=1e-10)


def test_updates_one_after_another_equal_one_fit_of_everything_that_was_ever_learned() -> None:
    shards = [items(count, seed) for seed, count in enumerate((50, 3, 20))]
    joint = learned(start(), tuple(np.concatenate(parts) for parts in zip(*shards, strict=True)))  # type: ignore[arg-type]
    assert_same(learned(start(), *shards), joint)


def test_the_order_in_which_items_are_learned_does_not_matter() -> None:
    a, b, c = items(30, 1), items(40, 2), items(5, 3)
    assert_same(learned(start(), a, b, c), learned(start(), c, a, b))


def test_what_was_learned_can_be_forgotten_again() -> None:
    kept, gone = items(50, 1), items(20, 2)
    both = learned(start(), kept, gone)
    hidden, targets, counts = gone
    assert_same(both.fitted(hidden, targets, counts, ridge=RIDGE, sign=-1), learned(start(), kept))
    hidden, targets, counts = kept
    nothing = learned(start(), kept).fitted(hidden, targets, counts, ridge=RIDGE, sign=-1)
    np.testing.assert_allclose(nothing.weights, start().weights, rtol=1e-8, atol=1e-10)


def test_nothing_to_learn_changes_nothing() -> None:
    """Invariant 10, of a layer that knows something and of one that does not."""
    for layer in (start(), learned(start(), items(50, 1))):
        assert_same(learned(layer, items(0, 2)), layer)


def test_the_weights_minimise_the_weighted_squares_and_the_distance_to_the_first_weights() -> None:
    """Oracle: the gradient of ridge * |W - W_0|^2 + sum of count * |h W - t|^2 is zero there."""
    hidden, targets, counts = items(50, 1)
    found = learned(start(), (hidden, targets, counts)).weights
    weights = torch.tensor(found, requires_grad=True)
    rest = torch.from_numpy(hidden) @ weights - torch.from_numpy(targets)
    loss = (torch.from_numpy(counts)[:, None] * rest.square()).sum()
    loss = loss + RIDGE * (weights - torch.from_numpy(start().weights)).square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert float(gradient.abs().max()) < 1e-9 * float(loss.detach())


def test_a_stronger_ridge_stays_nearer_to_the_first_weights() -> None:
    hidden, targets, counts = items(50, 1)
    moves = [
        np.abs(start().fitted(hidden, targets, counts, ridge=ridge).weights - start().weights).max()
        for ridge in (0.1, 10.0, 1e9)
    ]
    assert moves[0] > moves[1] > moves[2]
    assert moves[2] < 1e-6


def test_an_item_counts_less_the_more_of_its_kind_there_are() -> None:
    weights = rarity([SETS[0]] * 30 + [SETS[1]] * 120, 0.5)
    np.testing.assert_allclose(weights, [1.0] * 30 + [0.5] * 120)
    np.testing.assert_array_equal(rarity([SETS[0], SETS[1], SETS[1]], 0.0), 1.0)


def test_a_head_with_a_solved_layer_gives_what_the_layer_gives_and_the_first_head_stays() -> None:
    torch.manual_seed(0)
    head = CodeHead(5, WIDTH, BITS)
    before = last_layer(head).copy()
    inputs = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    hidden = hidden_of(head, inputs)
    assert hidden.shape == (7, WIDTH + 1)
    with torch.no_grad():
        np.testing.assert_allclose(
            hidden @ before, head(torch.from_numpy(inputs)).numpy(), rtol=1e-4, atol=1e-5
        )
        solved = with_last_layer(head, 2 * before)
        np.testing.assert_allclose(
            solved(torch.from_numpy(inputs)).numpy(), 2 * (hidden @ before), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_array_equal(last_layer(head), before)
    np.testing.assert_array_equal(hidden_of(solved, inputs), hidden)


def test_a_layer_solved_for_codes_of_separate_classes_gives_every_item_its_code() -> None:
    rng = np.random.default_rng(0)
    words, classes = random_signs(4, BITS, rng).astype(np.float64), np.repeat(np.arange(4), 25)
    hidden = np.hstack([np.eye(4)[classes] * 5 + rng.normal(0, 0.2, (100, 4)), np.ones((100, 1))])
    layer = RidgeLayer.unfitted(np.zeros((5, BITS)))
    layer = layer.fitted(hidden[:50], words[classes[:50]], np.ones(50), ridge=0.1)
    layer = layer.fitted(hidden[50:], words[classes[50:]], np.ones(50), ridge=0.1)
    assert np.array_equal(np.sign(hidden @ layer.weights), words[classes])


@pytest.mark.parametrize("items_learned", [10, 5_000])
def test_what_a_layer_keeps_of_its_items_is_one_matrix_of_its_own_width(items_learned: int) -> None:
    """Invariant 12."""
    layer = learned(start(), items(items_learned, 1))
    assert layer.gram.shape == (WIDTH + 1, WIDTH + 1)
    assert layer.weights.shape == (WIDTH + 1, BITS)
