"""The server-size trunk: residual blocks (He et al., CVPR 2016), the same heads on top as the compact one."""

from torch import Tensor, nn

from ml.models.compact import activation, pooled
from ml.models.config import ResidualConfig


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut: (B, C, H, W) -> (B, W', H / s, W / s)."""

    def __init__(self, before: int, width: int, *, stride: int, act: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            activation(act),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )
        self.activation = activation(act)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, W', H / s, W / s)."""
        added: Tensor = self.activation(self.body(maps) + self.shortcut(maps))
        return added


class ResidualTrunk(nn.Module):
    """(B, C, S, S) normalised pixels -> (B, F) pooled feature, F = widths[-1]. Each stage halves the map."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.feature_size = config.widths[-1]
        self.pooling = config.pooling
        self.stem = nn.Sequential(
            nn.Conv2d(config.channels, config.stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(config.stem),
            activation(config.activation),
        )
        blocks: list[nn.Module] = []
        before = config.stem
        for width, count in zip(config.widths, config.blocks, strict=True):
            for position in range(count):
                blocks.append(
                    ResidualBlock(before, width, stride=2 if position == 0 else 1, act=config.activation)
                )
                before = width
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, F)."""
        return pooled(self.blocks(self.stem(images)), self.pooling)
