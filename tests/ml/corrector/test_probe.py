"""What a map is worth, when it is given up, what no map mends, and whom it serves worst."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ml.methods.corrector.pairs import Pairs
from ml.methods.corrector.predicted_error import (
    ErrorHead,
    backfill_order,
    error_likelihood_loss,
    fit_error_head,
)
from ml.methods.corrector.probe import ProbeReport, Watch, floor_estimate, probed
from ml.models.corrector import Corrector
from tests.ml.corrector.worlds import directions, rotation, unit


def report(ratio: float, staleness: float = 1.0) -> ProbeReport:
    return ProbeReport(staleness, ratio * staleness, 0.9, 0.8, 100)


def test_a_report_holds_errors_and_cosines_as_counted_by_hand() -> None:
    stale = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    fresh = np.array([[1, 0], [0, 1], [0, -1]], np.float32)
    found = probed(np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32), Pairs(stale, fresh))
    assert found.staleness == pytest.approx((0 + 2 + 4) / 3)
    assert found.error == pytest.approx((0 + 0.4 + 4) / 3)
    assert found.ratio == pytest.approx(4.4 / 6)
    assert found.cosine_median == pytest.approx(0.8)
    assert found.cosine_low == pytest.approx(-1 + 0.1 * 1.8)
    assert found.items == 3


def test_a_map_is_given_up_after_three_reports_in_a_row_without_help_and_for_good() -> None:
    watch = Watch(below=0.9, checks=3)
    trusted = [watch.look(report(ratio)) for ratio in (0.95, 0.95, 0.5, 0.95, 0.91)]
    assert trusted == [True] * 5
    assert watch.alert is None
    assert watch.look(report(1.2)) is False
    assert watch.alert is not None
    assert "1.2 of a squared distance of 1 to fresh" in watch.alert
    assert watch.look(report(0.1)) is False


def test_a_map_that_keeps_an_encoder_that_has_not_moved_is_not_given_up() -> None:
    watch = Watch(below=0.9, checks=1)
    assert watch.look(report(2.0, staleness=1e-13))
    assert not watch.look(ProbeReport(1e-13, 0.01, 1.0, 1.0, 100))


def test_a_planted_sudden_drift_is_seen_by_the_watch() -> None:
    """A map that was right until the encoder was replaced."""
    stale = directions(200, 64)
    corrector = Corrector(64)
    corrector.set_affine(np.vstack([rotation(64) - np.eye(64), np.zeros(64)]))
    before = Pairs(stale, unit(stale @ rotation(64)))
    after = Pairs(stale, unit(stale @ rotation(64, seed=1)))
    watch = Watch(below=0.9, checks=3)
    corrected = corrector.corrected(stale)
    assert all(watch.look(probed(corrected, before)) for _ in range(5))
    assert [watch.look(probed(corrected, after)) for _ in range(3)] == [True, True, False]


def test_what_one_vector_for_all_leaves_is_counted_from_how_alike_fresh_ones_are() -> None:
    fresh = np.array([[1, 0], [0.6, 0.8], [0.6, 0.8]], np.float32)
    found = probed(fresh, Pairs(fresh, fresh))
    assert found.constant == pytest.approx(2 - 2 * np.sqrt((0.6 + 0.6 + 1) / 3))  # the mean cosine of two
    assert probed(fresh[:1], Pairs(fresh[:1], fresh[:1])).constant == float("inf")  # of one nothing is known
    opposite = np.array([[1, 0], [-1, 0]], np.float32)
    assert probed(opposite, Pairs(opposite, opposite)).constant == 2
    crowded = unit(directions(4_000, 8) + 2 * np.eye(8)[0])
    left = np.square(crowded - unit(crowded.mean(axis=0, keepdims=True))).sum(axis=1).mean()
    few = [probed(part, Pairs(part, part)).constant for part in np.split(crowded, 400)]
    assert np.mean(few) == pytest.approx(left, rel=0.02)  # ten at a time tell as much as all


def test_a_map_that_makes_all_images_alike_is_given_up_though_stale_embeddings_are_further_off() -> None:
    fresh = unit(directions(300, 8) + 2 * np.eye(8)[0])
    mean = unit(fresh.mean(axis=0, keepdims=True)).repeat(300, axis=0)
    found = probed(mean, Pairs(-fresh, fresh))
    assert found.ratio < 0.2
    assert not found.helps(0.9)
    watch = Watch(below=0.9, checks=1)
    assert not watch.look(found)
    assert watch.alert is not None
    assert f"or of the {found.constant:.4g} that one vector for all images would leave" in watch.alert
    halfway = unit(mean + fresh)
    assert probed(halfway, Pairs(-fresh, fresh)).helps(0.9)


def test_equal_stale_embeddings_of_different_fresh_ones_are_the_floor() -> None:
    stale = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    fresh = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
    # Var[g | g'] of the first two is half of their squared distance 2, of the others 0.
    assert floor_estimate(Pairs(stale, fresh)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="1 pair has no neighbour"):
        floor_estimate(Pairs(stale[:1], fresh[:1]))


def test_the_floor_is_the_noise_that_was_planted_and_not_the_drift() -> None:
    rng, stale = np.random.default_rng(5), directions(3_000, 3)
    turned, sigma = stale @ rotation(3), 0.1
    fresh = unit(turned + sigma * rng.normal(size=stale.shape))
    again = unit(turned + sigma * rng.normal(size=stale.shape))
    planted = 0.5 * np.square(fresh - again).sum(axis=1).mean()  # E Var[g | g'], from second draws
    corrector = Corrector(3)
    corrector.set_affine(np.vstack([rotation(3) - np.eye(3), np.zeros(3)]))
    assert floor_estimate(Pairs(stale, fresh), corrector) == pytest.approx(planted, rel=0.1)
    assert floor_estimate(Pairs(stale, unit(turned)), corrector) < 1e-6
    best_map_leaves = np.square(corrector.corrected(stale) - fresh).sum(axis=1).mean()
    assert best_map_leaves >= 0.9 * planted


def uneven_errors(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors that are ten times as large on one half of the sphere."""
    stale = directions(count, 16, seed=seed)
    draws = np.random.default_rng(seed + 1).chisquare(16, count) / 16
    return stale, np.where(stale[:, 0] > 0, 0.5, 0.05) * draws


