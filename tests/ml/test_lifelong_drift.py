"""The alarms: seldom false, fast at a planted shift, and what is due when they fire."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.methods.lifelong.drift import (
    Crowding,
    LabelDrift,
    Limits,
    crowding,
    due,
    label_drift,
)
from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.memory import ClassMemory, fitted_gaussians
from ml.methods.lifelong.shift_alarm import (
    LEAST_ITEMS,
    Alarm,
    foreign_distances,
    own_residuals,
    usual,
)

WIDTH, SETS = 6, 12
LIMITS = Limits(partial_from=0.2, full_from=0.8, lost_from=0.01, crowded_below=0.5)


class Photos(NamedTuple):
    features: NDArray[np.float32]
    sets: list[LabelSet]
    items: NDArray[np.int64]


class World:
    """Twelve categories, each a Gaussian of its own width: photos of some are always further out than of others."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.means = self.rng.normal(0, 4, (SETS, WIDTH))
        self.widths = np.linspace(0.5, 1.5, SETS)
        learned = self.photos(40)
        self.memory = fitted_gaussians(learned.features, learned.sets, per_set=1, from_items=10_000, seed=0)

    def photos(
        self,
        per_set: int,
        *,
        only: int | None = None,
        per_item: int = 2,
        spread: float = 0.2,
        shift: float = 0.0,
    ) -> Photos:
        """Items of each category (or of one), photos of one item `spread` apart, moved by `shift` in every feature."""
        labels = np.repeat(np.arange(SETS) if only is None else [only], per_set)
        centres = self.means[labels] + self.rng.normal(size=(len(labels), WIDTH)) * self.widths[labels, None]
        items = np.repeat(np.arange(len(labels)), per_item)
        photos = centres[items] + self.rng.normal(0, spread, (len(items), WIDTH)) + shift
        return Photos(photos.astype(np.float32), [(label,) for label in labels[items].tolist()], items)

    def alarm(self, held_out: Photos, seen: Photos) -> Alarm:
        known = usual(own_residuals(*held_out[:2], self.memory), *held_out[1:])
        return known.alarm(own_residuals(*seen[:2], self.memory), *seen[1:])


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def memory_of(
    means: list[list[float]], owner: list[int], counts: list[int], pooled: list[float]
) -> ClassMemory:
    """Gaussians of variance 1; `pooled`: the variances within label sets."""
    return ClassMemory(
        sets=tuple((position,) for position in range(max(owner) + 1)),
        owner=np.array(owner),
        counts=np.array(counts),
        means=np.array(means, np.float32),
        covariances=np.stack([np.eye(len(pooled))] * len(owner)).astype(np.float32),
        pooled=np.diag(pooled).astype(np.float32),
    )


def test_a_residual_is_what_differs_from_the_own_label_set_in_standard_deviations() -> None:
    memory = memory_of([[0, 0], [10, 0], [3, 3]], [0, 0, 1], [1, 3, 5], pooled=[4, 16])
    features = np.array([[7.5, 8], [9.5, 0], [3, 3]], np.float32)
    found = own_residuals(features, [(0,), (0,), (1,)], memory)  # the mean of set 0 is 7.5, 0
    jitter = 0.01 * (4 + 16) / 2
    assert found == pytest.approx(
        np.array([[0, 8 / (16 + jitter) ** 0.5], [2 / (4 + jitter) ** 0.5, 0], [0, 0]])
    )


def test_a_label_set_that_was_never_learned_has_no_own_residual(world: World) -> None:
    with pytest.raises(ValueError, match=r"label set \(3, 9\) has no Gaussian in memory"):
        own_residuals(np.zeros((1, WIDTH), np.float32), [(3, 9)], world.memory)
    with pytest.raises(ValueError, match=r"features are \(1, 5\) with 1 label sets, expected \(N, 6\)"):
        own_residuals(np.zeros((1, 5), np.float32), [(0,)], world.memory)
    with pytest.raises(ValueError, match="not finite"):
        own_residuals(np.full((1, WIDTH), np.nan, np.float32), [(0,)], world.memory)


def test_what_is_foreign_is_measured_against_everything_learned_but_itself() -> None:
    # Without set 2: means -1 and 3 of one and three items: mean 2, variance 1 within and 3 between them.
    memory = memory_of([[-1], [3], [50]], [0, 1, 2], [1, 3, 9], pooled=[1])
    found = foreign_distances(np.array([[6.0]], np.float32), [(2,)], memory)
    assert found == pytest.approx(np.array([[16 / (4 * 1.01)]]))
    # A label set that memory does not hold leaves nothing out.
    means, counts = np.array([-1, 3, 50]), np.array([1, 3, 9])
    mean = means @ counts / 13
    variance = 1 + (means - mean) ** 2 @ counts / 13
    found = foreign_distances(np.array([[6.0]], np.float32), [(7,)], memory)
    assert found == pytest.approx(np.array([[(6 - mean) ** 2 / (variance * 1.01)]]))
    with pytest.raises(ValueError, match=r"memory holds nothing but label set \(0,\)"):
        foreign_distances(np.zeros((1, 1), np.float32), [(0,)], memory_of([[0]], [0], [1], pooled=[1]))


