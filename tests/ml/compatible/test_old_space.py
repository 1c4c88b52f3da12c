"""What is kept of an old encoder: prototypes, how crowded they are, and what follows from that."""

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from ml.methods.compatible.old_space import OldSpace
from tests.ml.compatible.crowds import crowded, normal, space_of, units
from tests.ml.compatible.spaces import at, plane


def test_a_prototype_is_the_direction_of_the_mean_of_directions() -> None:
    """Lengths do not count: 0 degrees at length 1 and 90 degrees at length 5 meet at 45."""
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 5.0], [0.0, -2.0], [9.0, 9.0]])
    found = OldSpace.of(embeddings, torch.tensor([0, 0, 2, -1]), 4)

    expected = torch.tensor([at(45), [0.0, 0.0], at(-90), [0.0, 0.0]])
    torch.testing.assert_close(found.prototypes, expected)
    assert found.counts.tolist() == [2, 0, 1, 0]
    assert found.known.tolist() == [True, False, True, False]
    assert found.concentrations.tolist() == pytest.approx([math.sqrt(0.5), 0, 1, 0])
    assert found.radii.tolist() == pytest.approx([math.pi / 4, 0, 0, 0], abs=1e-3)
    assert found.dimension == 2


def test_prototypes_are_those_of_a_loop_over_images() -> None:
    embeddings = normal(60, 7, seed=1, dtype=torch.float32)
    labels = torch.randint(-1, 5, (60,), generator=torch.Generator().manual_seed(2))
    found = OldSpace.of(embeddings, labels, 5)

    for label in range(5):
        own = [row / row.norm() for row, its in zip(embeddings, labels.tolist(), strict=True) if its == label]
        mean = torch.stack(own).mean(dim=0)
        torch.testing.assert_close(found.prototypes[label], mean / mean.norm())
        assert float(found.concentrations[label]) == pytest.approx(float(mean.norm()), rel=1e-5)
        assert int(found.counts[label]) == len(own)


def test_a_radius_reaches_the_farthest_image_that_is_no_outlier() -> None:
    """Angles 1 to 8 degrees have quartiles 2.75 and 6.25: up to 11.5 belongs, 40 does not."""
    degrees = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 8])
    near = torch.cat([degrees, -degrees])  # on both sides, so that the prototype is at 0
    for far, reached in ((torch.tensor([12.0, -12.0]), 12.0), (torch.tensor([40.0, -40.0]), 8.0)):
        images = torch.tensor([at(float(angle)) for angle in torch.cat([near, far])])
        found = OldSpace.of(images, torch.zeros(len(images), dtype=torch.int64), 1)
        assert math.degrees(float(found.radii[0])) == pytest.approx(reached, abs=0.05)


def test_cosines_are_between_different_classes_that_have_a_prototype() -> None:
    old = space_of(torch.tensor([at(0), at(60), at(0), at(180)]), [3, 3, 0, 3])
    found, none = old.cosines(), -math.inf

    assert found[0].tolist() == pytest.approx([none, 0.5, none, -1.0], abs=1e-6)
    assert found[2].tolist() == [none] * 4
    torch.testing.assert_close(found, found.T)
    assert old.nearest().tolist() == pytest.approx([0.5, 0.5, none, -0.5], abs=1e-6)
    assert plane(10).nearest().tolist() == [none]


@pytest.mark.parametrize(
    ("classes", "neighbours"), [(1, 0), (2, 1), (4, 3), (50, 5), (400, 10), (4_000, 100), (9_000, 100)]
)
def test_one_class_in_forty_is_a_neighbour_but_five_at_least_and_a_hundred_at_most(
    classes: int, neighbours: int
) -> None:
    counts = torch.ones(classes, dtype=torch.int64)
    prototypes = torch.zeros(classes, 2)
    assert OldSpace(prototypes, counts, counts.float(), counts.float()).neighbours() == neighbours
    beside = torch.cat([counts, torch.zeros(30, dtype=torch.int64)])  # classes without images are nobody's
    more = torch.zeros(classes + 30, 2)
    assert OldSpace(more, beside, beside.float(), beside.float()).neighbours() == neighbours


def test_too_near_begins_where_one_pair_in_a_hundred_is_but_not_below_three_tenths() -> None:
    old = crowded(groups=10, of=5)
    pairs = [float(old.prototypes[c] @ old.prototypes[j]) for c in range(50) for j in range(50) if c != j]
    pairs.sort()
    place = int(0.99 * len(pairs))  # each pair is there twice
    assert pairs[place - 2] < old.threshold() < pairs[place + 2]
    assert space_of(torch.eye(4)).threshold() == 0.3
    assert plane(10).threshold() == 0.3
    assert space_of(torch.tensor([at(0), at(10)]), [1, 0]).threshold() == 0.3


def test_too_near_is_known_of_more_classes_than_a_quantile_of_torch_takes() -> None:
    half = units(2_050, 2, seed=0, dtype=torch.float32)
    twins = math.acos(0.97)  # nearer ones are not counted
    expected = math.cos(twins + 0.01 * (math.pi - twins))
    assert space_of(torch.cat([half, -half])).threshold() == pytest.approx(expected, abs=2e-4)


def test_twins_do_not_decide_what_is_too_near_for_they_are_not_pushed_apart() -> None:
    assert plane(0, 5, 90, 95, 60).threshold() == pytest.approx(math.cos(math.radians(30)), abs=0.01)


def test_the_summary_tells_how_crowded_known_classes_are() -> None:
    old = space_of(torch.tensor([at(0), at(60), at(90), at(1)]), [3, 3, 3, 0])
    nearest = (0.5 + 2 * math.cos(math.radians(30))) / 3
    assert old.summary() == pytest.approx(
        {"classes": 3.0, "nearest_cosine": nearest, "threshold": old.threshold()}, abs=1e-6
    )
    assert math.isnan(plane(10).summary()["nearest_cosine"])
    torch.testing.assert_close(old.prototypes[:3].norm(dim=1), torch.ones(3))
    torch.testing.assert_close(F.normalize(old.prototypes, dim=1), old.prototypes)
