"""What is kept of learned features: Gaussians, exemplars, and texts to pair with them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ml.methods.lifelong.exemplars import FeatureBank, kept_exemplars
from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.lesson import Texts
from ml.methods.lifelong.memory import (
    OWN_SHRINK,
    POOLED_SHRINK,
    ClassMemory,
    Features,
    fitted_gaussians,
    within_covariance,
)
from ml.methods.lifelong.training import _TextRows as TextRows

WIDTH = 3
NEVER = 10**9  # items from which a label set gets several Gaussians
BAG: LabelSet = (0,)
RED_BAG: LabelSet = (0, 2)
SHOE: LabelSet = (1,)


def photos(sizes: dict[LabelSet, int], *, seed: int = 0) -> tuple[Features, list[LabelSet]]:
    """Features of each label set around a mean of its own, far from the others', of different widths."""
    rng = np.random.default_rng(seed)
    parts, sets = [], []
    for position, (labels, count) in enumerate(sizes.items()):
        spread = np.diag([1.0, 0.5, 2.0]) @ np.array([[1, 0.6, 0], [0, 1, 0.3], [0, 0, 1]])
        parts.append(rng.normal(size=(count, WIDTH)) @ spread + 20 * position)
        sets += [labels] * count
    return np.concatenate(parts).astype(np.float32), sets


def remembered(
    features: Features, sets: list[LabelSet], *, per_set: int = 1, start: int = NEVER
) -> ClassMemory:
    return fitted_gaussians(features, sets, per_set=per_set, from_items=start, seed=0)


def test_a_small_label_set_is_a_gaussian_of_its_mean_with_its_covariance_shrunk_to_the_pooled_one() -> None:
    features, sets = photos({BAG: 60, SHOE: 40})
    memory = remembered(features, sets)
    assert memory.sets == (BAG, SHOE)
    assert memory.owner.tolist() == [0, 1]
    assert memory.counts.tolist() == [60, 40]
    own = [features[:60].astype(float), features[60:].astype(float)]
    covariances = [np.cov(rows.T, bias=True) for rows in own]
    pooled = 0.6 * covariances[0] + 0.4 * covariances[1]
    for position in range(2):
        wanted = (1 - POOLED_SHRINK) * covariances[position] + POOLED_SHRINK * pooled
        np.testing.assert_allclose(memory.means[position], own[position].mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(memory.covariances[position], wanted, rtol=1e-3, atol=1e-3)
    members = np.repeat([0, 1], [60, 40])
    np.testing.assert_allclose(within_covariance(features.astype(float), members, 2), pooled, rtol=1e-9)


def test_a_large_label_set_of_two_kinds_is_remembered_as_two_gaussians_and_a_small_one_as_one() -> None:
    """Nike's bag and a tote are both bags: one Gaussian would lie between them, where nothing is."""
    features, _ = photos({BAG: 120, SHOE: 120, RED_BAG: 10})
    memory = remembered(features, [BAG] * 240 + [RED_BAG] * 10, per_set=2, start=100)
    assert memory.owner.tolist() == [0, 0, 1]
    assert sorted(memory.counts.tolist()) == [10, 120, 120]
    near = sorted(memory.means[:2, 0].tolist())
    assert near == pytest.approx([0, 20], abs=0.5)
    kinds = np.cov(features[:240].T, bias=True)
    first = int(memory.means[0, 0] > 10)
    own = np.cov(features[120 * first : 120 * (first + 1)].T, bias=True)
    wanted = (1 - OWN_SHRINK) * own + OWN_SHRINK * kinds
    np.testing.assert_allclose(memory.covariances[0], wanted, rtol=1e-3, atol=1e-2)


def test_label_sets_are_drawn_as_often_as_they_have_items() -> None:
    """By the prior: drawing old and new classes alike lets the new ones win (probes)."""
    memory = remembered(*photos({BAG: 700, SHOE: 200, RED_BAG: 100}))
    count = 20_000
    drawn = np.bincount(memory.draw(count, np.random.default_rng(1))[1], minlength=3) / count
    for share, own in zip((0.7, 0.1, 0.2), drawn, strict=True):  # sets are sorted: bag, red bag, shoe
        assert own == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / count))


def test_what_is_drawn_has_the_mean_and_the_covariance_that_are_kept() -> None:
    memory = remembered(*photos({BAG: 400, SHOE: 400}))
    count = 40_000
    features, owner = memory.draw(count, np.random.default_rng(2))
    assert features.dtype == np.float32
    for position in range(2):
        own, kept = features[owner == position].astype(float), memory.covariances[position].astype(float)
        variances = np.diag(kept)
        # Five standard errors: of a mean sqrt(v / n), of a covariance sqrt((v_i v_j + v_ij^2) / n).
        of_mean = 5 * np.sqrt(variances / len(own))
        of_covariance = 5 * np.sqrt((np.outer(variances, variances) + kept**2) / len(own))
        assert (np.abs(own.mean(axis=0) - memory.means[position]) < of_mean).all()
        assert (np.abs(np.cov(own.T) - kept) < of_covariance).all()


