"""Losses against stored codes: invariant 3 and the size of 12 in the method file."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ml.losses.fixed_codes import (
    StoredPairs,
    alignment_loss,
    direct_pair_loss,
    mean_output_loss,
    own_code_loss,
    pair_likelihood_loss,
)
from ml.methods.lifelong.labels import Centring, similarity
from ml.methods.lifelong.statistics import CodeStatistics, Signs, label_totals
from ml.methods.lifelong.targets import stored_pairs
from tests.ml.lifelong.worlds import REGISTRY, SETS, Shard, shard

BITS, SAMPLES = 16, 40


def clean() -> Shard:
    """Codes that are alike within a label set."""
    stored = shard(500)
    words = CodeStatistics.of(*stored).codewords()
    return Shard(stored.sets, np.stack([words[labels] for labels in stored.sets]))


def sampled(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Outputs in (-1, 1) that ask for a gradient, and the rows of SETS that they carry."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.tanh(2 * torch.randn(SAMPLES, BITS, generator=generator, dtype=torch.float64))
    rows = torch.randint(len(SETS), (SAMPLES,), generator=generator)
    return outputs.to(dtype).requires_grad_(), rows


def from_statistics(stored: Shard, centring: Centring, dtype: torch.dtype) -> StoredPairs:
    return stored_pairs(
        label_totals(CodeStatistics.of(*stored), REGISTRY), REGISTRY, SETS, centring, dtype=dtype
    )


def target(stored: Shard, rows: Tensor, centring: Centring) -> Tensor:
    """T (B, n) of every single pair."""
    left = REGISTRY.rows([SETS[row] for row in rows.tolist()])
    return torch.from_numpy(centring(similarity(left, REGISTRY.rows(stored.sets))))


def loss_and_gradient(loss: Tensor, outputs: Tensor) -> tuple[float, np.ndarray]:
    (gradient,) = torch.autograd.grad(loss, outputs)
    return float(loss.detach()), gradient.double().numpy()


@pytest.mark.parametrize("is_centred", [True, False], ids=["centred", "plain"])
@pytest.mark.parametrize("stored", [shard(500), clean()], ids=["noisy", "clean"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=["64", "32"])
def test_loss_and_gradient_from_statistics_are_those_of_every_single_pair(
    dtype: torch.dtype, rtol: float, stored: Shard, is_centred: bool
) -> None:
    """Invariant 3: several labels an item, of unequal weight; in float64 to 9 digits, in float32 to 5."""
    rows = REGISTRY.rows(stored.sets)
    centring = Centring.of(rows.sum(axis=0), len(rows)) if is_centred else Centring()
    outputs, carried = sampled(dtype)
    found = loss_and_gradient(from_statistics(stored, centring, dtype).loss(outputs, carried), outputs)
    exact = outputs.detach().double().requires_grad_()
    codes = torch.from_numpy(stored.codes).double()
    direct = loss_and_gradient(direct_pair_loss(exact, codes, target(stored, carried, centring)), exact)
    assert found[0] == pytest.approx(direct[0], rel=rtol)
    np.testing.assert_allclose(found[1], direct[1], rtol=rtol, atol=rtol * np.abs(direct[1]).max())


def test_the_loss_of_codes_that_meet_their_targets_is_zero_and_of_any_other_above() -> None:
    codes = np.array([[1, 1, 1, 1], [1, -1, 1, -1]], np.int8)
    stored = Shard([SETS[0], SETS[1]], codes)  # a bag and a shoe: nothing in common, and orthogonal codes
    pairs = from_statistics(stored, Centring(), torch.float64)
    outputs = torch.from_numpy(codes).double()
    assert float(pairs.loss(outputs, torch.tensor([0, 1]))) == pytest.approx(0, abs=1e-15)
    assert float(pairs.loss(outputs, torch.tensor([1, 0]))) == 1.0  # each pair is off by 1


def test_nothing_that_the_loss_holds_grows_with_the_number_of_stored_codes() -> None:
    """Invariant 12: the arrays' sizes are the cost of a step, in memory and in time."""

    def sizes(count: int) -> list[torch.Size]:
        pairs = from_statistics(shard(count), Centring(), torch.float32)
        return [pairs.targets.shape, pairs.squares.shape, pairs.gram.shape]

    assert sizes(100) == sizes(50_000) == [(len(SETS), BITS), (len(SETS),), (BITS, BITS)]


def test_there_is_no_loss_against_no_codes() -> None:
    with pytest.raises(ValueError, match="no stored codes"):
        stored_pairs(label_totals(CodeStatistics(BITS), REGISTRY), REGISTRY, SETS, Centring())


def test_the_likelihood_over_distinct_codes_is_that_over_all_items() -> None:
    stored = clean()
    words: dict[tuple[int, ...], Signs] = CodeStatistics.of(*stored).codewords()
    sets = sorted(words)
    outputs, carried = sampled(torch.float64)
    left = REGISTRY.rows([SETS[row] for row in carried.tolist()])
    found = loss_and_gradient(
        pair_likelihood_loss(
            outputs,
            torch.from_numpy(np.stack([words[labels] for labels in sets])).double(),
            torch.tensor([stored.sets.count(labels) / len(stored.sets) for labels in sets]).double(),
            torch.from_numpy(similarity(left, REGISTRY.rows(sets))),
        ),
        outputs,
    )
    theta = outputs @ torch.from_numpy(stored.codes).double().T / 2
    similar = torch.from_numpy(similarity(left, REGISTRY.rows(stored.sets)))
    direct = loss_and_gradient((torch.log1p(torch.exp(theta)) - similar * theta).mean(), outputs)
    assert found[0] == pytest.approx(direct[0], rel=1e-6)  # shares are float32 before they are widened
    np.testing.assert_allclose(found[1], direct[1], rtol=1e-5, atol=1e-9)


def test_the_balance_term_is_bounded_and_zero_when_every_bit_splits_the_batch() -> None:
    """The released code sums outputs, which drives every bit to -1 (method file, section 5.1)."""
    split = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert float(mean_output_loss(split)) == 0
    assert float(mean_output_loss(-torch.ones(4, 2))) == float(mean_output_loss(torch.ones(4, 2))) == 1
    assert float(mean_output_loss(torch.tensor([[0.5, 0.0], [0.5, 0.0]]))) == 0.125


def test_own_codes_and_partners_pull_by_the_mean_square_over_samples_and_bits() -> None:
    left, right = torch.tensor([[1.0, 0.0], [0.0, -1.0]]), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    assert float(own_code_loss(left, right)) == float(alignment_loss(left, right)) == 0.5
    assert float(alignment_loss(left[:0], right[:0])) == 0


def test_a_sample_without_a_code_of_its_own_is_not_pulled_anywhere() -> None:
    outputs = torch.tensor([[0.5, -0.5], [0.5, -0.5]], requires_grad=True)
    own_code_loss(outputs, torch.tensor([[1.0, 1.0], [0.0, 0.0]])).backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    assert outputs.grad.tolist() == [[-0.25, -0.75], [0.0, 0.0]]
