"""Where a fine-tuning starts: a catalogue, the queries that judge it, and the encoder that made its stale cache."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor

from ml.base_version.recipe import Recipe, pixel_statistics, train_encoder
from ml.data.augmentation import AugmentationConfig
from ml.data.images import ImageSet
from ml.data.sampling import SamplingConfig
from ml.experiments.data import Dataset, Ids, Part
from ml.experiments.data.parts import evenly
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.compact_metric import Config
from ml.models.config import CompactConfig, EncoderConfig
from ml.models.encoder import ImageEncoder
from ml.models.export import encoder_from_weights, weights_of
from ml.training.loop import FitConfig

WEIGHTS_FILE = "weights.safetensors"
STEPS = 1_000  # of the base; what it was trained with is what the cache was made by
BATCH = 120
MIRRORED = ("fashion_mnist",)
AUGMENTATION = AugmentationConfig(
    min_area=1.0, aspect=0.0, shift=0.07, rotation_degrees=0.0,
    brightness=0.0, contrast=0.0, saturation=0.0, erasing=0.25,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ground:
    """N pictures (1, S, S) that are the catalogue and the training images at once, and those that ask.

    items: of each query, what a bootstrap resamples.
    """

    name: str
    entries: ImageSet
    queries: ImageSet
    items: Ids

    def content(self, ids: Tensor) -> Tensor:
        """(n,) ids -> (n, 1, S, S) in [0, 1], not augmented."""
        return as_input(self.entries.pixels[ids])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what is learned from and of what asks."""
        joined = f"{self.entries.fingerprint} {self.queries.fingerprint}"
        return hashlib.sha256(joined.encode()).hexdigest()


def as_input(pixels: Tensor) -> Tensor:
    """(n, C, S, S) uint8 -> float in [0, 1], channels last."""
    return (pixels.float() / 255.0).contiguous(memory_format=torch.channels_last)


def ground_of(dataset: Dataset, name: str, *, per_class: int | None = None) -> Ground:
    """Every image outside the test split is an entry, the test split asks. per_class: at most so many entries of each
    class, evenly spaced.
    """
    entries = _entries([dataset.train, dataset.validation], per_class)
    return Ground(name, entries, dataset.test.images, dataset.test.items)


def _entries(parts: list[Part], per_class: int | None) -> ImageSet:
    labels = torch.cat([part.images.labels for part in parts])
    rows = [evenly(np.flatnonzero(labels == label), per_class) for label in torch.unique(labels)]
    used = torch.from_numpy(np.sort(np.concatenate(rows)))
    packs = [pack for part in parts for pack in part.images.packs]
    told = " ".join(part.images.fingerprint for part in parts) + f" at most {per_class} of a class"
    return ImageSet(
        pixels=torch.cat([part.images.pixels for part in parts])[used],
        labels=labels[used],
        names=parts[0].images.names,
        packs=tuple(packs[row] for row in used.tolist()),
        fingerprint=hashlib.sha256(told.encode()).hexdigest(),
    )


def sampling(classes: int, batch: int) -> SamplingConfig:
    """Every class in every batch, all alike."""
    return SamplingConfig(
        classes_per_batch=classes, images_per_class=max(2, batch // classes), frequency_exponent=0.0,
        sizes=((1.0, 28),), mirrored_packs=MIRRORED,
    )  # fmt: skip


def recipe(ground: Ground, *, precision: str, smoke: bool) -> Recipe:
    """The compact method with a small trunk; no involution, which would take most of the time at this size."""
    classes = len(ground.entries.names)
    steps = 5 if smoke else STEPS
    trunk = CompactConfig(channels=1, front=(), widths=(24, 32, 48, 64), strides=(2, 2, 1, 1))
    encoder = EncoderConfig(trunk=trunk, input_size=28, mean=(0.5,), std=(0.25,))
    per_epoch = max(1, len(ground.entries) // BATCH)
    return Recipe(
        stored_size=28,
        method=Config(encoder=encoder, scale=6.0),
        fit=FitConfig(epochs=max(1, round(steps / per_epoch)), warmup_epochs=0.1, precision=precision),
        sampling=sampling(classes, BATCH),
        augmentation=AUGMENTATION,
    )


def planned_base(ground: Ground, made_by: Recipe, seed: int) -> PlannedRun:
    """The run whose file holds the weights."""
    setting = f"{ground.name}/base"

    def work(checkpoint: Path) -> RunRecord:
        trained = train_encoder(ground.entries, replace(made_by, seed=seed), checkpoint=checkpoint)
        return RunRecord(
            name="base", setting=setting, seed=seed,
            values={"epochs": trained.epochs, "training_seconds": round(trained.seconds, 1),
                    "images": len(ground.entries)},
            seconds=trained.seconds, files={WEIGHTS_FILE: save(weights_of(trained.encoder))},
        )  # fmt: skip

    identity = {"base": asdict(made_by), "data": ground.fingerprint}
    return PlannedRun(name="base", setting=setting, seed=seed, identity=identity, work=work)


def encoder_of(
    ground: Ground, base: PlannedRun, made_by: Recipe, options: Options
) -> Callable[[], ImageEncoder]:
    """A fresh copy of the base encoder, trained first if the ledger lacks it."""

    def made() -> ImageEncoder:
        record = options.ledger.run(base.full_identity("corrector", smoke=options.smoke), base.work)
        mean, deviation = pixel_statistics(ground.entries)
        config = replace(made_by.method.encoder, mean=mean, std=deviation)
        encoder = encoder_from_weights(config, load(record.files[WEIGHTS_FILE]))
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return encoder.requires_grad_(requires_grad=True)

    return made
