"""How version 1.0 is trained: every setting of the shipped weights in one value."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import nn

from ml.data.augmentation import AugmentationConfig
from ml.data.images import ImageSet, labelled
from ml.data.sampling import BatchSource, SamplingConfig
from ml.methods import compact_metric, twin_bottleneck
from ml.methods.compact_metric import CompactMetricTrainer
from ml.methods.compatible.config import Compatibility
from ml.methods.compatible.old_space import OldSpace, StoredEntries
from ml.methods.compatible.perturbation import PrototypeAlignment
from ml.methods.compatible.training import CompatibleTrainer, HeldCodes
from ml.methods.corrector.beside import HardNegativesTrainer
from ml.methods.corrector.config import HardNegatives
from ml.methods.distillation import Config as DistillationConfig
from ml.methods.distillation import DistillationTrainer
from ml.methods.twin_bottleneck import TwinBottleneckTrainer
from ml.models.config import CompactConfig, EncoderConfig, ResidualConfig
from ml.models.encoder import ImageEncoder
from ml.models.export import load_weights
from ml.training.distributed import current
from ml.training.loop import FitConfig, Progress, Trainer, fit

Method = compact_metric.Config | twin_bottleneck.Config
METHODS: Mapping[str, type[compact_metric.Config] | type[twin_bottleneck.Config]] = {
    "compact": compact_metric.Config,
    "twin-bottleneck": twin_bottleneck.Config,
}
RECIPE_NAMES = ("parity", "budget", "residual")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, apart from the images and the machine's rounding."""

    seed: int = 0  # >= 0
    stored_size: int = 112  # pixels a side that training images are held at; a little above the input size
    method: Method = field(default_factory=compact_metric.Config)
    fit: FitConfig = field(default_factory=FitConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    negatives: HardNegatives | None = None  # from the whole catalogue, beside the method's losses
    compatibility: Compatibility | None = (
        None  # with what an older version stored; then train_encoder is told what
    )

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, it must be >= 0")
        if self.stored_size < self.method.encoder.input_size:
            raise ValueError(
                f"stored_size is {self.stored_size}, the input size {self.method.encoder.input_size} at least"
            )
        if self.negatives is not None and self.negatives.from_epoch >= self.fit.epochs:
            raise ValueError(
                f"negatives begin with epoch {self.negatives.from_epoch} (from 0), there are {self.fit.epochs}"
            )

    def as_values(self) -> dict[str, Any]:
        """Nested plain values, as `ml.config.config_from_dict` reads them.

        What is off is left out: what was known by its recipe before there was any of it still is.
        """
        values = asdict(self)
        if self.compatibility is not None:
            values["compatibility"] = self.compatibility.as_values()
        for name in ("negatives", "compatibility"):
            if values[name] is None:
                del values[name]
        return values


def recipe_of(architecture: str, *, method: str = "compact") -> Recipe:
    """The recipe of `parity` (what ships as 1.0), `budget` or `residual` (what an operator upgrades to).

    method: "compact" or "twin-bottleneck". Chosen on validation queries. The residual trunk is larger and
    slower, so it sees the pictures fewer times. Raises ValueError on another name.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, allowed: {', '.join(METHODS)}")
    config = METHODS[method]
    match architecture:
        case "parity":
            return Recipe(method=config())
        case "budget":
            encoder = EncoderConfig(trunk=CompactConfig(widths=(48, 64, 96, 128)), code_hidden=128)
            return Recipe(method=config(encoder=encoder))
        case "residual":
            encoder = EncoderConfig(trunk=ResidualConfig())
            return Recipe(method=config(encoder=encoder), fit=FitConfig(epochs=120, learning_rate=3e-3))
        case _:
            raise ValueError(f"architecture is {architecture!r}, allowed: {', '.join(RECIPE_NAMES)}")


@dataclass(frozen=True, slots=True)
class Stored:
    """What an older version stored, as a new encoder is held to it. Classes are those of the training images.

    space: prototypes of its embeddings. codes: None where the new code head is free. entries: the embeddings
    themselves, for a compatibility with them too.
    """

    space: OldSpace
    codes: HeldCodes | None = None
    entries: StoredEntries | None = None


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
    initial: Mapping[str, NDArray[Any]] | None = None,
    stored: Stored | None = None,
    on_epoch: Callable[[Progress], None] = lambda _progress: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train an encoder on images, some of which may lack a label (-1), from random weights drawn with recipe.seed.

    Only the twin bottleneck learns from images without label; the compact method leaves them out. initial: the
    weights of an encoder of the same configuration to start from instead (ValueError when they do not fit).

    The images' own channel mean and deviation replace those of the recipe. Seeds torch's global generator
    for the initial weights; resumes from `checkpoint` when it exists. compiled: faster, not bit-identical to
    eager. validate (higher is better): keep the averaged encoder of the best epoch instead of the last one.
    teacher: a frozen encoder whose answers the new one also learns (ml.methods.distillation).
    Hard negatives (recipe.negatives) are photos with a label: one without could show what the query shows.
    stored: what recipe.compatibility is with; ValueError when only one of the two is given. Where codes are held
    the method's own code loss is off.
    """
    negatives = recipe.negatives
    recipe = _with_held_codes(recipe, stored)
    if current().count > 1 and (compiled or teacher is not None or negatives is not None):
        raise ValueError(
            "several processes train together neither compiled nor with a teacher nor with hard negatives"
        )
    if stored is not None and (compiled or current().count > 1):
        raise ValueError("a compatible encoder is trained by one process and not compiled")
    if compiled and negatives is not None:
        raise ValueError("hard negatives need the embeddings of an encoder that is not compiled")
    mean, deviation = pixel_statistics(images)
    encoder_config = replace(recipe.method.encoder, mean=mean, std=deviation)
    recipe = replace(recipe, method=replace(recipe.method, encoder=encoder_config))
    if isinstance(recipe.method, compact_metric.Config):
        images = labelled(images)
    torch.manual_seed(recipe.seed)
    trainer = _trainer(recipe, images, compiled=compiled)
    if initial is not None:
        load_weights(trainer.encoder(), initial)
    learner = _wrapped(trainer, recipe, images, teacher, stored)
    batches = BatchSource(
        images, recipe.sampling, recipe.augmentation, seed=recipe.seed, epochs=recipe.fit.epochs
    )
    result = fit(
        learner, batches, recipe.fit,
        checkpoint=checkpoint, subject=_subject(recipe, stored),
        validate=validate, on_epoch=on_epoch, is_cancelled=is_cancelled,
    )  # fmt: skip
    return Trained(
        encoder=cast("ImageEncoder", result.encoder),
        recipe=recipe,
        seconds=result.seconds,
        epochs=result.best_epoch or result.epochs,
        history=result.history,
    )


def _trainer(
    recipe: Recipe, images: ImageSet, *, compiled: bool
) -> CompactMetricTrainer | TwinBottleneckTrainer:
    method, classes = recipe.method, len(images.names)
    if isinstance(method, compact_metric.Config):
        return CompactMetricTrainer(method, classes=classes, compiled=compiled)
    return TwinBottleneckTrainer(
        method.bottlenecks, ImageEncoder(method.encoder),
        classes=classes, epochs=recipe.fit.epochs, seed=recipe.seed, compiled=compiled,
    )  # fmt: skip


def _wrapped(
    trainer: CompactMetricTrainer | TwinBottleneckTrainer,
    recipe: Recipe,
    images: ImageSet,
    teacher: ImageEncoder | None,
    stored: Stored | None,
) -> Trainer:
    """What else the new encoder learns from. Hard negatives last: who looks for them runs the heads again."""
    learner: Trainer = trainer
    if teacher is not None:
        if not isinstance(trainer, CompactMetricTrainer):
            raise ValueError("a teacher teaches the compact method only")
        learner = DistillationTrainer(DistillationConfig(), teacher, student=trainer)
    learner = _held(learner, recipe, stored)
    if recipe.negatives is None:
        return learner
    shown = labelled(images)
    return HardNegativesTrainer(
        recipe.negatives, shown.pixels, shown.labels, student=learner, seed=recipe.seed
    )


def _with_held_codes(recipe: Recipe, stored: Stored | None) -> Recipe:
    if (stored is None) != (recipe.compatibility is None):
        raise ValueError(
            f"compatibility is {'not ' if recipe.compatibility is None else ''}asked for, what is stored "
            f"{'not ' if stored is None else ''}given: both or neither"
        )
    if stored is None or stored.codes is None:
        return recipe
    if not isinstance(recipe.method, compact_metric.Config):
        raise TypeError(
            f"method is {recipe.method.kind!r}: stored codes are held by the compact method alone"
        )
    return replace(recipe, method=replace(recipe.method, code_weight=0.0))


def _held(learner: Trainer, recipe: Recipe, stored: Stored | None) -> Trainer:
    """With the alignment to what is stored."""
    settings = recipe.compatibility
    if stored is None or settings is None:
        return learner
    alignment = PrototypeAlignment(stored.space, settings, entries=stored.entries, seed=recipe.seed)
    return CompatibleTrainer(learner, alignment, codes=stored.codes, code_weight=settings.code_weight)


def _subject(recipe: Recipe, stored: Stored | None) -> str:
    """What a checkpoint must agree on beside the fit's own settings."""
    told = [] if recipe.negatives is None else [f"with {recipe.negatives}"]
    if stored is not None and recipe.compatibility is not None:
        digest = hashlib.sha256(stored.space.prototypes.numpy().tobytes())
        if stored.codes is not None:
            digest.update(stored.codes.pairs.targets.numpy().tobytes())
        if stored.entries is not None and recipe.compatibility.entry_weight > 0:
            digest.update(stored.entries.embeddings.numpy().tobytes())
        told.append(f"held to {digest.hexdigest()} by {recipe.compatibility.as_values()}")
    return ", ".join(told)


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