def test_what_is_served_worst_is_predicted_from_the_stale_embedding() -> None:
    head = fit_error_head(*uneven_errors(400, seed=0))
    stale, errors = uneven_errors(4_000, seed=50)
    predicted = head.predicted(stale)
    assert spearmanr(predicted, errors).statistic > 0.5
    first = backfill_order(predicted, np.arange(4_000))[:400]
    assert errors[first].mean() > 1.6 * errors.mean()
    assert predicted.mean() == pytest.approx(errors.mean(), rel=0.2)


def test_errors_that_nothing_tells_apart_are_predicted_alike() -> None:
    stale = directions(200, 16)
    predicted = fit_error_head(stale, np.full(200, 0.3)).predicted(stale)
    np.testing.assert_allclose(predicted, 0.3, rtol=0.05)
    np.testing.assert_allclose(ErrorHead(16, level=0.2).predicted(stale), 0.2, rtol=1e-5)


def test_the_likelihood_is_least_at_the_logarithm_of_the_mean_squared_error() -> None:
    errors = torch.tensor([0.1, 0.4, 0.7], requires_grad=True)  # mean 0.4
    level = torch.tensor(0.4).log().requires_grad_()
    loss = error_likelihood_loss(level.expand(3), errors)
    assert loss.item() == pytest.approx(0.5 * (1 + np.log(0.4)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert level.grad is not None
    assert float(level.grad) == pytest.approx(0, abs=1e-6)
    assert errors.grad is None


def test_backfill_goes_by_predicted_error_and_of_equals_by_id() -> None:
    order = backfill_order(np.array([0.1, 0.5, 0.5, 0.9]), np.array([7, 9, 3, 5]))
    assert order.tolist() == [5, 3, 9, 7]
    with pytest.raises(ValueError, match="3 predicted errors for 4 ids"):
        backfill_order(np.zeros(3), np.arange(4))


def test_too_few_errors_to_fit_to_are_refused() -> None:
    with pytest.raises(ValueError, match="7 embeddings and 7 errors"):
        fit_error_head(directions(7, 4), np.ones(7))
