"""Random changes to a batch of image tensors, all drawn from one torch.Generator."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationConfig:
    """How strongly training images are changed. The identity is min_area 1 and every other value 0."""

    min_area: float = 0.4  # smallest share of the picture that a crop keeps, (0, 1]
    aspect: float = 0.29  # |log(width / height)| of a crop, at most; >= 0
    shift: float = 0.0  # of the crop's centre, also beyond the border; share of the side, at most, [0, 1)
    rotation_degrees: float = 10.0  # at most, either way, 0 to 180
    brightness: float = 0.3  # factor in 1 +- this, [0, 1)
    contrast: float = 0.3  # factor in 1 +- this, [0, 1)
    saturation: float = 0.3  # factor in 1 +- this, [0, 1)
    erasing: float = 0.1  # share of images that lose one rectangle, [0, 1]

    def __post_init__(self) -> None:
        if not 0 < self.min_area <= 1:
            raise ValueError(f"min_area is {self.min_area}, allowed (0, 1]")
        for name in ("shift", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, allowed [0, 1)")
        if not 0 <= self.erasing <= 1 or self.aspect < 0 or not 0 <= self.rotation_degrees <= 180:
            raise ValueError(
                f"erasing {self.erasing} (0 to 1), aspect {self.aspect} (>= 0), "
                f"rotation_degrees {self.rotation_degrees} (0 to 180)"
            )


def augment(
    pixels: Tensor, size: int, config: AugmentationConfig, flip: Tensor, generator: torch.Generator
) -> Tensor:
    """(B, C, S0, S0) uint8 -> (B, C, size, size) float in [0, 1], channels last.

    flip: (B,) probability of mirroring each image left to right; 0 where writing or place layout would
    change sense.
    """
    images = pixels.float() / 255.0
    images = _resample(images, size, config, flip, generator)
    images = _change_colours(images, config, generator).clamp_(0.0, 1.0)
    if config.erasing > 0:
        images = _erase(images, config.erasing, generator)
    return images.contiguous(memory_format=torch.channels_last)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _resample(
    images: Tensor, size: int, config: AugmentationConfig, flip: Tensor, generator: torch.Generator
) -> Tensor:
    """Crop, change of aspect, rotation and mirror as one bilinear sampling."""
    count = len(images)
    area = _uniform(count, config.min_area, 1.0, generator)
    log_aspect = _uniform(count, -config.aspect, config.aspect, generator)
    width = (area.sqrt() * torch.exp(log_aspect / 2)).clamp(
        max=1.0
    )  # halves of the picture's side, as grids count
    height = (area.sqrt() * torch.exp(-log_aspect / 2)).clamp(max=1.0)
    centre_x = (1 - width) * _uniform(count, -1.0, 1.0, generator)
    centre_y = (1 - height) * _uniform(count, -1.0, 1.0, generator)
    if config.shift > 0:  # the picture spans 2 in the grid's units
        centre_x = centre_x + _uniform(count, -2 * config.shift, 2 * config.shift, generator)
        centre_y = centre_y + _uniform(count, -2 * config.shift, 2 * config.shift, generator)
    limit = math.radians(config.rotation_degrees)
    angle = _uniform(count, -limit, limit, generator)
    mirror = torch.where(torch.rand(count, generator=generator) < flip, -1.0, 1.0)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([cosine * width * mirror, -sine * height, centre_x], dim=1),
            torch.stack([sine * width * mirror, cosine * height, centre_y], dim=1),
        ],
        dim=1,
    )  # (B, 2, 3)
    grid = F.affine_grid(theta, [count, images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _change_colours(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    def factor(spread: float) -> Tensor:
        return _uniform(len(images), 1 - spread, 1 + spread, generator).view(-1, 1, 1, 1)

    images = images * factor(config.brightness)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + (images - middle) * factor(config.contrast)
    grey = images.mean(dim=1, keepdim=True)
    return grey + (images - grey) * factor(config.saturation)


def _erase(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Fill one rectangle of 2 to 20 % of the area, in `share` of the images, with the image's mean colour."""
    count, size = len(images), images.shape[-1]
    side = _uniform(count, 0.02, 0.20, generator).sqrt()
    stretch = torch.exp(_uniform(count, -0.7, 0.7, generator) / 2)
    half_width, half_height = (side * stretch / 2).view(-1, 1), (side / stretch / 2).view(-1, 1)
    x, y = torch.rand(count, 1, generator=generator), torch.rand(count, 1, generator=generator)
    chosen = (torch.rand(count, generator=generator) < share).view(-1, 1, 1)
    ticks = (torch.arange(size) + 0.5) / size
    columns = (ticks - x).abs() < half_width  # (B, S)
    rows = (ticks - y).abs() < half_height
    mask = (rows[:, :, None] & columns[:, None, :] & chosen).unsqueeze(1)  # (B, 1, S, S)
    return torch.where(mask, images.mean(dim=(2, 3), keepdim=True), images)
