"""NDPP: what a loop over classes gives, what turning and reordering change, and the closed form of how far."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.methods.compatible.guard import angles_between
from ml.methods.compatible.neighbours import moved_cosines, neighbour_driven, strengths_for
from ml.methods.compatible.old_space import OldSpace
from tests.ml.compatible.crowds import crowded, normal, reordered, rotation, space_of, turned, units
from tests.ml.compatible.spaces import at


def perturbed(
    old: OldSpace,
    new: Tensor | None = None,
    *,
    strength: float = 0.4,
    new_strength: float = 0.1,
    count: int = 5,
) -> Tensor:
    return neighbour_driven(old, new, strength=strength, new_strength=new_strength, count=count)


def by_a_loop(old: OldSpace, new: Tensor, *, strength: float, new_strength: float, count: int) -> Tensor:
    """Section 3.1 written down class by class: own class and twins left out, negative weights 0."""
    rows = []
    for c, p in enumerate(old.prototypes):
        displacement = torch.zeros_like(p)
        for share, others in ((strength, old.prototypes), (new_strength, new)):
            found = [
                (float(p @ others[j]), j)
                for j in range(len(others))
                if j != c and float(p @ old.prototypes[j]) <= 0.97
            ]
            nearest = [(max(0.0, cosine), j) for cosine, j in sorted(found, reverse=True)[:count]]
            total = sum(weight for weight, _ in nearest)
            for weight, j in nearest:
                displacement = displacement + share * weight * (p - others[j]) / (total + 1e-8)
        rows.append((p + displacement) / (p + displacement).norm())
    return torch.stack(rows)


@pytest.mark.parametrize("count", [1, 3, 23, 100])
def test_prototypes_move_as_in_a_loop_over_classes(count: int) -> None:
    old = crowded()
    new = F.normalize(old.prototypes + 0.5 * units(24, 16, seed=5), dim=1)
    expected = by_a_loop(old, new, strength=0.7, new_strength=0.3, count=count)
    found = perturbed(old, new, strength=0.7, new_strength=0.3, count=count)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)
    assert float(angles_between(old.prototypes, found).rad2deg().mean()) > 5


def test_with_both_strengths_nothing_the_old_prototypes_come_back_bit_for_bit() -> None:
    old, new = crowded(dtype=torch.float32), units(24, 16, seed=5, dtype=torch.float32)
    for given in (None, new):
        assert perturbed(old, given, strength=0.0, new_strength=0.0) is old.prototypes
    assert perturbed(old, None, strength=0.0, new_strength=0.5) is old.prototypes  # nothing to move away from
    assert not torch.equal(perturbed(old, new, strength=0.0, new_strength=0.5), old.prototypes)
    assert not torch.equal(perturbed(old, None), old.prototypes)


def test_each_class_may_have_a_strength_of_its_own() -> None:
    old = crowded()
    strengths = torch.linspace(0, 2, 24, dtype=torch.float64)
    found = neighbour_driven(old, None, strength=strengths, new_strength=0, count=5)
    expected = [perturbed(old, strength=float(one))[row] for row, one in enumerate(strengths)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_turning_the_space_turns_what_is_perturbed_and_nothing_else() -> None:
    old, new, by = crowded(), units(24, 16, seed=5), rotation(16)
    expected = perturbed(old, new) @ by
    torch.testing.assert_close(perturbed(turned(old, by), new @ by), expected, atol=1e-12, rtol=0)


def test_the_order_of_classes_does_not_matter() -> None:
    old, new, order = crowded(), units(24, 16, seed=5), torch.randperm(24)
    expected = perturbed(old, new)[order]
    torch.testing.assert_close(perturbed(reordered(old, order), new[order]), expected, atol=1e-12, rtol=0)


def test_orthogonal_prototypes_do_not_move_and_opposite_ones_do_not_attract() -> None:
    assert torch.equal(perturbed(space_of(torch.eye(6))), torch.eye(6))
    away = space_of(torch.tensor([at(0), at(120), at(240)]))  # every cosine is -1/2
    torch.testing.assert_close(perturbed(away, strength=3.0), away.prototypes)
    torch.testing.assert_close(perturbed(away, -away.prototypes, new_strength=1.0)[0], torch.tensor(at(0)))


@pytest.mark.parametrize("count", [1, 5, 50])
@pytest.mark.parametrize(
    ("degrees", "counts"),
    [
        ((30,), None), ((0, 40), None), ((0, 0, 50), None), ((0, 0, 0), None), ((0, 120, 240), None),
        ((0, 20, 40), [3, 0, 3]), ((0, 20, 40), [0, 0, 0]), ((0, 20, 40), [0, 2, 0]),
    ],
)  # fmt: skip
def test_awkward_spaces_give_unit_rows_and_no_nan(
    degrees: tuple[float, ...], counts: list[int] | None, count: int
) -> None:
    """One class, two, duplicates, all negative, classes without images, more neighbours than others."""
    old = space_of(torch.tensor([at(one) for one in degrees]), counts)
    for new in (None, torch.zeros_like(old.prototypes), old.prototypes.flip(0)):
        found = perturbed(old, new, new_strength=0.5, count=count)
        torch.testing.assert_close(found.norm(dim=1), old.known.float())
    assert not moved_cosines(old, 0.4, count).isnan().any()
    assert not strengths_for(old, torch.full((len(degrees),), 0.2), count).isnan().any()


def test_twins_are_not_pushed_apart_but_away_from_others() -> None:
    """Cosine 0.97 is 14.07 degrees: at 14 two classes are one thing under two names, at 15 they are not."""
    twins, neighbours = (space_of(torch.tensor([at(0), at(degrees), at(180)])) for degrees in (14, 15))
    torch.testing.assert_close(perturbed(twins), twins.prototypes)
    assert float(perturbed(neighbours)[0, 1]) < -0.05  # below 0 degrees: away from the one at 15
    torch.testing.assert_close(perturbed(twins, twins.prototypes, new_strength=1.0), twins.prototypes)
    third = space_of(torch.tensor([at(0), at(1), at(60)]))
    assert (perturbed(third, count=1)[:2, 1] < third.prototypes[:2, 1] - 0.01).all()


def test_the_nearest_of_the_new_prototypes_count_and_those_of_no_class_do_not() -> None:
    old = space_of(torch.eye(3, 3))
    new = torch.zeros(3, 3)
    torch.testing.assert_close(perturbed(old, new, new_strength=1.0), torch.eye(3))  # nothing was seen yet
    new[1] = F.normalize(torch.tensor([1.0, 1, 0]), dim=0)  # class 1 has moved towards class 0's old place
    found = perturbed(old, new, new_strength=1.0)
    torch.testing.assert_close(found[0], F.normalize(2 * old.prototypes[0] - new[1], dim=0))
    torch.testing.assert_close(
        found[1:], torch.eye(3)[1:]
    )  # a class does not flee from its own new prototype


def test_the_closed_form_is_the_cosine_that_moving_gives() -> None:
    """And the one of the method file, section 3.1, with s, rho of each weighted centroid."""
    old = crowded()
    for strength in (0.05, 0.4, 1.6, 5.0):
        found = perturbed(old, strength=strength)
        direct = (old.prototypes * found).sum(dim=1)
        torch.testing.assert_close(moved_cosines(old, strength, 5), direct, atol=1e-9, rtol=0)
        for c, p in enumerate(old.prototypes):
            cosines = (old.prototypes @ p).clamp(min=0)
            cosines[c] = 0
            weights, rows = cosines.topk(5)
            centroid = weights @ old.prototypes[rows] / weights.sum()
            s, rho = float(p @ centroid), float(centroid.norm())
            numerator = 1 + strength - strength * s
            square = (1 + strength) ** 2 - 2 * strength * (1 + strength) * s + (strength * rho) ** 2
            assert float(direct[c]) == pytest.approx(numerator / math.sqrt(square), abs=1e-7)


def test_a_larger_strength_never_moves_a_prototype_less() -> None:
    old = crowded()
    found = torch.stack([moved_cosines(old, strength, 5) for strength in (0, 0.1, 0.4, 0.8, 1.6, 6.4, 100)])
    torch.testing.assert_close(found[0], torch.ones(24, dtype=torch.float64))
    assert (found.diff(dim=0) < 0).all()


def test_the_strength_for_an_angle_moves_each_class_by_just_that_angle() -> None:
    old, angles = crowded(), torch.linspace(0.01, 0.12, 24, dtype=torch.float64)
    strengths = strengths_for(old, angles, 5)
    assert torch.isfinite(strengths).all()
    found = neighbour_driven(old, None, strength=strengths, new_strength=0, count=5)
    torch.testing.assert_close(angles_between(old.prototypes, found), angles, atol=1e-9, rtol=0)
    for row, strength in enumerate(strengths.tolist()):
        expected = math.cos(float(angles[row]))
        assert float(moved_cosines(old, strength, 5)[row]) == pytest.approx(expected, abs=1e-10)


def test_no_strength_moves_a_prototype_as_far_as_right_angles_or_one_without_neighbours() -> None:
    old = crowded()
    farthest = torch.arccos(moved_cosines(old, 1e9, 5))
    assert torch.isinf(strengths_for(old, farthest + 1e-3, 5)).all()
    assert torch.isfinite(strengths_for(old, farthest - 1e-3, 5)).all()
    assert torch.isinf(strengths_for(space_of(torch.eye(3)), torch.full((3,), 0.1), 2)).all()


def test_negative_strengths_are_refused() -> None:
    old = crowded()
    with pytest.raises(ValueError, match=r"strengths are -0.1 and 0.1, both must be >= 0"):
        perturbed(old, strength=-0.1)
    with pytest.raises(ValueError, match=r"strengths are 0.4 and -2"):
        perturbed(old, new_strength=-2)


def test_nothing_flows_back_into_prototypes_that_need_no_gradient() -> None:
    old = crowded()
    assert not perturbed(old, normal(24, 16, seed=3)).requires_grad
