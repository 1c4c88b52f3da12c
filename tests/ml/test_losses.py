"""Losses against hand values and naive loops."""

import math

import pytest
import torch
from torch import Tensor, tensor
from torch.nn import functional as F  # noqa: N812

from ml.losses.classification import cosine_cross_entropy
from ml.losses.codes import balance_loss, code_loss, quantisation_loss
from ml.losses.multi_similarity import mine_pairs, multi_similarity_loss


def naive_multi_similarity(
    embeddings: Tensor, labels: Tensor, *, alpha: float, beta: float, centre: float, epsilon: float
) -> float:
    """The published formula, one anchor and one pair at a time."""
    count, total = len(labels), 0.0
    for i in range(count):
        similarity = [float(embeddings[i] @ embeddings[j]) for j in range(count)]
        positives = [j for j in range(count) if j != i and labels[j] == labels[i]]
        negatives = [j for j in range(count) if labels[j] != labels[i]]
        if not positives or not negatives:
            continue
        low, high = min(similarity[j] for j in positives), max(similarity[j] for j in negatives)
        kept_positives = [j for j in positives if similarity[j] < high + epsilon]
        kept_negatives = [j for j in negatives if similarity[j] > low - epsilon]
        if not kept_positives or not kept_negatives:
            continue
        pull = sum(math.exp(-alpha * (similarity[j] - centre)) for j in kept_positives)
        push = sum(math.exp(beta * (similarity[j] - centre)) for j in kept_negatives)
        total += math.log1p(pull) / alpha + math.log1p(push) / beta
    return total / count


def test_cosine_cross_entropy_matches_a_hand_calculation_and_reaches_both_sides() -> None:
    embeddings = tensor([[2.0, 0.0], [0.0, 3.0]], requires_grad=True)  # length must not matter
    weights = torch.eye(2, requires_grad=True)

    loss = cosine_cross_entropy(embeddings, weights, tensor([0, 1]), scale=4.0)
    loss.backward()  # type: ignore[no-untyped-call]

    assert loss.item() == pytest.approx(math.log(1 + math.exp(-4)), rel=1e-5)
    assert embeddings.grad is not None
    assert weights.grad is not None


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    loss = cosine_cross_entropy(torch.eye(2), torch.eye(2), tensor([0, 1]), scale=4.0, label_smoothing=0.1)

    right, wrong = math.log(1 + math.exp(-4)), math.log(1 + math.exp(4))
    assert loss.item() == pytest.approx(0.95 * right + 0.05 * wrong)


def test_cosine_cross_entropy_refuses_other_widths() -> None:
    with pytest.raises(ValueError, match="embeddings are 3-d, class weights 2-d"):
        cosine_cross_entropy(torch.zeros(1, 3), torch.eye(2), tensor([0]), scale=1.0)


@pytest.mark.parametrize("seed", range(5))
def test_multi_similarity_equals_the_double_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = F.normalize(torch.randn(24, 6, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(0, 5, (24,), generator=generator)

    loss = multi_similarity_loss(embeddings, labels)

    assert loss.item() == pytest.approx(
        naive_multi_similarity(embeddings, labels, alpha=2.0, beta=40.0, centre=0.5, epsilon=0.1), rel=1e-9
    )


def test_multi_similarity_is_the_same_in_the_distance_form() -> None:
    """TensorFlow Similarity uses distance = 1 - S with centre 1 - lambda."""
    generator = torch.Generator().manual_seed(7)
    embeddings = F.normalize(torch.randn(12, 4, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.arange(12) % 3
    distance = 1 - embeddings @ embeddings.T
    positive, negative = mine_pairs(1 - distance, labels, epsilon=0.1)
    pulls = (torch.exp(2 * (distance - 0.5)) * positive).sum(1).log1p() / 2
    pushes = (torch.exp(-40 * (distance - 0.5)) * negative).sum(1).log1p() / 40

    assert multi_similarity_loss(embeddings, labels).item() == pytest.approx((pulls + pushes).mean().item())


def test_multi_similarity_falls_with_positive_and_rises_with_negative_similarity() -> None:
    def loss_at(positive_angle: float, negative_angle: float) -> float:
        angles = tensor([0.0, positive_angle, negative_angle, negative_angle + positive_angle])
        points = torch.stack([angles.cos(), angles.sin()], dim=1)
        return multi_similarity_loss(points, tensor([0, 0, 1, 1])).item()

    assert loss_at(0.6, 0.9) > loss_at(0.3, 0.9)  # positives closer
    assert loss_at(0.6, 0.9) > loss_at(0.6, 1.1)  # negatives farther


def test_multi_similarity_is_zero_when_classes_are_opposite_points() -> None:
    points = tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], requires_grad=True)

    loss = multi_similarity_loss(points, tensor([0, 0, 1, 1]))
    loss.backward()  # type: ignore[no-untyped-call]

    assert loss.item() == 0.0  # the miner finds nothing left to learn
    assert points.grad is not None
    assert torch.equal(points.grad, torch.zeros_like(points))


def test_the_miner_keeps_the_pairs_of_a_hand_made_case() -> None:
    similarities = tensor(
        [[1.0, 0.8, 0.75, 0.1], [0.8, 1.0, 0.2, 0.1], [0.75, 0.2, 1.0, 0.9], [0.1, 0.1, 0.9, 1.0]]
    )
    positive, negative = mine_pairs(similarities, tensor([0, 0, 1, 1]), epsilon=0.1)

    # Anchor 0: positive 0.8 < 0.75 + 0.1 kept; negative 0.75 > 0.8 - 0.1 kept, 0.1 is not.
    # Anchor 1: negatives 0.2, 0.1 are far below 0.8: nothing kept. Anchor 2: 0.9 > 0.75 + 0.1: nothing kept.
    assert positive.nonzero().tolist() == [[0, 1]]
    assert negative.nonzero().tolist() == [[0, 2]]


def test_anchors_without_pairs_get_no_gradient() -> None:
    embeddings = F.normalize(
        torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=1
    ).requires_grad_()

    multi_similarity_loss(embeddings, tensor([0, 1, 2, 3])).backward()  # type: ignore[no-untyped-call]

    assert embeddings.grad is not None
    assert torch.equal(embeddings.grad, torch.zeros(4, 3))


def test_quantisation_is_one_at_zero_and_vanishes_for_decided_bits() -> None:
    assert quantisation_loss(torch.zeros(2, 4)).item() == 1.0
    assert quantisation_loss(torch.full((2, 4), 20.0)).item() == pytest.approx(0.0, abs=1e-12)


def test_balance_vanishes_when_every_bit_splits_the_batch() -> None:
    assert balance_loss(tensor([[20.0, -20.0], [-20.0, 20.0]])).item() == pytest.approx(0.0, abs=1e-12)
    assert balance_loss(tensor([[20.0, 20.0], [20.0, -20.0]])).item() == pytest.approx(0.5)


def test_code_loss_is_the_sum_of_its_weighted_parts() -> None:
    logits = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    centres = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    labels = tensor([0, 1, 2, 0, 1, 2])

    loss = code_loss(
        logits, centres, labels, scale=8.0, label_smoothing=0.1, quantisation_weight=0.3, balance_weight=0.7
    )

    matching = cosine_cross_entropy(torch.tanh(logits), centres, labels, scale=8.0, label_smoothing=0.1)
    assert loss.item() == pytest.approx(
        (matching + 0.3 * quantisation_loss(logits) + 0.7 * balance_loss(logits)).item()
    )
