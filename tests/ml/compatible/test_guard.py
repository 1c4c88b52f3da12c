"""The guard: however wild the wish, no prototype goes too far or leaves its place; what may stay is untouched."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.methods.compatible.guard import Guard, angles_between, margins, slerp
from ml.methods.compatible.old_space import OldSpace
from tests.ml.compatible.crowds import crowded, reordered, rotation, space_of, turned, units
from tests.ml.compatible.spaces import at, plane

WIDE = Guard(largest_angle=90, margin=0.05, rare=0)
CLASSES = 5
Floats = NDArray[np.float32]


def turned_by(degrees: float, count: int) -> Tensor:
    return torch.tensor([at(degrees)] * count)


def naive_margins(old: OldSpace, moved: Tensor) -> list[float]:
    known = torch.nonzero(old.known).flatten().tolist()
    return [
        float(moved[c] @ old.prototypes[c])
        - max((float(moved[c] @ old.prototypes[j]) for j in known if j != c), default=-math.inf)
        for c in range(len(moved))
    ]


def unit_rows(values: Floats) -> Tensor:
    """Rows of length 1; one without a direction becomes the first axis."""
    found = torch.from_numpy(values)
    lengths = found.norm(dim=1, keepdim=True)
    return torch.where(lengths > 1e-3, found / lengths.clamp(min=1e-3), torch.eye(found.shape[1])[:1])


_rows = arrays(np.float32, (CLASSES, 3), elements=st.floats(-1, 1, width=32))
_AXES = np.eye(5, 3, dtype=np.float32)


@settings(max_examples=60, deadline=None)
@given(
    prototypes=_rows, wishes=_rows, counts=st.lists(st.integers(0, 6), min_size=CLASSES, max_size=CLASSES),
    margin=st.sampled_from([0.0, 0.05, 0.4]), largest=st.sampled_from([3.0, 20.0, 90.0]),
)  # fmt: skip
@example(_AXES, -_AXES, [5] * 5, 0.05, 20.0)  # to the opposite side
@example(_AXES, _AXES[::-1].copy(), [5] * 5, 0.05, 90.0)  # onto another's place
@example(np.ones_like(_AXES), _AXES, [5] * 5, 0.05, 20.0)  # all in one place
@example(_AXES, -_AXES, [0, 1, 2, 0, 1], 0.0, 90.0)
@example(
    np.ones_like(_AXES) * 0.0234375, -np.ones_like(_AXES), [0, 0, 0, 0, 3], 0.0, 90.0
)  # opposite but for rounding
def test_however_wild_the_wish_every_class_keeps_its_angle_and_its_place(
    prototypes: Floats, wishes: Floats, counts: list[int], margin: float, largest: float
) -> None:
    old = space_of(unit_rows(prototypes), counts)
    found = Guard(largest_angle=largest, margin=margin).applied(old, unit_rows(wishes))

    assert torch.equal(found[~old.known], old.prototypes[~old.known])
    own = old.known.tolist()
    torch.testing.assert_close(found[own].norm(dim=1), torch.ones(sum(own)), atol=2e-6, rtol=0)
    assert (angles_between(old.prototypes, found) <= math.radians(largest) + 2e-4).all()
    before, after = naive_margins(old, old.prototypes), naive_margins(old, found)
    for is_known, was, now in zip(own, before, after, strict=True):
        assert not is_known or now >= min(margin, was) - 2e-6


@pytest.mark.parametrize("seed", range(4))
def test_a_random_wish_in_a_crowd_keeps_angle_and_place_and_goes_as_far_as_it_may(seed: int) -> None:
    old, wish = crowded(seed=seed, spread=0.3), units(24, 16, seed=seed + 50)
    found = Guard().applied(old, wish)

    angles = angles_between(old.prototypes, found).rad2deg()
    assert float(angles.max()) == pytest.approx(20, abs=1e-6)  # somebody has the room
    assert (angles > 0.01).sum() >= 18  # not where the nearest other is so near that nothing may be lost
    wanted = margins(old, old.prototypes).clamp(max=0.05)
    assert (margins(old, found) >= wanted - 1e-12).all()


def test_a_prototype_is_taken_back_along_its_way_to_the_largest_angle() -> None:
    alone = plane(0)
    for wish, allowed, reached in ((50, 20, 20), (19, 20, 19), (90, 20, 20), (-120, 35, -35), (179, 90, 90)):
        found = Guard(largest_angle=allowed).applied(alone, turned_by(wish, 1))
        torch.testing.assert_close(found, turned_by(reached, 1), atol=1e-6, rtol=0)


def test_an_opposite_prototype_has_no_way_and_stays() -> None:
    old = crowded(dtype=torch.float32)
    assert torch.equal(Guard().applied(old, -old.prototypes), old.prototypes)


def test_ownership_is_a_cosine_ahead_of_the_nearest_other() -> None:
    """Of 0 and 60 degrees: at x the margin is cos x - cos(60 - x), which is 0.05 at 30 - 2.866 degrees."""
    old = plane(0, 60)
    found = Guard(largest_angle=90).applied(old, torch.tensor([at(50), at(70)]))
    limit = 30 - math.degrees(math.asin(0.05))
    reached = math.degrees(math.atan2(float(found[0, 1]), float(found[0, 0])))
    assert limit - 50 / 4_096 <= reached <= limit + 1e-4
    assert torch.equal(found[1], torch.tensor(at(70)))  # the other way there is room


def test_where_the_margin_was_smaller_from_the_start_it_may_not_shrink() -> None:
    old = plane(0, 10)  # margin 0.0152
    found = Guard(largest_angle=90).applied(old, torch.tensor([at(3), at(12)]))
    torch.testing.assert_close(found, torch.tensor([at(0), at(12)]), atol=1e-6, rtol=0)
    assert float(margins(old, found)[0]) >= 1 - math.cos(math.radians(10)) - 1e-7


@pytest.mark.parametrize("seed", range(3))
def test_halving_finds_the_last_of_4096_steps_that_keeps_the_place(seed: int) -> None:
    """Every step is tried: the good ones come first, and none follows a bad one (the margin is concave)."""
    old = crowded(groups=3, of=4, dimension=6, spread=0.4, seed=seed)
    others = old.prototypes[torch.arange(12) ^ 1]
    wish = F.normalize(old.prototypes + 4 * others + units(12, 6, seed=seed), dim=1)
    found, wanted = WIDE.applied(old, wish), margins(old, old.prototypes).clamp(max=0.05)

    shares = torch.arange(4_097, dtype=torch.float64) / 4_096
    stopped = 0
    for c in range(12):
        way = slerp(old.prototypes[c].repeat(4_097, 1), wish[c].repeat(4_097, 1), shares)
        cosines = way @ old.prototypes.T
        own = cosines[:, c].clone()
        cosines[:, c] = -math.inf
        holds = (own - cosines.amax(dim=1) >= wanted[c]).tolist()
        last = holds.index(False) - 1 if False in holds else 4_096
        assert not any(holds[last + 1 :])
        stopped += 0 < last < 4_096
        torch.testing.assert_close(found[c], way[last], atol=1e-12, rtol=0)
    assert stopped >= 6


def test_half_the_way_to_the_nearest_is_always_ones_own() -> None:
    """The sufficient cap of the method file: within half the angle to the nearest, ownership (margin 0) changes
    nothing."""
    old = crowded(spread=0.5)
    room = torch.arccos(old.nearest()) / 2
    wish = units(24, 16, seed=9)
    near = slerp(old.prototypes, wish, 0.999 * room / angles_between(old.prototypes, wish))
    assert torch.equal(Guard(largest_angle=90, margin=0, rare=0).applied(old, near), near)


def test_rows_that_may_stay_are_the_same_bytes() -> None:
    old = crowded(dtype=torch.float32)
    near = F.normalize(old.prototypes + 0.02 * units(24, 16, seed=3, dtype=torch.float32), dim=1)
    assert torch.equal(Guard().applied(old, old.prototypes), old.prototypes)
    held = margins(old, near) >= margins(old, old.prototypes).clamp(max=0.05)
    found = Guard().applied(old, near)
    assert torch.equal(found[held], near[held])
    assert held.sum() > 12
    far = torch.where(torch.arange(24)[:, None] == 7, -near.flip(0), near)
    assert torch.equal(
        Guard().applied(old, far)[held & (torch.arange(24) != 7)], found[held & (torch.arange(24) != 7)]
    )


def test_a_class_of_few_images_goes_only_a_part_of_the_way() -> None:
    apart = torch.eye(5, 5)
    old = OldSpace(apart, torch.tensor([0, 1, 2, 3, 50]), torch.ones(5), torch.zeros(5))
    wish = F.normalize(apart + 0.2 * torch.tensor([1.0, 1, 1, 1, -1]).diag().roll(1, dims=1), dim=1)
    whole = angles_between(apart, wish)
    found = angles_between(apart, Guard().applied(old, wish)) / whole
    assert found.tolist() == pytest.approx([0, 1 / 4, 2 / 5, 1, 1], abs=1e-5)
    found = angles_between(apart, Guard(rare=0).applied(old, wish)) / whole
    assert found.tolist() == pytest.approx([0, 1, 1, 1, 1], abs=1e-5)


def test_turning_the_space_turns_what_is_allowed_and_order_does_not_matter() -> None:
    old, wish, by, order = crowded(spread=0.4), units(24, 16, seed=4), rotation(16), torch.randperm(24)
    old.counts[:8] = torch.tensor([0, 1, 2, 0, 1, 2, 3, 4])
    expected = Guard().applied(old, wish)
    torch.testing.assert_close(Guard().applied(turned(old, by), wish @ by), expected @ by, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        Guard().applied(reordered(old, order), wish[order]), expected[order], atol=1e-12, rtol=0
    )


def test_margins_are_those_of_a_loop_and_missing_classes_are_nobodys_neighbours() -> None:
    old = space_of(crowded().prototypes, [9] * 20 + [0] * 4)
    moved = units(24, 16, seed=2)
    assert margins(old, moved).tolist() == pytest.approx(naive_margins(old, moved))
    assert margins(plane(0), turned_by(90, 1)).tolist() == [math.inf]


def test_slerp_divides_the_angle_evenly_and_at_nothing_is_the_start_itself() -> None:
    start, end = turned_by(10, 5), turned_by(90, 5)
    shares = torch.tensor([0, 0.25, 0.5, 0.75, 1])
    expected = torch.tensor([at(degrees) for degrees in (10, 30, 50, 70, 90)])
    found = slerp(start, end, shares)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found[0], start[0])
    near = F.normalize(torch.tensor([[1.0, 1e-5]]), dim=1)  # radians: sines would cancel
    halfway = slerp(torch.tensor([[1.0, 0.0]]), near, torch.tensor([0.5]))
    torch.testing.assert_close(halfway, torch.tensor([[1.0, 5e-6]]), rtol=1e-4, atol=0)
    assert float(angles_between(torch.tensor([[1.0, 0.0]]), near)) == pytest.approx(1e-5, rel=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"largest_angle": 0.0}, {"largest_angle": 91.0}, {"margin": -0.1}, {"rare": -1}]
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"largest_angle is .* \(above 0 to 90\)"):
        Guard(**wrong)  # type: ignore[arg-type]