def test_the_same_seed_draws_the_same_bytes_and_another_does_not() -> None:
    memory = remembered(*photos({BAG: 30, SHOE: 30}))
    first, again, other = (memory.draw(50, np.random.default_rng(seed))[0].tobytes() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_joined_memories_draw_from_both_and_keep_whose_is_whose() -> None:
    old = remembered(*photos({SHOE: 90, BAG: 30}))
    new = remembered(*photos({RED_BAG: 60, SHOE: 20}, seed=5))
    both = old.joined(new)
    assert both.sets == (BAG, RED_BAG, SHOE)
    assert [both.sets[own] for own in both.owner] == [BAG, SHOE, RED_BAG, SHOE]
    assert both.counts.tolist() == [30, 90, 60, 20]
    np.testing.assert_array_equal(both.means, np.concatenate([old.means, new.means]))
    np.testing.assert_array_equal(both.covariances[2:], new.covariances)
    np.testing.assert_array_equal(both.pooled, old.pooled)
    drawn = both.draw(4_000, np.random.default_rng(0))[1]
    assert (drawn == 2).mean() == pytest.approx(110 / 200, abs=5 * math.sqrt(0.25 / 4_000))


def test_gaussians_that_are_merged_keep_the_mean_and_the_covariance_of_both() -> None:
    first, second, third = (remembered(*photos({SHOE: count}, seed=count)) for count in (60, 20, 10))
    joined = first.joined(second, per_set=2).joined(third, per_set=2)
    assert joined.counts.tolist() == [60, 30]
    np.testing.assert_array_equal(joined.means[0], first.means[0])
    weights = np.array([2 / 3, 1 / 3])
    means = np.concatenate([second.means, third.means]).astype(float)
    mean = weights @ means
    within = weights[0] * second.covariances[0] + weights[1] * third.covariances[0]
    between = sum(
        weight * np.outer(own - mean, own - mean) for weight, own in zip(weights, means, strict=True)
    )
    np.testing.assert_allclose(joined.means[1], mean, rtol=1e-5)
    np.testing.assert_allclose(joined.covariances[1], within + between, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(second.means, remembered(*photos({SHOE: 20}, seed=20)).means)


Remember = Callable[[Features, list[LabelSet]], ClassMemory | FeatureBank]
BOTH: list[Remember] = [remembered, lambda features, sets: kept_exemplars(features, sets, per_set=3, seed=0)]


def drawn_shares(memory: ClassMemory | FeatureBank) -> dict[LabelSet, float]:
    owners = memory.draw(4_000, np.random.default_rng(0))[1]
    return {labels: float((owners == place).mean()) for place, labels in enumerate(memory.sets)}


@pytest.mark.parametrize("remember", BOTH)
def test_thirty_increments_of_one_item_keep_no_more_than_one_of_thirty(remember: Remember) -> None:
    features, sets = photos({BAG: 40, SHOE: 30})
    memory = remember(features[:40], sets[:40])
    for row in range(40, 70):
        memory = memory.joined(remember(features[[row]], [SHOE]), per_set=3)  # type: ignore[arg-type]
    assert memory.sets == (BAG, SHOE)
    assert np.bincount(memory.owner).max() <= 3
    assert drawn_shares(memory)[SHOE] == pytest.approx(30 / 70, abs=0.04)


@pytest.mark.parametrize("remember", BOTH)
def test_what_is_remembered_follows_what_is_left_of_each_label_set(remember: Remember) -> None:
    memory = remember(*photos({BAG: 60, RED_BAG: 20, SHOE: 20}))
    before = {name: array.copy() for name, array in memory.arrays().items()}
    left = memory.following({BAG: 10, SHOE: 30})
    assert left.sets == (BAG, SHOE)
    assert drawn_shares(left)[SHOE] == pytest.approx(0.75, abs=0.04)
    features = left.draw(50, np.random.default_rng(0))
    shoes = features[0][features[1] == 1]
    assert (np.abs(shoes - 40) < 12).all()  # where photos() puts the third label set
    with pytest.raises(ValueError, match=r"nothing is remembered of 1 label sets .* such as \(5,\)"):
        memory.following({BAG: 10, (5,): 1})
    for name, array in memory.arrays().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("remember", BOTH)
def test_relabelled_items_are_remembered_under_their_new_labels(remember: Remember) -> None:
    memory = remember(*photos({BAG: 60, SHOE: 40}))
    some = memory.moved(15, source=BAG, target=RED_BAG)
    assert some.sets == (BAG, RED_BAG, SHOE)
    shares = drawn_shares(some)
    assert shares[BAG] == pytest.approx(0.45, abs=0.04)
    assert shares[RED_BAG] == pytest.approx(0.15, abs=0.04)
    every = memory.moved(60, source=BAG, target=RED_BAG)
    assert every.sets == (RED_BAG, SHOE)
    features, owner = every.draw(200, np.random.default_rng(0))
    assert (np.abs(features[owner == 0]) < 12).all()  # where the bags were


def test_a_memory_comes_back_from_its_arrays() -> None:
    memory = remembered(*photos({BAG: 30, SHOE: 30}))
    again = ClassMemory.from_arrays(memory.sets, memory.arrays())
    left, right = (one.draw(20, np.random.default_rng(0)) for one in (memory, again))
    np.testing.assert_array_equal(left[0], right[0])
    np.testing.assert_array_equal(left[1], right[1])


def test_a_label_set_of_a_single_item_is_remembered_with_the_width_that_others_have() -> None:
    features, sets = photos({BAG: 500, SHOE: 1})
    memory = remembered(features, sets)
    np.testing.assert_allclose(memory.means[1], features[500], rtol=1e-6)
    np.testing.assert_allclose(memory.covariances[1], POOLED_SHRINK * memory.pooled, rtol=1e-2, atol=1e-3)
    alone = remembered(features[:1], [BAG])
    assert np.abs(alone.draw(100, np.random.default_rng(0))[0] - features[0]).max() < 0.1


def test_covariances_of_fewer_items_than_features_can_still_be_drawn_from() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(12, 40)) * 10).astype(np.float32)
    drawn, _ = remembered(features, [BAG] * 6 + [SHOE] * 6).draw(50, rng)
    assert np.isfinite(drawn).all()


