"""ODPP: what is minimised, what rests, and what a search does to a crowd."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.methods.compatible.guard import angles_between
from ml.methods.compatible.old_space import OldSpace
from ml.methods.compatible.optimised import Spreading, spread_displacements, spreading_loss
from tests.ml.compatible.crowds import crowded, normal, reordered, space_of, units
from tests.ml.compatible.spaces import at


def searched(
    old: OldSpace,
    new: Tensor | None = None,
    config: Spreading | None = None,
    *,
    passes: int = 40,
    seed: int = 0,
) -> Tensor:
    start = torch.zeros_like(old.prototypes)
    return spread_displacements(old, new, start, config or Spreading(), passes=passes, seed=seed)


def gone_to(old: OldSpace, displacements: Tensor) -> Tensor:
    return F.normalize(old.prototypes + displacements, dim=1)


def by_a_loop(
    p: Tensor, q: Tensor | None, moved: Tensor, config: Spreading, taus: tuple[float, float]
) -> float:
    """Section 3.2 pair by pair: normalised, own class and twins left out, the mean over active pairs of each class."""
    found = [(a + b) / (a + b).norm() for a, b in zip(p, moved, strict=True)]
    total = 0.0
    for c, own in enumerate(found):
        others = [j for j in range(len(p)) if j != c and float(p[c] @ p[j]) <= 0.97]
        for weight, near, them in ((config.old_weight, taus[0], found), (config.new_weight, taus[1], q)):
            hinges = [] if them is None else [float(own @ them[j]) - near for j in others]
            active = [one for one in hinges if one > 0]
            total += weight * sum(active) / max(1, len(active)) / len(p)
        total += config.stay_weight * (1 - float(own @ p[c])) / len(p)
    return total


def test_the_loss_is_that_of_a_loop_over_pairs() -> None:
    old, new, moved = crowded(), units(24, 16, seed=5), 0.3 * normal(24, 16, seed=6)
    config = Spreading(old_weight=0.7, new_weight=1.3, stay_weight=0.2, threshold=0.1)
    p = old.prototypes
    for q in (None, new):
        expected = by_a_loop(p, q, moved, config, (0.1, 0.1))
        assert float(spreading_loss(p, q, moved, config, 0.1)) == pytest.approx(expected, abs=1e-12)
    drawn = Spreading(old_weight=0.7, new_weight=1.3, stay_weight=0.2)  # thresholds from the data
    cosines = (p @ new.T)[~torch.eye(24, dtype=torch.bool)]
    near = float(torch.quantile(cosines, 0.99))
    assert near > 0.3
    found = spreading_loss(p, new, moved, drawn, old.threshold())
    assert float(found) == pytest.approx(by_a_loop(p, new, moved, drawn, (old.threshold(), near)), abs=1e-9)


def test_twins_and_a_classes_own_new_prototype_are_not_too_near() -> None:
    p = torch.tensor([at(0), at(5), at(90)])
    rest = torch.zeros_like(p)
    assert float(spreading_loss(p, p, rest, Spreading(threshold=0.3), 0.3)) == 0.0
    third = torch.tensor([at(0), at(40), at(180)])  # not twins: cosine 0.766
    expected = 2 / 3 * (math.cos(math.radians(40)) - 0.5)
    assert float(spreading_loss(third, None, rest, Spreading(), 0.5)) == pytest.approx(expected, abs=1e-6)


def test_shorter_vectors_satisfy_nothing() -> None:
    old = crowded()
    whole, half = (share * old.prototypes for share in (0.0, -0.5))
    losses = [float(spreading_loss(old.prototypes, None, one, Spreading(), 0.3)) for one in (whole, half)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    assert losses[0] > 0.1


def test_without_passes_the_start_comes_back_itself() -> None:
    old = crowded()
    start = normal(24, 16, seed=1)
    assert spread_displacements(old, None, start, Spreading(), passes=0, seed=0) is start
    assert not searched(old, passes=0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_no_pair_is_too_near_nothing_moves(dtype: torch.dtype) -> None:
    old = crowded(dtype=dtype)
    largest = float(old.cosines().max())
    above = Spreading(threshold=largest + 1e-6, new_weight=0.0)
    for new in (None, old.prototypes.flip(0)):
        assert not searched(old, new, above).any()
    assert searched(old, None, Spreading(threshold=largest - 0.01)).any()


def test_a_pair_just_at_the_threshold_rests() -> None:
    """Coordinates that are exact in binary: the cosine is 0.28, no more and no less than the threshold."""
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    moved = torch.zeros_like(p).requires_grad_()
    spreading_loss(p, None, moved, Spreading(), 0.0).backward()  # type: ignore[no-untyped-call]
    assert moved.grad is not None
    assert not moved.grad.any()


def test_a_search_leaves_few_pairs_too_near_and_prototypes_near_where_they_were() -> None:
    """Method file, section 3.2: neighbours come down to about tau; the stay term keeps displacements small."""
    old = crowded(groups=20, of=6, dimension=32, spread=0.5)
    config = Spreading(threshold=0.6, passes=200)
    free = Spreading(threshold=0.6, stay_weight=0.0)
    found, loose = (gone_to(old, searched(old, None, one, passes=200)) for one in (config, free))

    def too_near(rows: Tensor) -> float:
        return float(((rows @ rows.T).fill_diagonal_(-1) > 0.62).double().mean())

    assert too_near(old.prototypes) > 0.03
    assert too_near(found) < 0.2 * too_near(old.prototypes)
    kept, freed = ((old.prototypes * rows).sum(dim=1) for rows in (found, loose))
    assert float(kept.mean()) > float(freed.mean())
    assert float(kept.min()) > 0.93
    assert float(angles_between(old.prototypes, found).rad2deg().mean()) > 2


def test_prototypes_are_pushed_from_other_classes_new_ones_and_not_from_their_own() -> None:
    """Class 0's old place is where class 1 has gone; class 2's is where it is itself."""
    old = space_of(torch.eye(3, 6))
    near = F.normalize(
        torch.tensor([[0.0, 0, 0, 1, 0, 0], [1.0, 0, 0, 0.2, 0, 0], [0, 0, 1.0, 0, 0, 0]]), dim=1
    )
    found = searched(old, near, Spreading(new_weight=1.0), passes=60)
    assert float(found[0] @ near[1]) < -0.02
    assert not found[1:].any()
    assert not searched(old, near, Spreading(new_weight=0.0), passes=60).any()
    assert not searched(old, None, passes=60).any()


def test_a_search_goes_on_from_where_it_is_begun() -> None:
    old = crowded()
    begun = searched(old, passes=30)
    further = spread_displacements(old, None, begun, Spreading(), passes=5, seed=1)
    assert float((further - begun).abs().max()) <= 5.1e-3  # Adam's step is the learning rate at most
    assert float((begun).abs().max()) > 0.01
    assert not torch.equal(further, begun)


@pytest.mark.parametrize("with_new", [False, True])
def test_the_order_of_classes_does_not_matter_when_all_are_looked_at_together(*, with_new: bool) -> None:
    old, order = crowded(), torch.randperm(24)
    new = units(24, 16, seed=5) if with_new else None
    found = searched(old, new)
    other = searched(reordered(old, order), None if new is None else new[order])
    torch.testing.assert_close(other, found[order], atol=1e-8, rtol=0)
    assert torch.equal(searched(old, new, seed=0), found)
    torch.testing.assert_close(searched(old, new, seed=1), found, atol=1e-8, rtol=0)


def test_in_small_batches_the_seed_decides_who_meets_whom() -> None:
    old, config = crowded(), Spreading(batch=5)
    found = searched(old, None, config, passes=4)
    assert torch.equal(searched(old, None, config, passes=4), found)
    assert not torch.allclose(searched(old, None, config, passes=4, seed=1), found, atol=1e-4)


@pytest.mark.parametrize(
    ("degrees", "counts"),
    [
        ((30,), None), ((0, 40), None), ((0, 0, 50), None), ((0, 0, 0), None), ((0, 120, 240), None),
        ((0, 20, 40), [3, 0, 3]), ((0, 20, 40), [0, 0, 0]), ((0, 20, 40), [0, 2, 0]),
    ],
)  # fmt: skip
def test_awkward_spaces_give_unit_rows_and_no_nan(
    degrees: tuple[float, ...], counts: list[int] | None
) -> None:
    old = space_of(torch.tensor([at(one) for one in degrees]), counts)
    for new in (None, torch.zeros_like(old.prototypes), old.prototypes.flip(0)):
        for batch in (2, 1_024):
            found = searched(old, new, Spreading(batch=batch), passes=5)
            assert torch.isfinite(found).all()
            assert not found[~old.known].any()
            torch.testing.assert_close(gone_to(old, found).norm(dim=1), old.known.float())


def test_a_search_leaves_its_start_as_it_was_and_hands_back_constants() -> None:
    old, new, start = crowded(), units(24, 16, seed=5), torch.zeros(24, 16, dtype=torch.float64)
    with torch.no_grad():  # as an epoch begins
        found = spread_displacements(old, new, start, Spreading(), passes=3, seed=0)
    assert found.any()
    assert not found.requires_grad
    assert not start.any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"old_weight": -1.0}, r"weights \(-1.0, 1.0, 0.5\)"), ({"learning_rate": 0.0}, "learning_rate 0.0 above 0"),
        ({"passes": -1}, r"passes are -1 and 20 \(>= 0\)"), ({"batch": 1}, r"batch 1 \(>= 2\)"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Spreading(**wrong)  # type: ignore[arg-type]
