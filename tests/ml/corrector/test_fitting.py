"""Maps fitted to pairs: exact where the drift is affine, better than affine where it is not, none where none helps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.methods.corrector.closed_form import ridge_map, rotation_map
from ml.methods.corrector.config import FitConfig
from ml.methods.corrector.fitting import fit_corrector, out_of_fold_errors, refitted
from ml.methods.corrector.pairs import Pairs, squared_distances
from ml.models.corrector import Corrector
from tests.ml.corrector.worlds import bent, directions, rotated, rotation, unit, unrelated

D = 16
CONFIG = FitConfig(steps=200)


def test_ridge_weights_minimise_the_squares_and_their_own_size() -> None:
    """Oracle: the gradient of the sum is zero there."""
    pairs = bent(60, D)
    weights = torch.tensor(ridge_map(pairs, ridge=0.3), requires_grad=True)
    stale = torch.from_numpy(pairs.stale).double()
    inputs = torch.cat([stale, torch.ones(60, 1)], dim=1)
    rest = inputs @ weights - (torch.from_numpy(pairs.fresh) - stale)
    loss = rest.square().sum() + 0.3 * 60 / D * weights.square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert float(gradient.abs().max()) < 1e-10


def test_a_strong_ridge_leaves_the_identity() -> None:
    assert np.abs(ridge_map(bent(60, D), ridge=1e9)).max() < 1e-8
    with pytest.raises(ValueError, match="ridge is 0"):
        ridge_map(bent(60, D), ridge=0)


def test_a_rotation_is_found_from_pairs_and_only_turns() -> None:
    weights = rotation_map(rotated(4 * D, D))
    np.testing.assert_allclose(weights[:-1] + np.eye(D), rotation(D), atol=1e-6)
    np.testing.assert_array_equal(weights[-1], 0)
    turned = rotation_map(bent(4 * D, D))[:-1] + np.eye(D)
    np.testing.assert_allclose(turned @ turned.T, np.eye(D), atol=1e-12)


def test_a_rotation_is_mended_wholly_from_four_pairs_per_dimension() -> None:
    """Invariant 7 a."""
    fitted = fit_corrector(rotated(4 * D, D), rotated(50, D, seed=1), CONFIG)
    unseen = rotated(500, D, seed=2)
    assert squared_distances(fitted.corrector.corrected(unseen.stale), unseen.fresh).mean() < 1e-6
    assert unseen.identity_errors().mean() > 1
    assert fitted.alert is None


def test_a_smooth_bend_is_mended_better_by_the_whole_map_than_by_its_affine_branch() -> None:
    """Invariant 7 b."""
    pairs, probe, unseen = bent(5_000, D), bent(500, D, seed=1), bent(1_000, D, seed=2)
    full = fit_corrector(pairs, probe, FitConfig(steps=500))
    affine = fit_corrector(pairs, probe, FitConfig(steps=0))
    assert (full.kind, affine.kind) == ("full", "affine")
    left = [
        squared_distances(fitted.corrector.corrected(unseen.stale), unseen.fresh).mean()
        for fitted in (full, affine)
    ]
    assert left[0] < 0.7 * left[1] < 0.7 * unseen.identity_errors().mean()


def test_noise_that_no_map_can_follow_leaves_the_identity_and_says_so() -> None:
    """Invariant 7 c, and the fallback."""
    probe, unseen = unrelated(200, D, seed=1), unrelated(500, D, seed=2)
    stale = directions(400, D)
    noisy = Pairs(stale, unit(stale + 0.5 * np.random.default_rng(5).normal(size=stale.shape)))
    held = directions(200, D, seed=3)
    noisy_probe = Pairs(held, unit(held + 0.5 * np.random.default_rng(6).normal(size=held.shape)))
    fitted = fit_corrector(noisy, noisy_probe, FitConfig(steps=200, helps_below=0.5))
    assert fitted.kind == "identity"
    assert fitted.report.error == pytest.approx(fitted.report.staleness, abs=1e-6)
    assert fitted.alert is not None
    assert "on 200 probe images" in fitted.alert
    np.testing.assert_allclose(fitted.corrector.corrected(unseen.stale), unseen.stale, atol=1e-6)
    for limit in (0.5, 0.9, 1.0):
        any_fit = fit_corrector(unrelated(400, D), probe, replace(CONFIG, helps_below=limit))
        assert any_fit.report.error <= probe.identity_errors().mean() + 1e-6


def test_pairs_of_unrelated_images_give_the_identity_though_their_mean_could_be_learned() -> None:
    """Fresh embeddings of other images, all of them on one side of the sphere."""
    known = Pairs(directions(400, D), unit(directions(400, D, seed=1) + 2 * np.eye(D)[0]))
    fitted = fit_corrector(known.picked(np.arange(100, 400)), known.picked(np.arange(100)), CONFIG)
    assert fitted.kind == "identity"
    assert fitted.alert is not None
    assert "that one vector for all images would leave" in fitted.alert


def test_the_probe_decides_how_long_to_train_and_how_strong_the_ridge_is() -> None:
    """Few noisy pairs: the weakest ridge and the longest training fit them best and serve worst."""
    skew = rotation(D) - rotation(D).T  # small parts of it turn a little
    stale, held, other = (directions(count, D, seed=seed) for seed, count in enumerate((40, 200, 500)))
    noise = 0.2 * np.random.default_rng(5).normal(size=stale.shape)
    pairs = Pairs(stale, unit(stale + 0.3 * stale @ skew + noise))
    probe, unseen = (Pairs(some, unit(some + 0.3 * some @ skew)) for some in (held, other))
    config = FitConfig(steps=200, learning_rate=1e-2)
    chosen, affine = (fit_corrector(pairs, probe, some) for some in (config, replace(config, steps=0)))
    assert chosen.steps < 200
    assert chosen.report.error <= affine.report.error
    assert chosen.ridge > min(CONFIG.ridges)
    weakest = Corrector(D)
    weakest.set_affine(ridge_map(pairs, ridge=min(CONFIG.ridges)))
    errors = [
        squared_distances(corrector.corrected(unseen.stale), unseen.fresh).mean()
        for corrector in (chosen.corrector, weakest)
    ]
    assert errors[0] < 0.95 * errors[1]


def test_the_probe_is_not_learned_from() -> None:
    pairs, probe = bent(300, D), bent(80, D, seed=1)
    fitted = fit_corrector(pairs, probe, FitConfig(steps=100, ridges=(0.1,), check_every=100))
    fewer = fit_corrector(
        pairs, probe.picked(np.arange(60)), FitConfig(steps=100, ridges=(0.1,), check_every=100)
    )
    stale = directions(20, D, seed=9)
    np.testing.assert_array_equal(fitted.corrector.corrected(stale), fewer.corrector.corrected(stale))


def test_one_seed_gives_one_map() -> None:
    pairs, probe = bent(600, D), bent(80, D, seed=1)
    first, again, other = (fit_corrector(pairs, probe, CONFIG, seed=seed).corrector for seed in (0, 0, 1))
    stale = directions(20, D, seed=9)
    np.testing.assert_array_equal(first.corrected(stale), again.corrected(stale))
    assert not np.array_equal(first.corrected(stale), other.corrected(stale))


@pytest.mark.parametrize("steps", [0, 100])
def test_errors_out_of_fold_are_those_of_unseen_pairs(steps: int) -> None:
    config = FitConfig(steps=steps, check_every=50)
    pairs, probe, unseen = bent(120, D), bent(80, D, seed=1), bent(2_000, D, seed=2)
    fitted = fit_corrector(pairs, probe, config)
    truly = squared_distances(fitted.corrector.corrected(unseen.stale), unseen.fresh).mean()
    seen = squared_distances(fitted.corrector.corrected(pairs.stale), pairs.fresh).mean()
    found = out_of_fold_errors(pairs, fitted, config, folds=6).mean()
    assert found == pytest.approx(truly, rel=0.25)
    assert seen < 0.85 * truly
    assert found > seen


def test_errors_out_of_fold_of_an_affine_map_are_those_of_fits_without_the_fold() -> None:
    """Oracle: with as many folds as pairs, each left out alone."""
    config, pairs = FitConfig(steps=0), rotated(12, 4)
    fitted = fit_corrector(pairs, rotated(20, 4, seed=1), config)
    found = out_of_fold_errors(pairs, fitted, config, folds=12)
    for left_out in range(12):
        seen = pairs.picked(np.delete(np.arange(12), left_out))
        own = pairs.picked(np.array([left_out]))
        alone = Corrector(4)
        alone.set_affine(ridge_map(seen, ridge=fitted.ridge))
        expected = squared_distances(alone.corrected(own.stale), own.fresh)
        np.testing.assert_allclose(found[left_out], expected[0], rtol=1e-4, atol=1e-9)


def test_pairs_that_are_not_of_unit_length_are_refused() -> None:
    stale = directions(3, 4)
    with pytest.raises(ValueError, match="fresh is float32 with norms 2 to 2, expected float32 of norm 1"):
        Pairs(stale, 2 * stale)
    with pytest.raises(ValueError, match=r"\(3, 4\) and fresh \(2, 4\)"):
        Pairs(stale, stale[:2])
    with pytest.raises(ValueError, match="pairs are 16-d, the probe 8-d"):
        fit_corrector(bent(20, 16), bent(20, 8), CONFIG)


def test_a_refit_learns_from_the_probe_too_and_keeps_what_the_probe_had_said() -> None:
    pairs, probe = bent(200, D, seed=1), bent(200, D, seed=2)
    everything = Pairs(np.concatenate([pairs.stale, probe.stale]), np.concatenate([pairs.fresh, probe.fresh]))
    unseen = bent(2_000, D, seed=3)
    fitted = fit_corrector(pairs, probe, CONFIG)
    again = refitted(fitted, everything, CONFIG)
    errors = [
        squared_distances(one.corrector.corrected(unseen.stale), unseen.fresh).mean()
        for one in (fitted, again)
    ]
    assert errors[1] < 0.97 * errors[0]
    assert (again.report, again.kind, again.ridge, again.steps) == (
        fitted.report, fitted.kind, fitted.ridge, fitted.steps,
    )  # fmt: skip
    given_up = fit_corrector(unrelated(200, D), unrelated(200, D, seed=5), CONFIG)
    assert refitted(given_up, everything, CONFIG) is given_up