def test_what_is_kept_of_gaussians_does_not_grow_with_the_number_of_items() -> None:
    """Invariant 12."""
    few, many = (remembered(*photos({BAG: n, SHOE: n}), per_set=3, start=50) for n in (100, 5_000))
    assert [array.shape for array in few.arrays().values()] == [
        array.shape for array in many.arrays().values()
    ]
    assert few.means.shape == (6, WIDTH)


@pytest.mark.parametrize(("per_set", "kept"), [(2, 5), (3, 7), (None, 40)])
def test_of_each_label_set_as_many_exemplars_are_kept_as_asked_for(per_set: int | None, kept: int) -> None:
    features, sets = photos({BAG: 30, SHOE: 9, RED_BAG: 1})
    bank = kept_exemplars(features, sets, per_set=per_set, seed=0)
    assert bank.counts.tolist() == [30, 1, 9]  # items, not exemplars
    assert len(bank.kept) == len(bank.owner) == kept
    rows = [int(np.flatnonzero((features == one).all(axis=1))[0]) for one in bank.kept]
    assert len(set(rows)) == kept
    assert [sets[row] for row in rows] == [bank.sets[own] for own in bank.owner]


def test_exemplars_are_drawn_as_often_as_their_label_set_has_items() -> None:
    bank = kept_exemplars(*photos({BAG: 800, SHOE: 200}), per_set=2, seed=0)
    features, owner = bank.draw(10_000, np.random.default_rng(0))
    assert (owner == 0).mean() == pytest.approx(0.8, abs=5 * math.sqrt(0.16 / 10_000))
    assert {one.tobytes() for one in features} == {one.tobytes() for one in bank.kept}


def test_joined_exemplars_count_the_items_of_both() -> None:
    old = kept_exemplars(*photos({BAG: 30, SHOE: 9}), per_set=2, seed=0)
    new = kept_exemplars(*photos({RED_BAG: 5, SHOE: 11}, seed=1), per_set=2, seed=0)
    both = old.joined(new)
    assert both.sets == (BAG, RED_BAG, SHOE)
    assert both.counts.tolist() == [30, 5, 20]
    assert [both.sets[own] for own in both.owner] == [BAG] * 2 + [SHOE] * 2 + [RED_BAG] * 2 + [SHOE] * 2
    np.testing.assert_array_equal(both.kept, np.concatenate([old.kept, new.kept]))


def test_a_photo_is_paired_with_texts_of_its_own_label_set_and_with_each_of_them_in_time() -> None:
    place: dict[LabelSet, int] = {BAG: 0, SHOE: 1, RED_BAG: 2}
    said: list[LabelSet] = [RED_BAG, BAG, RED_BAG, BAG, BAG]
    rows = TextRows(Texts(np.eye(5, dtype=np.float32), said), place)
    generator = torch.Generator().manual_seed(0)
    carried = torch.tensor([0, 1, 2] * 60)  # of the shoe nobody has said anything
    paired, texts = rows.partners(carried, generator)
    assert paired.tolist() == [sample for sample in range(180) if carried[sample] != 1]
    assert torch.equal(rows.sets[texts], carried[paired])
    spoken = rows.hashed[texts].argmax(dim=1).tolist()
    assert [place[said[one]] for one in spoken] == carried[paired].tolist()
    assert set(spoken) == set(range(5))


def test_a_batch_of_texts_begins_with_partners_of_half_as_many_photos() -> None:
    place: dict[LabelSet, int] = {BAG: 0, SHOE: 1}
    rows = TextRows(Texts(np.eye(3, dtype=np.float32), [BAG, SHOE, SHOE]), place)
    carried = torch.tensor([0, 1] * 20)
    texts, paired = rows.draw(carried, 16, torch.Generator().manual_seed(1))
    assert len(texts) == 16
    assert len(set(paired.tolist())) == len(paired) == 8
    assert torch.equal(rows.sets[texts[:8]], carried[paired])
