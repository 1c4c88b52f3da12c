"""Involution in shift form against the textbook unfold and against operators it must reduce to."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.models.involution import Involution


def unfold_involution(layer: Involution, images: Tensor) -> Tensor:
    """The textbook form (Li et al., naive version), with the same weights: the oracle."""
    size, stride, groups = layer.kernel_size, layer.stride, layer.groups
    batch, channels = images.shape[:2]
    kernels = layer.kernels(images)
    height, width = kernels.shape[2:]
    kernels = kernels.view(batch, groups, 1, size * size, height, width)
    patches = F.unfold(images, size, padding=size // 2, stride=stride)
    patches = patches.view(batch, groups, channels // groups, size * size, height, width)
    return (kernels * patches).sum(dim=3).reshape(batch, channels, height, width)


def constant_kernel(layer: Involution, kernel: Tensor) -> None:
    """Make every pixel's kernel the same: W1 = 0 and the kernel in the bias, (G * K * K,)."""
    with torch.no_grad():
        layer.span.weight.zero_()
        assert layer.span.bias is not None
        layer.span.bias.copy_(kernel)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("groups", "reduction"), [(1, 1), (2, 2), (6, 1)])
@pytest.mark.parametrize("size", [3, 7])
def test_shift_form_equals_the_unfold_form(stride: int, groups: int, reduction: int, size: int) -> None:
    torch.manual_seed(0)
    layer = Involution(6, kernel_size=size, stride=stride, groups=groups, reduction=reduction)
    images = torch.randn(2, 6, 12, 8)

    assert torch.allclose(layer.eval()(images), unfold_involution(layer, images), atol=1e-5)


def test_a_delta_kernel_is_the_identity() -> None:
    layer = Involution(3, kernel_size=5)
    constant_kernel(layer, F.one_hot(torch.tensor(12), 25).float())
    images = torch.randn(2, 3, 9, 9)

    assert torch.equal(layer(images), images)


def test_a_flat_kernel_is_a_box_filter_with_zero_padding() -> None:
    layer = Involution(3, kernel_size=3)
    constant_kernel(layer, torch.full((9,), 1 / 9))
    images = torch.randn(2, 3, 8, 8)

    assert torch.allclose(layer(images), F.avg_pool2d(images, 3, stride=1, padding=1), atol=1e-6)


def test_a_constant_kernel_is_a_depthwise_convolution_shared_within_a_group() -> None:
    torch.manual_seed(0)
    layer = Involution(4, kernel_size=3, groups=2)
    kernels = torch.randn(2, 9)
    constant_kernel(layer, kernels.flatten())
    images = torch.randn(2, 4, 8, 8)

    per_channel = kernels.repeat_interleave(2, dim=0).view(4, 1, 3, 3)
    assert torch.allclose(layer(images), F.conv2d(images, per_channel, padding=1, groups=4), atol=1e-5)


def test_shifting_the_picture_shifts_the_output_away_from_the_border() -> None:
    torch.manual_seed(0)
    layer = Involution(3, kernel_size=3).eval()
    images = torch.randn(1, 3, 16, 16)

    shifted = layer(torch.roll(images, (2, 3), dims=(2, 3)))
    expected = torch.roll(layer(images), (2, 3), dims=(2, 3))
    assert torch.allclose(shifted[:, :, 4:-2, 5:-2], expected[:, :, 4:-2, 5:-2], atol=1e-5)


def test_swapping_channels_of_one_group_swaps_its_outputs() -> None:
    torch.manual_seed(0)
    layer = Involution(4, kernel_size=3, groups=2).eval()
    images = torch.randn(1, 4, 8, 8)
    before = layer(images)
    order = torch.tensor([1, 0, 3, 2])  # inside groups only
    with torch.no_grad():
        layer.reduce.weight.copy_(layer.reduce.weight[:, order].clone())

    assert torch.allclose(layer(images[:, order]), before[:, order], atol=1e-5)


def test_the_kernel_depends_on_the_pixel() -> None:
    torch.manual_seed(0)
    kernels = Involution(3, kernel_size=3).eval().kernels(torch.randn(1, 3, 8, 8))

    assert kernels.shape == (1, 9, 8, 8)
    assert kernels.var(dim=(2, 3)).min().item() > 1e-4


@pytest.mark.parametrize(
    ("channels", "size", "reduction", "expected"),
    [(3, 3, 2, 24), (3, 7, 1, 214), (1, 3, 1, 22), (16, 7, 4, 321)],
)
def test_parameter_count_follows_the_formula(channels: int, size: int, reduction: int, expected: int) -> None:
    layer = Involution(channels, kernel_size=size, reduction=reduction)

    assert sum(parameter.numel() for parameter in layer.parameters()) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size is 4"),
        ({"kernel_size": 3, "groups": 2}, "2 groups do not divide 3 channels"),
        ({"kernel_size": 3, "stride": 0}, "stride 0"),
    ],
)
def test_an_impossible_shape_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Involution(3, **options)
