"""The compact trunk (arXiv 2404.06593): one involution on the picture, then four convolutions, then pooling.

Deviations: the paper's widths, kernel size and pooling are unknown; strides replace max-pooling (a quarter of
the multiply-adds), and the input is 64-96 pixels instead of 32, so the first convolutions are strided.
"""

import torch
from torch import Tensor, nn

from ml.models.config import CompactConfig
from ml.models.involution import Involution


class CompactTrunk(nn.Module):
    """(B, 3, S, S) normalised pixels -> (B, F) pooled feature, F = widths[-1]."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.feature_size = config.widths[-1]
        self.pooling = config.pooling
        self.involution = Involution(
            3,
            kernel_size=config.involution_kernel,
            stride=config.involution_stride,
            reduction=config.involution_reduction,
        )
        stages: list[nn.Module] = []
        before = 3
        for width, stride in zip(config.widths, config.strides, strict=True):
            stages.append(
                nn.Sequential(
                    nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.GELU(),
                )
            )
            before = width
        self.activation = nn.GELU()
        self.stages = nn.Sequential(*stages)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, F)."""
        maps: Tensor = self.stages(self.activation(self.involution(images)))  # (B, F, h, w)
        if self.pooling == "mean":
            return torch.mean(maps, dim=(2, 3))
        # GELU is slightly negative at places; the generalised mean needs positive input.
        return maps.clamp(min=1e-4).pow(3).mean(dim=(2, 3)).pow(1 / 3)
