"""The fused gradient of involution against autograd through the same sums, and against finite differences."""

import copy
from functools import partial

import pytest
import torch

from ml.models.involution import Involution, _Aggregation


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 1), (6, 2)])
@pytest.mark.parametrize("size", [3, 7])
def test_training_gives_the_gradients_of_plain_autograd(
    stride: int, channels: int, groups: int, size: int
) -> None:
    torch.manual_seed(0)
    layer = Involution(channels, kernel_size=size, stride=stride, groups=groups).train()
    twin = copy.deepcopy(layer)
    images = torch.randn(3, channels, 8, 12, requires_grad=True)
    same_images = images.detach().clone().requires_grad_()
    weights = torch.randn(3, channels, 8 // stride, 12 // stride)

    fused = layer(images)
    (fused * weights).sum().backward()
    plain = _unfolded(twin, same_images)
    (plain * weights).sum().backward()  # type: ignore[no-untyped-call]

    assert torch.allclose(fused, plain, atol=1e-5)
    assert images.grad is not None
    assert same_images.grad is not None
    assert torch.allclose(images.grad, same_images.grad, atol=1e-4)
    for got, expected in zip(layer.parameters(), twin.parameters(), strict=True):
        assert got.grad is not None
        assert expected.grad is not None
        assert torch.allclose(got.grad, expected.grad, atol=1e-3)


def test_the_fused_gradient_agrees_with_finite_differences() -> None:
    torch.manual_seed(0)
    padded = torch.randn(2, 2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(2, 2, 9, 4, 5, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(partial(_aggregated, stride=1), (padded, kernels))


def _aggregated(padded: torch.Tensor, kernels: torch.Tensor, *, stride: int) -> torch.Tensor:
    result: torch.Tensor = _Aggregation.apply(padded, kernels, stride)  # type: ignore[no-untyped-call]
    return result


def _unfolded(layer: Involution, images: torch.Tensor) -> torch.Tensor:
    """The textbook form under plain autograd."""
    batch, channels = images.shape[:2]
    size, groups = layer.kernel_size, layer.groups
    kernels = layer.kernels(images)
    height, width = kernels.shape[2:]
    patches = torch.nn.functional.unfold(images, size, padding=size // 2, stride=layer.stride)
    patches = patches.view(batch, groups, channels // groups, size * size, height, width)
    kernels = kernels.view(batch, groups, 1, size * size, height, width)
    return (kernels * patches).sum(dim=3).reshape(batch, channels, height, width)
