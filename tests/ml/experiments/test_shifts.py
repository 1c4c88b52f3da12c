"""Planted shifts do what their names say, and are seen in a few photos."""

from typing import NamedTuple, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml.experiments.data import Dataset
from ml.experiments.lifelong.shifts import BATCH_PHOTOS, KINDS, Kind, Pixels, fire_rate, shifted
from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.memory import ClassMemory, fitted_gaussians
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
    assert shifted(grey, "darker", 0.5).shape == grey.shape
    with pytest.raises(ValueError, match="pixels have 1 channels, a bluish shift needs 3"):
        shifted(grey, "bluish", 0.5)
    with pytest.raises(ValueError, match=r"shift is 'darker' by 1\.5, expected one of darker"):
        shifted(photos, "darker", 1.5)


def colours(pixels: Pixels) -> NDArray[np.float32]:
    """A stand-in for a trunk: mean colours of a two by two grid."""
    grid = torch.from_numpy(pixels).float().reshape(len(pixels), 3, 2, 32, 2, 32)
    return cast("NDArray[np.float32]", grid.mean(dim=(3, 5)).flatten(1).numpy() / 64)


class Asked(NamedTuple):
    pixels: Pixels
    sets: list[LabelSet]
    memory: ClassMemory
    known: Usual

    def residuals(self, kind: Kind, strength: float) -> NDArray[np.float64]:
        return own_residuals(colours(shifted(self.pixels, kind, strength)), self.sets, self.memory)


@pytest.fixture(scope="module")
def asked() -> Asked:
    """Eight colours; pictures of each to learn from, to know what is usual by, and to ask with."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(60, 200, (8, 3))

    def drawn(per_class: int) -> tuple[Pixels, list[LabelSet]]:
        labels = np.repeat(np.arange(8), per_class)
        light = centres[labels][:, :, None, None] + rng.normal(0, 8, (len(labels), 3, 1, 1))
        pixels = np.clip(light + rng.normal(0, 10, (len(labels), 3, 64, 64)), 0, 255).astype(np.uint8)
        return pixels, [(label,) for label in labels.tolist()]

    (learned, learned_sets), (held, held_sets), (pixels, sets) = drawn(20), drawn(10), drawn(10)
    memory = fitted_gaussians(colours(learned), learned_sets, per_set=1, from_items=1000, seed=0)
    residuals = own_residuals(colours(held), held_sets, memory)
    return Asked(pixels, sets, memory, usual(residuals, held_sets, np.arange(len(held))))


def test_small_batches_raise_the_alarm_when_shifted_in_what_the_trunk_sees_and_else_seldom(
    asked: Asked,
) -> None:
    items = np.arange(len(asked.sets))
    rates = [
        fire_rate(asked.residuals(kind, strength), asked.sets, items, asked.known)
        for kind, strength in cast(
            "list[tuple[Kind, float]]", [("darker", 0.0), ("blur", 1.0), ("darker", 1.0)]
        )
    ]  # mean colours do not see blur
    assert rates[0] <= 0.1
    assert rates[1] <= 0.1
    assert rates[2] == 1.0


def test_a_rate_needs_as_many_photos_as_a_batch_has(asked: Asked) -> None:
    few = BATCH_PHOTOS - 1
    with pytest.raises(ValueError, match="there are 31 photos, a batch has 32"):
        fire_rate(np.ones((few, 12)), asked.sets[:few], np.arange(few), asked.known)