@pytest.mark.parametrize(
    ("held_out", "seen"),
    [
        ({"per_set": 4}, {"per_set": 4}),
        ({"per_set": 2}, {"per_set": 8}),  # what is usual is less well known than what is seen
        ({"per_set": 5, "per_item": 6, "spread": 2.0}, {"per_set": 1, "per_item": 1, "spread": 2.0}),
    ],
)
def test_unshifted_photos_raise_the_alarm_about_once_in_a_hundred_times(
    world: World, held_out: dict[str, Any], seen: dict[str, Any]
) -> None:
    fired = sum(world.alarm(world.photos(**held_out), world.photos(**seen)).has_fired for _ in range(200))
    assert fired <= 7  # of 200; 1 % are 2, and 8 or more are rarer than one in five hundred


def test_photos_of_one_category_alone_are_no_shift_wherever_they_usually_lie(world: World) -> None:
    fired = sum(
        world.alarm(world.photos(6), world.photos(12, only=turn % SETS)).has_fired for turn in range(240)
    )
    assert fired <= 9


def test_a_planted_shift_is_found(world: World) -> None:
    fired = sum(world.alarm(world.photos(6), world.photos(4, shift=0.8)).has_fired for _ in range(50))
    assert fired >= 48


def test_the_statistic_is_the_displacement_and_near_none_without_a_shift(world: World) -> None:
    held_out = world.photos(200)
    within = float(np.sqrt(np.trace(world.memory.pooled) / WIDTH))
    shifts = np.array([0.0, 0.2, 0.8, 1.6])
    seen = [world.alarm(held_out, world.photos(200, shift=shift)).statistic for shift in shifts.tolist()]
    assert seen == pytest.approx(shifts / within, abs=0.08)


def test_more_photos_of_the_same_items_make_the_alarm_no_surer(world: World) -> None:
    held_out = world.photos(20)
    known = usual(own_residuals(*held_out[:2], world.memory), *held_out[1:])
    seen = world.photos(2)
    residuals = own_residuals(*seen[:2], world.memory)
    again = np.tile(np.arange(len(residuals)), 5)
    once = known.alarm(residuals, seen.sets, seen.items)
    often = known.alarm(residuals[again], [seen.sets[row] for row in again.tolist()], seen.items[again])
    assert often.statistic == pytest.approx(once.statistic, abs=0.05)
    assert often.high == pytest.approx(once.high, rel=0.05)
    assert often.items == once.items
    assert often.photos == 5 * once.photos


@pytest.mark.parametrize(("spread", "has_fired"), [(4, False), (12, True), (0, True)])
def test_new_categories_among_the_known_ones_are_usual_and_those_far_out_or_all_in_the_middle_are_not(
    world: World, spread: float, has_fired: bool
) -> None:
    held_out = world.photos(10)
    known = usual(foreign_distances(*held_out[:2], world.memory), *held_out[1:])
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(12), 5)
    places = world.memory.means.mean(axis=0) + rng.normal(0, 1, (12, WIDTH)) * spread
    features = (places[labels] + rng.normal(0, 0.2, (60, WIDTH))).astype(np.float32)
    new: list[LabelSet] = [(100 + label,) for label in labels.tolist()]
    distances = foreign_distances(features, new, world.memory)
    assert known.alarm(distances, new, np.arange(60)).has_fired == has_fired


