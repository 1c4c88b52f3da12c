"""What a step on selected targets minimises, and what their corrector does."""

import numpy as np
import pytest
import torch

from ml.losses.truncated_softmax import drift_loss, logit_matching_loss, truncated_softmax_loss


def test_the_truncated_softmax_is_what_a_hand_computes() -> None:
    queries = torch.tensor([[1.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], requires_grad=True)
    allowed = torch.tensor([[True, True, False]])
    loss = truncated_softmax_loss(queries, targets, torch.tensor([0]), allowed, inverse_temperature=2.0)
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-2)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert queries.grad is not None
    assert targets.grad is not None
    assert targets.grad[2].tolist() == [0.0, 0.0]  # what is not allowed is not pushed
    with pytest.raises(ValueError, match="a query's own positive is not allowed"):
        truncated_softmax_loss(queries, targets, torch.tensor([2]), allowed, inverse_temperature=2.0)
    with pytest.raises(ValueError, match="inverse_temperature is 0"):
        truncated_softmax_loss(queries, targets, torch.tensor([0]), allowed, inverse_temperature=0)


def test_the_drift_loss_pulls_the_corrected_alone() -> None:
    corrected = torch.tensor([[1.0, 0.0], [0.6, 0.8]], requires_grad=True)
    fresh = torch.tensor([[0.0, 1.0], [0.6, 0.8]], requires_grad=True)
    loss = drift_loss(corrected, fresh)
    assert loss.item() == pytest.approx(1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert corrected.grad is not None
    assert fresh.grad is None


def test_logit_matching_is_the_divergence_of_two_softmaxes_and_pulls_the_corrected_alone() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    corrected = torch.tensor([[0.0, 1.0], [0.0, 1.0]], requires_grad=True)
    fresh = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = logit_matching_loss(queries, corrected, fresh, inverse_temperature=2.0)
    near = 1 / (1 + np.exp(-2))  # the softmax of (2, 0)
    divergence = near * np.log(near / 0.5) + (1 - near) * np.log((1 - near) / 0.5)
    assert loss.item() == pytest.approx(divergence, rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert corrected.grad is not None
    assert queries.grad is None
    assert fresh.grad is None
    same = logit_matching_loss(queries, fresh, fresh, inverse_temperature=2.0)
    assert same.item() == pytest.approx(0, abs=1e-7)
    with pytest.raises(ValueError, match="inverse_temperature is 0"):
        logit_matching_loss(queries, corrected, fresh, inverse_temperature=0)
