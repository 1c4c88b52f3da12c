"""How version 1.0 is trained: every setting of the shipped weights in one value."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ml.data.augmentation import AugmentationConfig
from ml.data.images import ImageSet
from ml.data.sampling import BatchSource, SamplingConfig
from ml.methods.compact_metric import CompactMetricTrainer, Config
from ml.methods.distillation import Config as DistillationConfig
from ml.methods.distillation import DistillationTrainer
from ml.models.config import CompactConfig, EncoderConfig, ResidualConfig
from ml.models.encoder import ImageEncoder
from ml.training.distributed import current
from ml.training.loop import FitConfig, Progress, Trainer, fit

RECIPE_NAMES = ("parity", "budget", "residual")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, apart from the images and the machine's rounding."""

    seed: int = 0  # >= 0
    stored_size: int = 112  # pixels a side that training images are held at; a little above the input size
    method: Config = field(default_factory=Config)
    fit: FitConfig = field(default_factory=FitConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, it must be >= 0")
        if self.stored_size < self.method.encoder.input_size:
            raise ValueError(
                f"stored_size is {self.stored_size}, the input size {self.method.encoder.input_size} at least"
            )


def recipe_of(architecture: str) -> Recipe:
    """The recipe of `parity` (what ships as 1.0), `budget` or `residual` (what an operator upgrades to).

    Chosen on validation queries. The residual trunk is larger and slower, so it sees the pictures fewer
    times. Raises ValueError on another name.
    """
    match architecture:
        case "parity":
            return Recipe()
        case "budget":
            encoder = EncoderConfig(trunk=CompactConfig(widths=(48, 64, 96, 128)), code_hidden=128)
            return Recipe(method=Config(encoder=encoder))
        case "residual":
            encoder = EncoderConfig(trunk=ResidualConfig())
            return Recipe(method=Config(encoder=encoder), fit=FitConfig(epochs=120, learning_rate=3e-3))
        case _:
            raise ValueError(f"architecture is {architecture!r}, allowed: {', '.join(RECIPE_NAMES)}")


@dataclass(frozen=True, slots=True)
class Trained:
    """The averaged encoder and the recipe with the pixel statistics filled in."""

    encoder: ImageEncoder
    recipe: Recipe
    seconds: float
    epochs: int  # until the encoder that was kept
    history: tuple[dict[str, float], ...]  # logs of each epoch


def train_encoder(
    images: ImageSet,
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    compiled: bool = False,
    validate: Callable[[nn.Module], float] | None = None,
    teacher: ImageEncoder | None = None,
    on_epoch: Callable[[Progress], None] = lambda _progress: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train an encoder on labelled images, from random weights drawn with recipe.seed.

    The images' own channel mean and deviation replace those of the recipe. Seeds torch's global generator
    for the initial weights; resumes from `checkpoint` when it exists. compiled: faster, not bit-identical to
    eager. validate (higher is better): keep the averaged encoder of the best epoch instead of the last one.
    teacher: a frozen encoder whose answers the new one also learns (ml.methods.distillation).
    """
    if current().count > 1 and (compiled or teacher is not None):
        raise ValueError("several processes train together neither compiled nor with a teacher")
    mean, deviation = pixel_statistics(images)
    encoder_config = replace(recipe.method.encoder, mean=mean, std=deviation)
    recipe = replace(recipe, method=replace(recipe.method, encoder=encoder_config))
    torch.manual_seed(recipe.seed)
    trainer = CompactMetricTrainer(recipe.method, classes=len(images.names), compiled=compiled)
    learner: Trainer = trainer
    if teacher is not None:
        learner = DistillationTrainer(DistillationConfig(), teacher, student=trainer)
    batches = BatchSource(
        images, recipe.sampling, recipe.augmentation, seed=recipe.seed, epochs=recipe.fit.epochs
    )
    result = fit(
        learner, batches, recipe.fit,
        checkpoint=checkpoint, validate=validate, on_epoch=on_epoch, is_cancelled=is_cancelled,
    )  # fmt: skip
    return Trained(
        encoder=cast("ImageEncoder", result.encoder),
        recipe=recipe,
        seconds=result.seconds,
        epochs=result.best_epoch or result.epochs,
        history=result.history,
    )


def pixel_statistics(images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of all pixels scaled to [0, 1], rounded to four digits."""
    channels = images.pixels.shape[1]
    means = torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    for part in torch.split(images.pixels, 256):
        values = part.double() / 255.0
        means += values.mean(dim=(2, 3)).sum(dim=0)
        squares += values.square().mean(dim=(2, 3)).sum(dim=0)
    means, squares = means / len(images), squares / len(images)
    deviations = (squares - means.square()).sqrt().clamp(min=1e-3)
    return (
        tuple(round(float(value), 4) for value in means),
        tuple(round(float(value), 4) for value in deviations),
    )
