"""AdvBCT: who climbs and who descends, by how much when, and how far an embedding may stray."""

import math

import pytest
import torch
from torch import Tensor

from ml.methods.compatible.old_space import OldSpace
from ml.methods.compatible.rivals_adversarial import AdvBctAlignment, boundary_loss, reverse_gradient
from tests.ml.compatible.spaces import DIMENSION, at, images, plane, random_space, random_units, seen


def adversarial(old: OldSpace, **settings: float) -> AdvBctAlignment:
    return AdvBctAlignment(old, epochs=10, steps_per_epoch=4, seed=0, **settings)


def test_a_reversed_gradient_is_minus_strength_times_the_gradient() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    found = reverse_gradient(values, 0.25)
    assert found.tolist() == [1.0, 2.0]
    (found * torch.tensor([4.0, 8.0])).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.tolist() == [-1.0, -2.0]


def test_the_reversal_grows_with_the_share_of_steps_done() -> None:
    alignment, new = adversarial(plane(0, 90)), images(0, 90)
    given = seen(new, [0, 1], torch.tensor([at(0), at(90)]))

    def wanted(done: float) -> float:
        return 2 / (1 + math.exp(-10 * done)) - 1

    alignment.start_epoch(0)
    assert alignment.strength == 0
    alignment.loss(given)
    assert alignment.strength == pytest.approx(wanted(1 / 40))
    alignment.start_epoch(3)
    assert alignment.strength == pytest.approx(wanted(0.3))
    for _ in range(6):  # more steps than announced go no further than the epoch
        alignment.loss(given)
    assert alignment.strength == pytest.approx(wanted(0.4))
    alignment.start_epoch(3)  # gone on from a checkpoint
    assert alignment.strength == pytest.approx(wanted(0.3))


def test_new_embeddings_climb_the_domain_loss_that_the_discriminator_descends() -> None:
    old_embeddings, new = random_units(12, DIMENSION, seed=3), random_units(12, DIMENSION, seed=4)
    new.requires_grad_()
    adversary = adversarial(random_space()).adversary
    wrong_way = torch.autograd.grad(adversary.domain_loss(new, old_embeddings, 0.5), new)[0]
    right_way = torch.autograd.grad(adversary.domain_loss(new, old_embeddings, -1.0), new)[0]
    torch.testing.assert_close(wrong_way, -0.5 * right_way)

    def loss_after(step: Tensor) -> float:
        return adversary.domain_loss((new + step).detach(), old_embeddings, 1.0).item()

    assert loss_after(-0.1 * wrong_way / wrong_way.norm()) > loss_after(torch.zeros_like(new))
    optimiser = torch.optim.SGD(adversary.parameters(), lr=0.1)
    before = adversary.domain_loss(new, old_embeddings, 1.0)
    before.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    assert loss_after(torch.zeros_like(new)) < before.item()


def test_the_domain_loss_weighs_less_in_later_epochs_and_the_boundary_as_ever() -> None:
    alignment = adversarial(random_space(), weight=2.0)
    old_embeddings, new = random_units(12, DIMENSION, seed=3), random_units(12, DIMENSION, seed=4)
    given = seen(new, [0, 1, 2] * 4, old_embeddings)
    for epoch, share in ((0, 1.0), (4, 0.6), (9, 0.1)):
        alignment.start_epoch(epoch)
        found, logs = alignment.loss(given)
        assert logs["adv_boundary"] > 0
        assert found.item() == pytest.approx(
            2 * (share * logs["adv_domain"] + logs["adv_boundary"]), rel=1e-5
        )


def test_the_discriminator_sees_both_kinds_through_one_batch_norm() -> None:
    adversary = adversarial(random_space()).adversary
    cluster = 0.01 * random_units(16, DIMENSION, seed=5)
    shift = torch.ones(DIMENSION)
    for _ in range(60):  # the two kinds differ by their mean alone
        loss = adversary.domain_loss(cluster + shift, cluster - shift, 0.0)
        adversary.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.optim.SGD(adversary.parameters(), lr=0.1).step()
    assert loss.item() < 0.05


def test_the_boundary_is_the_mean_excess_of_violators() -> None:
    prototypes = torch.tensor([at(0), at(0), at(90)], requires_grad=True)
    bounds = torch.tensor([0.5, 0.5, 0.5], requires_grad=True)
    new = images(60, 10, 0)  # at distances 1, 0.174 and sqrt(2)
    found = boundary_loss(new, prototypes, bounds)
    assert found.item() == pytest.approx((0.5 + math.sqrt(2) - 0.5) / 2, rel=1e-5)
    found.backward()  # type: ignore[no-untyped-call]
    assert bounds.grad is not None
    assert bounds.grad.tolist() == [-0.5, 0.0, -0.5]  # descent loosens them
    assert prototypes.grad is None
    assert boundary_loss(images(0), prototypes[:1], bounds[:1]).item() == 0


def test_bounds_lie_between_the_old_radius_as_a_chord_and_the_largest() -> None:
    alignment = adversarial(plane(0, 90, radii=(60, 180)), largest=1.5)
    bounds = alignment.adversary.bounds(alignment.reaches, alignment.largest)
    torch.testing.assert_close(bounds, torch.tensor([1.25, 1.75]))  # half way from 1 and 2 to 1.5
    with torch.no_grad():
        alignment.adversary.looseness.copy_(torch.tensor([40.0, -40.0]))
    bounds = alignment.adversary.bounds(alignment.reaches, alignment.largest)
    torch.testing.assert_close(bounds, torch.tensor([1.5, 2.0]))


def test_adv_bct_begins_alike_for_a_seed_and_leaves_other_draws_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first = adversarial(random_space()).module().state_dict()
    assert torch.equal(torch.rand(3), wanted)
    second = adversarial(random_space()).module().state_dict()
    assert {name for name in first if "running" in name or "looseness" in name} == {
        "discriminator.1.running_mean",
        "discriminator.1.running_var",
        "looseness",
    }
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_adv_bct_refuses_settings_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="epochs are 0"):
        AdvBctAlignment(plane(0, 90), epochs=0, steps_per_epoch=1, seed=0)
    with pytest.raises(ValueError, match="largest 0"):
        adversarial(plane(0, 90), largest=0.0)
