"""Involution (Li et al., CVPR 2021) as shifted multiply-adds: no im2col, cheap to train and export."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name everyone knows)


class Involution(nn.Module):
    """One kernel per output pixel and group, generated from the pixel itself. Channel count is preserved.

    channels C, kernel_size K (odd), stride s, groups G (divides C), reduction r: hidden channels max(1, C //
    r). Kernel generation: AvgPool_s -> 1x1 -> BatchNorm -> GELU -> 1x1 to K*K*G, ordered group first, then
    K*K. No softmax on the kernel; zero padding. (B, C, H, W) -> (B, C, ceil(H / s), ceil(W / s)) for H, W
    divisible by s.
    """

    def __init__(
        self, channels: int, *, kernel_size: int, stride: int = 1, groups: int = 1, reduction: int = 1
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}, it must be odd and at least 1")
        if groups < 1 or channels % groups:
            raise ValueError(f"{groups} groups do not divide {channels} channels")
        if stride < 1 or reduction < 1:
            raise ValueError(f"stride {stride} and reduction {reduction} must be at least 1")
        self.kernel_size, self.stride, self.groups = kernel_size, stride, groups
        hidden = max(1, channels // reduction)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.norm = nn.BatchNorm2d(hidden)
        self.activation = nn.GELU()
        self.span = nn.Conv2d(hidden, kernel_size * kernel_size * groups, 1)

    def kernels(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, G * K * K, H / s, W / s)."""
        pooled = images if self.stride == 1 else F.avg_pool2d(images, self.stride)
        spanned: Tensor = self.span(self.activation(self.norm(self.reduce(pooled))))
        return spanned

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / s, W / s). H and W must be multiples of the stride."""
        kernels = self.kernels(images)
        size, stride, groups = self.kernel_size, self.stride, self.groups
        per_group = images.shape[1] // groups
        height, width = kernels.shape[2], kernels.shape[3]
        padded = F.pad(images, [size // 2] * 4)
        group_outputs = []
        for group in range(groups):
            channels = padded[:, group * per_group : (group + 1) * per_group]
            total: Tensor | None = None
            for position in range(size * size):
                row, column = divmod(position, size)
                shifted = channels[
                    :,
                    :,
                    row : row + stride * (height - 1) + 1 : stride,
                    column : column + stride * (width - 1) + 1 : stride,
                ]
                index = group * size * size + position
                product = shifted * kernels[:, index : index + 1]
                total = product if total is None else total + product
            assert total is not None
            group_outputs.append(total)
        return group_outputs[0] if groups == 1 else torch.cat(group_outputs, dim=1)
