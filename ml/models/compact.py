"""The compact trunk (arXiv 2404.06593): one involution on the picture, then four convolutions, then pooling.

Deviations: the paper's widths, kernel size and pooling are unknown; the product's default takes strides
instead of max-pooling (a quarter of the multiply-adds), because its input is 64-96 pixels instead of 32. The
controls of the paper's argument (no involution, several, another place, ReLU) are configurations.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ml.models.config import CompactConfig
from ml.models.involution import Involution

STAGE_INVOLUTION_KERNEL = 3
STAGE_GROUP_CHANNELS = 16
STAGE_REDUCTION = 4


class CompactTrunk(nn.Module):
    """(B, C, S, S) normalised pixels -> (B, F) pooled feature, F = widths[-1]."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.feature_size = config.widths[-1]
        self.pooling = config.pooling
        at_input = config.front_position == "input"
        self.stages_before_front = 0 if at_input else 1
        self.front_shortcut = config.front_shortcut
        self.front_names = list(_front_names(config.front))
        for name, kind in zip(self.front_names, config.front, strict=True):
            self.add_module(
                name, _front_layer(kind, config.channels if at_input else config.widths[0], config)
            )
        self.activation = activation(config.activation)
        widths = (config.channels, *config.widths)
        self.stages = nn.Sequential(
            *(
                _stage(before, width, stride, config)
                for before, width, stride in zip(widths, config.widths, config.strides)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, F)."""
        maps = images
        for index, stage in enumerate(self.stages):
            if index == self.stages_before_front:
                maps = self._front(maps)
            maps = stage(maps)
        return pooled(maps, self.pooling)

    def _front(self, maps: Tensor) -> Tensor:
        for name in self.front_names:
            made = self.activation(self.get_submodule(name)(maps))
            maps = maps + made if self.front_shortcut else made
        return maps


def activation(name: str) -> nn.Module:
    """A fresh activation module: exact GELU (erf) or ReLU."""
    return nn.GELU() if name == "gelu" else nn.ReLU()


def pooled(maps: Tensor, pooling: str) -> Tensor:
    """(B, F, h, w) -> (B, F): mean, or generalised mean with exponent 3."""
    if pooling == "mean":
        return torch.mean(maps, dim=(2, 3))
    # GELU is slightly negative at places; the generalised mean needs positive input. Cubes need float32.
    return maps.float().clamp(min=1e-4).pow(3).mean(dim=(2, 3)).pow(1 / 3)


def _front_names(front: tuple[str, ...]) -> Iterator[str]:
    """involution, involution_2, convolution, ...: the first of a kind has its plain name."""
    for position, kind in enumerate(front):
        number = front[: position + 1].count(kind)
        yield kind if number == 1 else f"{kind}_{number}"


def _front_layer(kind: str, channels: int, config: CompactConfig) -> nn.Module:
    if kind == "convolution":
        return nn.Conv2d(channels, channels, 3, padding=1)
    return Involution(
        channels,
        kernel_size=config.involution_kernel,
        stride=config.involution_stride,
        groups=config.involution_groups,
        reduction=config.involution_reduction,
        activation=activation(config.activation),
    )


def _stage(before: int, width: int, stride: int, config: CompactConfig) -> nn.Sequential:
    pools = config.downsampling == "pool" and stride == 2
    step = 1 if pools else stride
    if config.stage == "convolution":
        mixing: list[nn.Module] = [nn.Conv2d(before, width, 3, stride=step, padding=1, bias=False)]
    else:
        mixing = [
            nn.Conv2d(before, width, 1, bias=False),
            Involution(
                width,
                kernel_size=STAGE_INVOLUTION_KERNEL,
                stride=step,
                groups=max(1, width // STAGE_GROUP_CHANNELS),
                reduction=STAGE_REDUCTION,
                activation=activation(config.activation),
            ),
        ]
    after: list[nn.Module] = [nn.BatchNorm2d(width), activation(config.activation)]
    return nn.Sequential(*mixing, *after, *([nn.MaxPool2d(2)] if pools else []))