def test_noise_of_photos_is_not_counted_again_as_a_difference_of_label_sets() -> None:
    noise = np.random.default_rng(0).normal(size=(1200, 4))
    sets: list[LabelSet] = [(row // 3,) for row in range(600)]
    known = usual(noise[:600], sets, np.arange(600))
    high = known.alarm(noise[600:], sets, np.arange(600)).high
    # Means of 600 differ by a square of 2 / 600; of chi square with 4 degrees of freedom 1 % are above 13.277.
    assert high == pytest.approx((2 / 600 * (13.277 / 4 - 1)) ** 0.5, rel=0.12)


def test_a_held_out_photo_that_is_far_off_everything_does_not_break_the_alarm() -> None:
    values = np.random.default_rng(0).normal(size=(1_000, 1))
    values[0] = 1e4
    sets: list[LabelSet] = [(0,)] * 1_000
    found = usual(values, sets, np.arange(1_000)).alarm(values[1:2], sets[1:2], np.arange(1))
    assert found.high >= 0
    assert isinstance(found.has_fired, bool)


def test_an_alarm_is_not_set_from_a_handful_of_items(world: World) -> None:
    photos = world.photos(LEAST_ITEMS - 1, only=0)
    with pytest.raises(ValueError, match="held-out photos show 9 items, an alarm needs at least 10"):
        usual(own_residuals(*photos[:2], world.memory), *photos[1:])
    known = usual(np.ones((10, 1)), [(0,)] * 10, np.arange(10))
    with pytest.raises(ValueError, match="there are 0 photos"):
        known.alarm(np.empty((0, 1)), [], np.empty(0, np.int64))
    with pytest.raises(ValueError, match="2 values, 1 label sets and 2 items"):
        known.alarm(np.ones((2, 1)), [(0,)], np.arange(2))


def test_label_drift_counts_entries_and_the_similarity_their_codes_lost() -> None:
    codewords = np.array([[1, 1, 1, 1], [1, 1, 1, -1], [-1, -1, -1, -1]], np.int8)
    found = label_drift(np.array([0, 0, 0]), np.array([0, 1, 2]), np.array([75, 15, 10]), codewords)
    assert (found.entries, found.moved, found.share) == (100, 25, 0.25)
    assert found.lost == pytest.approx(0.15 * 0.5 + 0.1 * 2)
    with pytest.raises(ValueError, match="there are 0 stored entries"):
        label_drift(np.array([0]), np.array([1]), np.array([0]), codewords)


def test_crowding_is_distance_over_what_the_labels_ask_for() -> None:
    codewords = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, 1, 1, -1]], np.int8)
    target = np.array([[1, 0, 0], [0, 1, 0.5], [0, 0.5, 1]])  # asks for 2, 2 and 1 bits
    found = crowding(codewords, target)
    assert (found.smallest, found.nearest) == (0.5, 1)
    assert found.mean == pytest.approx((2 / 2 + 1 / 2 + 1 / 1) / 3)
    assert (
        crowding(codewords[:2], np.array([[1, -1], [-1, 1]])).smallest == 0.5
    )  # opposites: 4 bits asked, 2 there
    with pytest.raises(ValueError, match="none of the 1 pairs of label sets asks for a distance"):
        crowding(codewords[:2], np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"target is \(2, 2\), expected \(3, 3\)"):
        crowding(codewords, np.eye(2))


@pytest.mark.parametrize(
    ("statistic", "high", "remedy"),
    [
        (0.9, 0.1, "full"),
        (0.8, 0.1, "full"),
        (0.79, 0.1, "partial"),
        (0.2, 0.1, "partial"),
        (0.19, 0.1, "none"),  # unusual, but it costs nothing
        (0.9, 1.0, "none"),  # much, but from so few photos that it is not unusual
    ],
)
def test_a_shift_is_answered_by_how_large_it_is_once_it_is_unusual(
    statistic: float, high: float, remedy: str
) -> None:
    found = due(limits=LIMITS, shift=Alarm(statistic, high, 64, 32), labels=None, space=None)
    assert found.value == remedy
    assert f"displaced by {statistic:.3f} standard deviations" in found.reasons[0]
    assert "64 photos of 32 items" in found.reasons[0]


def test_the_strongest_remedy_counts_and_every_measure_is_told() -> None:
    shift = Alarm(0.3, 0.1, 64, 32)
    few, many = LabelDrift(1000, 3, 0.009), LabelDrift(1000, 30, 0.01)
    wide, crowded = Crowding(0.5, 1.0, 12), Crowding(0.49, 1.0, 9)
    assert due(limits=LIMITS, shift=shift, labels=few, space=wide).value == "partial"
    assert due(limits=LIMITS, shift=shift, labels=many, space=wide).value == "full"
    assert due(limits=LIMITS, shift=shift, labels=few, space=crowded).value == "full"
    assert due(limits=LIMITS, shift=None, labels=few, space=wide).value == "none"
    assert due(limits=LIMITS, shift=None, labels=None, space=None) == due(
        limits=LIMITS, shift=None, labels=None, space=None
    )
    reasons = due(limits=LIMITS, shift=shift, labels=many, space=crowded).reasons
    assert len(reasons) == 3
    assert reasons[1].startswith(
        "30 of 1,000 stored entries have other labels than their codes were made for"
    )
    assert "0.49 times as far apart as their labels ask for, the nearest two 9 bits" in reasons[2]


def test_crowding_asks_for_nothing_where_no_threshold_was_measured() -> None:
    found = due(limits=Limits(), shift=None, labels=None, space=Crowding(0.0, 0.99, 0))
    assert found.value == "none"
    assert "no distance is known" in found.reasons[0]
