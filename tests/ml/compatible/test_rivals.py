"""The rivals: what each loss is on examples small enough for a hand, whom it moves, and whom it leaves out."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.losses.prototype_alignment import Targets, prototype_alignment_loss
from ml.methods.compatible.alignment import Alignment
from ml.methods.compatible.old_space import OldSpace
from ml.methods.compatible.rivals import BctAlignment, HotRefreshAlignment, LceAlignment, UniBctAlignment
from ml.methods.compatible.rivals_adversarial import AdvBctAlignment
from tests.ml.compatible.spaces import (
    CLASSES,
    DIMENSION,
    at,
    images,
    plane,
    random_space,
    random_units,
    seen,
)

# BCT


def test_prototype_bct_is_bct_with_the_frozen_rows_p_over_t() -> None:
    old, temperature = random_space(), 0.05
    raw, labels = random_units(8, DIMENSION).requires_grad_(), [0, 1, 2, 0, 1, 2, 3, -1]
    new, targets = F.normalize(raw, dim=1), Targets.plain(old.prototypes, old.known)
    wanted = prototype_alignment_loss(new, targets, torch.tensor(labels), temperature=temperature)
    expected = torch.autograd.grad(wanted, raw, retain_graph=True)[0]
    rows = old.prototypes / temperature
    for scale in (None, 1 / temperature):
        found, logs = BctAlignment(old, rows, old.known, scale=scale).loss(seen(new, labels))
        assert found.item() == pytest.approx(wanted.item(), abs=1e-6)
        assert logs == {"bct": found.item()}
        gradient = torch.autograd.grad(found, raw, retain_graph=True)[0]
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)


def test_a_class_the_old_classifier_lacks_gets_its_prototype_as_long_as_known_rows_are() -> None:
    old = plane(0, 90, 180)
    rows = torch.tensor([[2.0, 0.0], [0.0, 4.0], [77.0, 77.0]])  # the last was never trained
    alignment = BctAlignment(old, rows, torch.tensor([True, True, False]), scale=None)
    found, _ = alignment.loss(seen(images(180), [2]))
    # The inner products with (2, 0), (0, 4) and 3 * (-1, 0).
    assert found.item() == pytest.approx(math.log(1 + math.exp(-5) + math.exp(-3)), rel=1e-5)


def test_normalised_bct_looks_at_directions_of_rows_alone() -> None:
    old = plane(0, 90)
    rows, known = torch.tensor([[2.0, 0.0], [0.0, 40.0]]), torch.tensor([True, True])
    found, _ = BctAlignment(old, rows, known, scale=3.0, weight=2.0).loss(seen(images(60), [0]))
    wanted = math.log(1 + math.exp(3 * (math.sqrt(3) / 2 - 0.5)))
    assert found.item() == pytest.approx(2 * wanted, rel=1e-5)


def test_bct_refuses_rows_of_another_space_and_a_classifier_that_knows_nothing() -> None:
    old = plane(0, 90)
    with pytest.raises(ValueError, match=r"rows are \(2, 3\)"):
        BctAlignment(old, torch.ones(2, 3), torch.tensor([True, True]))
    with pytest.raises(ValueError, match="knows none of the 2 classes"):
        BctAlignment(old, torch.eye(2), torch.tensor([False, False]))
    with pytest.raises(ValueError, match="scale is 0"):
        BctAlignment(old, torch.eye(2), torch.tensor([True, True]), scale=0)


# UniBCT


def test_uni_bct_is_arc_face_on_the_prototypes() -> None:
    alignment = UniBctAlignment(plane(0, 90), scale=2.0, margin=math.radians(30), weight=3.0)
    found, logs = alignment.loss(seen(images(20, 20), [0, -1]))
    own, other = 2 * math.cos(math.radians(50)), 2 * math.cos(math.radians(70))
    assert logs["uni_bct"] == pytest.approx(math.log(1 + math.exp(other - own)), rel=1e-6)
    assert found.item() == pytest.approx(3 * logs["uni_bct"])


# LCE


def test_lce_counts_angles_beyond_the_radius_and_centres_off_the_prototype() -> None:
    old = plane(0, 90, radii=(10, 30))
    centres = nn.Parameter(torch.tensor([[1.0, math.sqrt(3)], [0.0, 5.0]]))  # at 60 and 90 degrees
    new = images(25, 5, 50, 100)
    found, logs = LceAlignment(old, centres, weight=2.0).loss(seen(new, [0, 0, 1, 1]))
    assert logs["lce_boundary"] == pytest.approx(math.radians(15 + 0 + 10 + 0) / 4, rel=1e-5)
    assert logs["lce_centres"] == pytest.approx((0.5 + 0.5 + 0 + 0) / 4, rel=1e-5)
    assert found.item() == pytest.approx(2 * (logs["lce_boundary"] + logs["lce_centres"]))
    found.backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None
    assert centres.grad is not None
    assert new.grad.norm(dim=1).gt(0).tolist() == [True, False, True, False]
    assert centres.grad[0].norm() > 0
    assert float(centres.grad[0] @ torch.tensor([1.0, 0.0])) < 0  # descent turns it to its prototype
    torch.testing.assert_close(centres.grad[1], torch.zeros(2))  # it is there already


def test_lce_leaves_the_centres_to_the_new_encoder() -> None:
    alignment = LceAlignment(plane(0, 90), nn.Parameter(torch.eye(2)))
    assert list(alignment.module().parameters()) == []
    with pytest.raises(ValueError, match="there are 3 centres and 2 old classes"):
        LceAlignment(plane(0, 90), nn.Parameter(torch.ones(3, 2)))


def test_an_image_upon_its_prototype_has_a_finite_gradient_under_lce() -> None:
    new = images(0)
    found, _ = LceAlignment(plane(0, 90), nn.Parameter(torch.eye(2))).loss(seen(new, [0]))
    found.backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None
    assert torch.isfinite(new.grad).all()


# Hot-refresh


def test_hot_refresh_sets_an_images_own_old_embedding_against_other_classes_old_and_new() -> None:
    old_embeddings = torch.tensor([at(10), at(30), at(100)], requires_grad=True)
    new = images(0, 20, 90)
    alignment = HotRefreshAlignment(plane(0, 90), temperature=0.5, weight=2.0)
    found, logs = alignment.loss(seen(new, [0, 0, 1], old_embeddings))

    def contrast(own: float, *others: float) -> float:
        logits = [math.cos(math.radians(angle)) / 0.5 for angle in (own, *others)]
        return math.log(sum(math.exp(logit) for logit in logits)) - logits[0]

    # Degrees to the own old one; to old ones of the other class; to new ones of the other class.
    wanted = (contrast(10, 100, 90) + contrast(10, 80, 70) + contrast(10, 80, 60, 90, 70)) / 3
    assert logs["hot_refresh"] == pytest.approx(wanted, rel=1e-5)
    assert found.item() == pytest.approx(2 * wanted, rel=1e-5)
    found.backward()  # type: ignore[no-untyped-call]
    assert old_embeddings.grad is None


def test_hot_refresh_moves_a_new_embedding_as_a_negative_too() -> None:
    new = images(0, 90)
    alignment = HotRefreshAlignment(plane(0, 90), temperature=0.5)
    found, _ = alignment.loss(seen(new, [0, 1], torch.tensor([at(10), at(100)])))
    step = torch.autograd.grad(found, new)[0]
    alone = new.detach().clone().requires_grad_()
    old = torch.tensor([at(10), at(100)])
    logits = torch.cat([alone[:1] @ old[:1].T, alone[:1] @ old[1:].T, alone[:1] @ new[1:].detach().T], dim=1)
    first = F.cross_entropy(logits / 0.5, torch.tensor([0])) / 2
    assert not torch.allclose(step[0], torch.autograd.grad(first, alone)[0][0], atol=1e-3)


def test_hot_refresh_can_look_at_the_nearest_negatives_of_each_kind_alone() -> None:
    new, old = images(0, 60, 120), torch.tensor([at(0), at(70), at(130)])
    spaces = plane(0, 60, 120)
    found, _ = HotRefreshAlignment(spaces, temperature=1.0, hardest=1).loss(seen(new[:1], [0], old[:1]))
    assert found.item() == 0  # nothing to be told from
    alignment = HotRefreshAlignment(spaces, temperature=1.0, hardest=1)
    found, _ = alignment.loss(seen(new, [0, 1, 2], old))

    def contrast(*degrees: float) -> float:
        logits = [math.cos(math.radians(angle)) for angle in degrees]
        return math.log(sum(math.exp(logit) for logit in logits)) - logits[0]

    wanted = (contrast(0, 70, 60) + contrast(10, 60, 60) + contrast(10, 50, 60)) / 3
    assert found.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("temperature", "hardest"), [(0.0, None), (0.01, 0)])
def test_hot_refresh_refuses_settings_that_mean_nothing(temperature: float, hardest: int | None) -> None:
    with pytest.raises(ValueError, match=r"temperature is .* hardest"):
        HotRefreshAlignment(plane(0, 90), temperature=temperature, hardest=hardest)


# All of them


def bct(old: OldSpace) -> Alignment:
    return BctAlignment(old, 7 * old.prototypes, old.known)


def plain_bct(old: OldSpace) -> Alignment:
    return BctAlignment(old, 7 * old.prototypes, old.known, scale=None)


def lce(old: OldSpace) -> Alignment:
    centres = random_units(CLASSES, DIMENSION + 2, seed=6)
    return LceAlignment(old, nn.Parameter(centres))


def adv_bct(old: OldSpace) -> Alignment:
    return AdvBctAlignment(old, epochs=10, steps_per_epoch=4, seed=0)


EVERY = pytest.mark.parametrize("build", [bct, plain_bct, UniBctAlignment, lce, HotRefreshAlignment, adv_bct])


def trained(
    build: Callable[[OldSpace], Alignment], new: Tensor, labels: list[int], old: OldSpace, made: Tensor
) -> tuple[float, Tensor]:
    """The loss in epoch 5 and the gradient of the new embeddings."""
    new = new.detach().clone().requires_grad_()
    alignment = build(old)
    alignment.start_epoch(5)
    found, logs = alignment.loss(seen(new, labels, made))
    assert all(math.isfinite(value) for value in logs.values())
    found.backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None
    return found.item(), new.grad


@EVERY
def test_images_of_classes_without_a_prototype_are_as_if_they_were_not_there(
    build: Callable[[OldSpace], Alignment],
) -> None:
    new, made, old = random_units(6, DIMENSION), random_units(6, DIMENSION, seed=2), random_space()
    found, gradient = trained(build, new, [0, 3, 1, -1, 2, 0], old, made)
    rest = [0, 2, 4, 5]
    wanted, expected = trained(build, new[rest], [0, 1, 2, 0], old, made[rest])
    assert found == pytest.approx(wanted, rel=1e-6)
    torch.testing.assert_close(gradient[rest], expected)
    assert gradient[[1, 3]].tolist() == [[0.0] * DIMENSION] * 2


@EVERY
def test_a_batch_of_strangers_costs_nothing_and_has_a_gradient_of_zero(
    build: Callable[[OldSpace], Alignment],
) -> None:
    new = random_units(3, DIMENSION).requires_grad_()
    found, logs = build(random_space()).loss(seen(new, [3, -1, 3]))  # nor is the old encoder asked
    found.backward()  # type: ignore[no-untyped-call]
    assert found.item() == 0
    assert set(logs.values()) == {0.0}
    assert new.grad is not None
    assert new.grad.tolist() == [[0.0] * DIMENSION] * 3


@EVERY
def test_nothing_of_the_old_encoder_receives_a_gradient(build: Callable[[OldSpace], Alignment]) -> None:
    found = random_space()
    prototypes = found.prototypes.clone().requires_grad_()
    made = random_units(6, DIMENSION, seed=2).requires_grad_()
    old = OldSpace(prototypes, found.counts, found.concentrations, found.radii)
    _, gradient = trained(build, random_units(6, DIMENSION), [0, 1, 2, 0, 1, 2], old, made)
    assert gradient.norm() > 0
    assert prototypes.grad is None
    assert made.grad is None


@EVERY
def test_of_a_longer_new_embedding_the_first_coordinates_count(
    build: Callable[[OldSpace], Alignment],
) -> None:
    made, old = random_units(6, DIMENSION, seed=2), random_space()
    long = random_units(6, DIMENSION + 2)
    labels = [0, 1, 2, 0, 1, 2]
    found, gradient = trained(build, long, labels, old, made)
    wanted, _ = trained(build, F.normalize(long[:, :DIMENSION], dim=1), labels, old, made)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert gradient[:, DIMENSION:].tolist() == [[0.0, 0.0]] * 6
