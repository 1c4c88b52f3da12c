"""The map itself: what it computes, and that it begins as no map at all."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ml.models.corrector import Corrector
from tests.ml.corrector.worlds import directions


def moved(dimension: int, *, hidden: int = 5, has_residual: bool = True) -> Corrector:
    """Every weight drawn."""
    corrector, generator = Corrector(dimension, hidden=hidden), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, values in corrector.named_parameters():
            if has_residual or name != "outer":
                values.copy_(0.3 * torch.randn(values.shape, generator=generator))
    return corrector


def test_as_it_is_made_it_changes_nothing() -> None:
    """Invariant 1."""
    stale = directions(50, 16)
    corrector = Corrector(16)
    np.testing.assert_allclose(corrector.corrected(stale), stale, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(corrector(torch.from_numpy(stale)).numpy(), stale, atol=1e-6)


@pytest.mark.parametrize("has_residual", [True, False])
def test_it_computes_the_formula_row_by_row(*, has_residual: bool) -> None:
    corrector, stale = moved(4, has_residual=has_residual), directions(5_000, 4)
    weights = {name: values.detach().double().numpy() for name, values in corrector.named_parameters()}
    found = corrector.corrected(stale)
    for row in (0, 1, 2_047, 2_048, 4_999):
        v = stale[row].astype(np.float64)
        normed = (v - v.mean()) / math.sqrt(v.var() + 1e-5)
        inner = weights["inner"] @ normed + weights["inner_offset"]
        active = np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in inner])
        expected = v + weights["affine"] @ v + weights["offset"] + weights["outer"] @ active
        np.testing.assert_allclose(found[row], expected / np.linalg.norm(expected), atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(corrector(torch.from_numpy(stale)).numpy(), found, atol=1e-6)


def test_half_precision_rows_are_corrected_in_full_and_rounded_once() -> None:
    corrector, halves = moved(16), directions(3_000, 16).astype(np.float16)
    found = corrector.corrected(halves)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, corrector.corrected(halves.astype(np.float32)).astype(np.float16))
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float64), axis=1), 1, atol=1e-3)


def test_what_it_gives_has_unit_length_whatever_it_learned() -> None:
    norms = np.linalg.norm(moved(16).corrected(directions(100, 16)), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_an_affine_map_is_taken_over_as_it_was_solved() -> None:
    corrector, stale = Corrector(4), directions(10, 4)
    weights = np.random.default_rng(0).normal(size=(5, 4))
    corrector.set_affine(weights)
    expected = stale + np.hstack([stale, np.ones((10, 1))]) @ weights
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(corrector.corrected(stale), expected, atol=1e-6)


def test_weights_saved_and_loaded_give_the_same_bytes(tmp_path: Path) -> None:
    corrector, stale = moved(8), directions(100, 8)
    save_file(corrector.state_dict(), tmp_path / "map.safetensors")
    again = Corrector(8, hidden=5, seed=1)
    again.load_state_dict(load_file(tmp_path / "map.safetensors"))
    np.testing.assert_array_equal(again.corrected(stale), corrector.corrected(stale))


def test_two_maps_of_one_seed_are_alike_whatever_else_was_drawn() -> None:
    torch.manual_seed(0)
    first = Corrector(8, seed=4)
    torch.rand(3)
    second, other = Corrector(8, seed=4), Corrector(8, seed=5)
    assert torch.equal(first.inner, second.inner)
    assert not torch.equal(first.inner, other.inner)


def test_rows_of_another_width_or_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float32 \(3, 5\), expected float16 or float32 \(N, 4\)"):
        Corrector(4).corrected(directions(3, 5))
    with pytest.raises(ValueError, match="float64"):
        Corrector(4).corrected(directions(3, 4).astype(np.float64))
    with pytest.raises(ValueError, match="dimension is 1"):
        Corrector(1)
