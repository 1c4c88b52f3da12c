"""How far a view may be off, and the bounds that follow from it."""

import numpy as np
import pytest
import torch

from ml.methods.corrector.agreement import agreement, divergence_bound, is_top_safe, total_variation_bound
from tests.ml.corrector.worlds import directions, unit

BETA = 20.0


def vectors(count: int, *, seed: int) -> torch.Tensor:
    return torch.from_numpy(directions(count, 8, seed=seed))


def nearby(fresh: torch.Tensor, noise: float, *, seed: int) -> torch.Tensor:
    moved = fresh.numpy() + noise * np.random.default_rng(seed).normal(size=fresh.shape)
    return torch.from_numpy(unit(moved))


def test_overlap_variation_and_divergence_are_what_a_loop_over_queries_gives() -> None:
    queries, fresh = vectors(40, seed=1), vectors(30, seed=2)
    view, labels, own = nearby(fresh, 0.1, seed=3), torch.arange(30) % 5, torch.arange(40) % 6 - 1
    found = agreement(queries, own, view, fresh, labels, count=4, inverse_temperature=BETA)
    for row in range(40):
        query = queries[row].double().numpy()
        allowed = [i for i in range(30) if own[row] < 0 or labels[i] != own[row]]
        logits = [BETA * (part.double().numpy() @ query) for part in (fresh, view)]
        first = [set(sorted(allowed, key=lambda i, s=scores: -s[i])[:4]) for scores in logits]  # type: ignore[misc]
        assert found.overlap[row] == len(first[0] & first[1]) / 4
        p, q = (np.exp(scores) / np.exp(scores).sum() for scores in logits)
        assert found.total_variation[row] == pytest.approx(np.abs(p - q).sum() / 2)
        assert found.divergence[row] == pytest.approx((p * np.log(p / q)).sum())
    furthest = max(
        float(np.linalg.norm(a - b)) for a, b in zip(view.double().numpy(), fresh.double().numpy())
    )
    assert found.logit_error == pytest.approx(BETA * furthest)


def test_a_fresh_view_agrees_wholly() -> None:
    queries, fresh, labels = vectors(10, seed=1), vectors(30, seed=2), torch.arange(30)
    found = agreement(queries, -torch.ones(10), fresh, fresh, labels, count=4, inverse_temperature=BETA)
    assert found.overlap.tolist() == [1.0] * 10
    assert found.logit_error == 0
    np.testing.assert_allclose([*found.total_variation, *found.divergence], 0, atol=1e-12)


def test_a_query_whose_every_target_is_a_match_has_no_overlap() -> None:
    fresh = vectors(3, seed=2)
    found = agreement(
        fresh, torch.tensor([0, 0, 1]), fresh, fresh, torch.zeros(3), count=2, inverse_temperature=BETA
    )
    np.testing.assert_array_equal(found.overlap, [np.nan, np.nan, 1.0])


@pytest.mark.parametrize("noise", [0.0001, 0.003, 0.02, 0.1, 1.0])
def test_the_softmax_moves_no_further_than_its_bounds(noise: float) -> None:
    """Invariant 8."""
    fresh, queries = vectors(50, seed=2), vectors(200, seed=3)
    for seed in range(5):
        view = nearby(fresh, noise, seed=seed)
        found = agreement(
            queries, -torch.ones(200), view, fresh, torch.zeros(50), count=1, inverse_temperature=BETA
        )
        assert found.total_variation.max() <= total_variation_bound(found.logit_error) + 1e-12
        assert found.divergence.max() <= divergence_bound(found.logit_error) + 1e-12


def test_the_bound_on_variation_is_reached() -> None:
    """Two targets, the weaker one pushed up by eps, the stronger one down: nothing smaller would hold."""
    eps = 0.7
    before, after = (np.exp([sign * eps / 2, -sign * eps / 2]) for sign in (-1, 1))
    p, q = before / before.sum(), after / after.sum()
    assert np.abs(p - q).sum() / 2 == pytest.approx(total_variation_bound(eps))
    assert (p * np.log(p / q)).sum() <= divergence_bound(eps)


def test_a_gap_above_twice_the_error_keeps_the_selection() -> None:
    """Invariant 8, top-k safety: whenever it is promised, it holds, for every count at which it is."""
    fresh, queries, promised = vectors(30, seed=2), vectors(100, seed=3), 0
    view = nearby(fresh, 0.002, seed=4)
    for count in (1, 2, 3, 10):
        found = agreement(
            queries, -torch.ones(100), view, fresh, torch.zeros(30), count=count, inverse_temperature=BETA
        )
        logits = BETA * queries.double().numpy() @ fresh.double().numpy().T
        safe = np.array([is_top_safe(row, count, found.logit_error) for row in logits])
        promised += int(safe.sum())
        assert (found.overlap[safe] == 1).all()
    assert promised > 100
    assert is_top_safe(np.array([3.0, 1.0, 0.5]), 1, 0.99)
    assert not is_top_safe(np.array([3.0, 1.0, 0.5]), 1, 1.0)
