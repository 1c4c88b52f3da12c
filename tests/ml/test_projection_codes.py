"""Codes without labels: their geometry, against what the papers promise."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.evaluation.hamming import hamming_values
from ml.experiments.data import Dataset, Part
from ml.methods.projection_codes import (
    ProjectionCoder,
    fitted_rotation,
    iterative_quantisation,
    random_hyperplanes,
    sign_bits,
    unit,
)

Floats = NDArray[np.float32]


def clusters(count: int = 600, width: int = 24) -> tuple[Floats, NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 12
    centres = rng.normal(size=(12, width)) * np.linspace(2, 0.3, width)
    return (centres[labels] + 0.3 * rng.normal(size=(count, width)) + 1).astype(np.float32), labels


def bits_of(coder: ProjectionCoder, features: Floats) -> NDArray[np.uint8]:
    return np.unpackbits(coder.encode(features), axis=1)


def test_the_share_of_differing_bits_is_the_angle_over_pi() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(40, 12)).astype(np.float32)
    features = np.concatenate([vectors, -vectors])  # their mean is zero: centring moves nothing
    bits = bits_of(random_hyperplanes(features, 20_000, seed=3), features)

    share = (bits[:40, None] != bits[None, :40]).mean(axis=2)
    angles = np.arccos(np.clip(unit(vectors) @ unit(vectors).T, -1, 1))
    assert share == pytest.approx(angles / np.pi, abs=0.02)  # five standard errors
    assert (bits[:40] != bits[40:]).all()  # opposite vectors lie on opposite sides of everything


def test_hyperplanes_pass_through_the_mean_of_what_they_were_fitted_on() -> None:
    features, _ = clusters()
    coder = random_hyperplanes(features, 64, seed=0)

    assert coder.mean == pytest.approx(unit(features).mean(axis=0), abs=1e-6)
    assert np.linalg.norm(coder.mean) > 0.5  # far from the origin
    share = bits_of(coder, features).mean(axis=0)
    through_origin = ProjectionCoder(np.zeros(24, np.float32), coder.projection)
    assert (
        np.abs(share - 0.5).mean() < 0.5 * np.abs(bits_of(through_origin, features).mean(axis=0) - 0.5).mean()
    )


def test_the_quantisation_error_never_rises_and_falls_by_a_good_part() -> None:
    features, _ = clusters()
    centred = (unit(features) - unit(features).mean(axis=0)).astype(np.float64)
    projected = centred @ np.linalg.svd(centred, full_matrices=False)[2][:16].T
    rotation, errors = fitted_rotation(10 * projected, np.random.default_rng(0), 50)

    assert len(errors) == 51
    assert (np.diff(errors) <= 1e-9).all()
    assert errors[-1] < 0.9 * errors[0]
    assert rotation.T @ rotation == pytest.approx(np.eye(16), abs=1e-10)


def test_what_is_already_signs_is_found_again_without_error() -> None:
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], size=(400, 4))
    hidden = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    rotation, errors = fitted_rotation(signs @ hidden.T, np.random.default_rng(2), 50)

    assert errors[-1] == pytest.approx(0, abs=1e-20)
    turned = signs @ hidden.T @ rotation  # the same signs, axes in another order and direction
    assert np.sort(np.abs(np.corrcoef(turned.T, signs.T)[:4, 4:]), axis=1)[:, -1] == pytest.approx(np.ones(4))


def test_the_axes_kept_are_the_widest_and_the_turn_leaves_their_span() -> None:
    features, _ = clusters()
    coder = iterative_quantisation(features, 8, seed=0)
    centred = unit(features) - coder.mean
    widest = np.linalg.svd(centred, full_matrices=False)[2][:8].T

    assert coder.projection.T @ coder.projection == pytest.approx(np.eye(8), abs=1e-5)
    assert coder.projection @ coder.projection.T == pytest.approx(widest @ widest.T, abs=1e-4)


def test_more_bits_than_dimensions_are_several_turns_of_all_of_them() -> None:
    features, _ = clusters(width=24)
    coder = iterative_quantisation(features, 64, seed=0)

    first, second, rest = np.split(coder.projection, [24, 48], axis=1)
    for turn in (first, second):
        assert turn.T @ turn == pytest.approx(np.eye(24), abs=1e-5)
    assert rest.T @ rest == pytest.approx(np.eye(16), abs=1e-5)
    assert np.abs(first.T @ second).max() < 0.99  # another turn, not the same bits again
    assert coder.encode(features).shape == (600, 8)


def test_the_same_seed_gives_the_same_codes_and_another_one_others() -> None:
    features, _ = clusters()
    for fit in (random_hyperplanes, iterative_quantisation):
        once, again, other = (fit(features, 16, seed=seed).encode(features) for seed in (0, 0, 1))
        assert (once == again).all()
        assert (once != other).any()


def test_a_code_depends_on_the_direction_of_its_own_feature_alone() -> None:
    features, _ = clusters()
    coder = iterative_quantisation(features, 16, seed=0)
    codes = coder.encode(features)

    assert (coder.encode(features[7:8]) == codes[7]).all()
    assert (coder.encode(features * np.float32(4)) == codes).all()
    assert coder.encode(features[:0]).shape == (0, 2)
    assert np.isfinite(unit(np.zeros((1, 3), np.float32))).all()


def test_signs_are_taken_as_they_are() -> None:
    embedding = np.array([[1, -2, 3, -4, 0, 0.1, -0.1, 5]], np.float32)
    assert bits_of(sign_bits(8), embedding).tolist() == [[1, 0, 1, 0, 1, 1, 0, 1]]


def test_on_real_pictures_turned_axes_find_more_than_random_ones(small_fashion: Dataset) -> None:
    def pixels(part: Part) -> Floats:
        return part.images.pixels.numpy().reshape(len(part), -1).astype(np.float32)

    gallery, queries = pixels(small_fashion.train), pixels(small_fashion.test)
    labels = small_fashion.test.labels(), small_fashion.train.labels()

    def found(coder: ProjectionCoder) -> float:
        return hamming_values(coder.encode(queries), labels[0], coder.encode(gallery), labels[1]).means()[
            "map"
        ]

    random = np.mean([found(random_hyperplanes(gallery, 32, seed=seed)) for seed in range(3)])
    turned = found(iterative_quantisation(gallery, 32, seed=0))
    assert turned > random + 0.02
    assert random > 0.25  # chance is 0.1


def test_what_cannot_be_coded_is_refused() -> None:
    features, _ = clusters()
    with pytest.raises(ValueError, match="codes have 12 bits"):
        random_hyperplanes(features, 12, seed=0)
    with pytest.raises(ValueError, match="codes have 0 bits"):
        sign_bits(0)
    with pytest.raises(ValueError, match=r"features are \(0, 24\), expected \(N, D\)"):
        iterative_quantisation(features[:0], 16, seed=0)
    with pytest.raises(ValueError, match=r"features are \(600, 5\), expected \(N, 24\)"):
        random_hyperplanes(features, 16, seed=0).encode(features[:, :5])
