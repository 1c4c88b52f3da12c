"""Planted shifts do what their names say, are seen, and tell from where on a remedy is due."""

from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml.evaluation.retrieval import retrieval_values
from ml.experiments.data import Dataset
from ml.experiments.lifelong.shifts import (
    KINDS,
    Cut,
    Cuts,
    Kind,
    Pixels,
    Queries,
    Remedied,
    cuts,
    fire_rate,
    kinds_for,
    shift_rows,
    shifted,
)
from ml.methods.lifelong.memory import fitted_gaussians
from ml.methods.lifelong.shift_alarm import Usual, own_residuals, usual


@pytest.fixture(scope="module")
def photos(small_grocery: Dataset) -> Pixels:
    return cast("Pixels", small_grocery.test.images.pixels[:12].numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_no_strength_changes_no_byte_and_more_strength_changes_more(kind: Kind, photos: Pixels) -> None:
    before = photos.copy()
    assert shifted(photos, kind, 0.0).tobytes() == before.tobytes()
    changes = [
        np.abs(shifted(photos, kind, strength).astype(int) - photos).mean() for strength in (0.1, 0.4, 1.0)
    ]
    assert 0 < changes[0] < changes[1] < changes[2]
    assert shifted(photos, kind, 1.0).dtype == np.uint8
    assert shifted(photos, kind, 1.0).shape == photos.shape
    assert photos.tobytes() == before.tobytes()


def test_each_shift_is_what_its_name_says(photos: Pixels) -> None:
    wide = photos.astype(np.float64)
    assert shifted(photos, "darker", 1.0).mean() == pytest.approx(0.15 * wide.mean(), abs=0.5)
    bluish = shifted(photos, "bluish", 1.0)
    assert (bluish[:, 2] == photos[:, 2]).all()
    assert bluish[:, 0].mean() == pytest.approx(0.4 * wide[:, 0].mean(), abs=0.5)
    assert bluish[:, 1].mean() == pytest.approx(0.75 * wide[:, 1].mean(), abs=0.5)
    grey = shifted(photos, "grey", 1.0)
    assert (grey == grey[:, :1]).all()
    blur = shifted(photos, "blur", 1.0).astype(np.float64)
    assert blur.mean() == pytest.approx(wide.mean(), rel=0.02)
    assert np.abs(np.diff(blur, axis=3)).mean() < 0.35 * np.abs(np.diff(wide, axis=3)).mean()
    flat = np.full((4, 3, 64, 64), 128, np.uint8)
    assert (shifted(flat, "blur", 0.5) == 128).all()
    noise = shifted(flat, "noise", 0.5).astype(np.float64) - 128
    assert (noise.mean(), noise.std()) == (pytest.approx(0, abs=0.5), pytest.approx(32, abs=0.5))
    white = shifted(flat + 127, "noise", 0.2)
    assert white.min() > 180
    assert (white == 255).mean() == pytest.approx(0.5, abs=0.05)  # what is lighter than white is white


def test_noise_is_drawn_by_its_seed(photos: Pixels) -> None:
    assert (shifted(photos, "noise", 0.3) == shifted(photos, "noise", 0.3)).all()
    assert (shifted(photos, "noise", 0.3) != shifted(photos, "noise", 0.3, seed=1)).any()


def test_grey_pictures_know_no_shift_of_colour(photos: Pixels) -> None:
    grey = photos[:, :1]
    assert kinds_for(grey) == ("darker", "blur", "noise")
    assert kinds_for(photos) == KINDS
    assert shifted(grey, "darker", 0.5).shape == grey.shape
    with pytest.raises(ValueError, match="pixels have 1 channels, a bluish shift needs 3"):
        shifted(grey, "bluish", 0.5)
    with pytest.raises(ValueError, match=r"shift is 'darker' by 1\.5, expected one of darker"):
        shifted(photos, "darker", 1.5)


def colours(pixels: Pixels) -> NDArray[np.float32]:
    """A stand-in for a trunk: mean colours of a two by two grid."""
    grid = torch.from_numpy(pixels).float().reshape(len(pixels), 3, 2, 32, 2, 32)
    return cast("NDArray[np.float32]", grid.mean(dim=(3, 5)).flatten(1).numpy() / 64)


@pytest.fixture(scope="module")
def world() -> tuple[Queries, Usual, Queries]:
    """Eight colours; forty pictures of each: to learn from, to know what is usual by, and to ask with."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(60, 200, (8, 3))

    def drawn(per_class: int) -> Queries:
        labels = np.repeat(np.arange(8), per_class)
        light = centres[labels][:, :, None, None] + rng.normal(0, 8, (len(labels), 3, 1, 1))
        pixels = np.clip(light + rng.normal(0, 10, (len(labels), 3, 64, 64)), 0, 255).astype(np.uint8)
        return Queries(pixels, [(label,) for label in labels.tolist()], np.arange(len(labels)))

    learned, held_out, asked = drawn(20), drawn(10), drawn(10)
    memory = fitted_gaussians(colours(learned.pixels), learned.sets, per_set=1, from_items=1000, seed=0)
    known = usual(
        own_residuals(colours(held_out.pixels), held_out.sets, memory), held_out.sets, held_out.items
    )
    return learned, known, asked


def test_rows_show_statistic_alarm_and_loss_of_each_shift(world: tuple[Queries, Usual, Queries]) -> None:
    learned, known, asked = world
    gallery = colours(learned.pixels)
    memory = fitted_gaussians(gallery, learned.sets, per_set=1, from_items=1000, seed=0)

    def precision(features: NDArray[np.float32]) -> NDArray[np.float64]:
        found = retrieval_values(
            centred(features), labels_of(asked), centred(gallery), labels_of(learned)
        ).map
        assert found is not None
        return found

    rows = shift_rows(
        asked, encode=colours, precision=precision, memory=memory, usual=known,
        kinds=("darker", "blur"), strengths=(0.0, 0.3, 1.0),
    )  # fmt: skip

    assert [(row.kind, row.strength) for row in rows] == [
        (kind, strength) for kind in ("darker", "blur") for strength in (0.0, 0.3, 1.0)
    ]
    unshifted, some, full = rows[:3]
    assert (unshifted.loss.value, unshifted.loss.low, unshifted.loss.high) == (0, 0, 0)
    assert not unshifted.alarm.has_fired
    assert unshifted.fire_rate <= 0.1
    assert unshifted.alarm.statistic < some.alarm.statistic < full.alarm.statistic
    assert full.alarm.has_fired
    assert full.fire_rate == 1.0
    assert full.loss.low > 0.01
    assert full.as_row()["map_no_action"] == pytest.approx(unshifted.precision.mean() - full.loss.value)
    # Mean colours do not see blur: no alarm, no loss.
    assert not rows[5].alarm.has_fired
    assert rows[5].loss.high < 0.02


def centred(features: NDArray[np.float32]) -> NDArray[np.float32]:
    moved = features - 2
    return cast("NDArray[np.float32]", moved / np.linalg.norm(moved, axis=1, keepdims=True))


def labels_of(queries: Queries) -> NDArray[np.int64]:
    return np.array(queries.sets)[:, 0]


def test_a_rate_needs_more_items_than_a_batch_has(world: tuple[Queries, Usual, Queries]) -> None:
    _, known, asked = world
    few = Queries(asked.pixels[:31], asked.sets[:31], asked.items[:31])
    with pytest.raises(ValueError, match="there are photos of 31 items, a batch has 32"):
        fire_rate(np.ones(31), few, known)


def test_thresholds_are_the_smallest_statistics_from_which_a_remedy_is_called_for() -> None:
    rows = [
        Remedied(1.0, loss=0.000, loss_low=0.000, partial_loss=0.000, full_loss=0.000),
        Remedied(1.1, loss=0.015, loss_low=0.009, partial_loss=0.010, full_loss=0.000),  # not for certain
        Remedied(1.3, loss=0.020, loss_low=0.011, partial_loss=0.005, full_loss=0.004),
        Remedied(
            1.6, loss=0.100, loss_low=0.080, partial_loss=0.050, full_loss=0.020
        ),  # 5 of 8: more than half
        Remedied(2.0, loss=0.200, loss_low=0.150, partial_loss=0.150, full_loss=0.080),  # 5 of 12
        Remedied(3.0, loss=0.400, loss_low=0.350, partial_loss=0.390, full_loss=0.100),
    ]
    assert cuts(rows) == Cuts(partial=Cut(1.3, wrong=0, rows=6), full=Cut(2.0, wrong=0, rows=6))
    assert cuts(rows[::-1]) == cuts(rows)
    assert cuts(rows[:2]) == Cuts(Cut(None, 0, 2), Cut(None, 0, 2))


def test_a_shift_that_no_remedy_helps_calls_for_no_new_trunk() -> None:
    hopeless = Remedied(2.0, loss=0.200, loss_low=0.150, partial_loss=0.199, full_loss=0.195)
    assert cuts([hopeless]) == Cuts(partial=Cut(2.0, 0, 1), full=Cut(None, 0, 1))


def test_where_statistics_do_not_part_the_rows_the_fewest_are_judged_wrongly() -> None:
    lossless = Remedied(1.5, 0.0, -0.01, 0.0, 0.0)
    costly = [Remedied(statistic, 0.1, 0.05, 0.02, 0.01) for statistic in (1.2, 1.4, 1.6, 1.8)]
    assert cuts([lossless, *costly]).partial == Cut(1.2, wrong=1, rows=5)
    early = Remedied(1.05, 0.1, 0.05, 0.02, 0.01)
    many = [lossless._replace(statistic=statistic) for statistic in (1.06, 1.08, 1.1)]
    assert cuts([early, *many, *costly]).partial == Cut(1.2, wrong=1, rows=8)
