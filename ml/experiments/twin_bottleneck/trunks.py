"""The frozen trunk that the heads of one data set and one label condition stand on, and its cached features.

The trunk sees the labels that the heads see: one trained on all labels would make few look like many.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ml.base_version.recipe import Recipe, train_encoder
from ml.data.augmentation import AugmentationConfig
from ml.data.images import ImageSet
from ml.data.sampling import SamplingConfig
from ml.experiments.data import ClassSplit, Part
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.compact_metric import Config
from ml.models.config import CompactConfig, EncoderConfig
from ml.models.encoder import ImageEncoder
from ml.training.loop import FitConfig

FEATURES_FILE = "features.safetensors"
MIRRORED = ("fashion_mnist", "grocery", "clothing", "catalog")  # things that look the same mirrored
TRUNK_SEED = 0
STEPS = 1_400  # of a trunk with all labels; fewer labels take half as many, and would overfit with more
GREY_AUGMENTATION = AugmentationConfig(
    min_area=1.0, aspect=0.0, shift=0.07, rotation_degrees=0.0,
    brightness=0.0, contrast=0.0, saturation=0.0, erasing=0.25,
)  # fmt: skip
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Condition:
    """Which training labels are known and true. share: (0, 1], at least one image a class; noise: [0, 1)."""

    share: float = 1.0
    noise: float = 0.0

    @property
    def title(self) -> str:
        """As it stands in a setting's name; empty for all labels, all true."""
        if self.noise:
            return f"{self.noise:.0%} wrong labels"
        return "" if self.share == 1 else f"{self.share:.0%} of labels"

    def apply(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """(N,) true labels -> (N,) known ones: -1 where unknown, another class's where wrong. Seed 0."""
        rng, known = np.random.default_rng(0), labels.copy()
        if self.share < 1:
            for label in range(classes):
                members = rng.permutation(np.flatnonzero(labels == label))
                known[members[max(1, round(self.share * len(members))) :]] = -1
        wrong = rng.random(len(labels)) < self.noise
        moved = (labels + rng.integers(1, classes, len(labels))) % classes
        return np.where(wrong & (known >= 0), moved, known)


@dataclass(frozen=True, slots=True)
class Features:
    """What heads are trained and judged on. vectors: (N, F) float32 of every image of `split`, standardised by
    the training images. known: (n,) labels of `split.train` as the condition shows them.
    """

    split: ClassSplit
    vectors: NDArray[np.float32]
    known: NDArray[np.int64]


def recipe(
    split: ClassSplit, condition: Condition, *, precision: str, smoke: bool, steps: int = STEPS
) -> Recipe:
    """The trunk's own training: the compact method at 64 pixels (digits: native), `budget` widths."""
    labelled = int((condition.apply(split.train_labels, len(split.base)) >= 0).sum())
    steps = 20 if smoke else steps if condition.share == 1 else steps // 2
    return trunk_recipe(split.images, len(split.base), labelled, precision=precision, steps=steps)


def trunk_recipe(part: Part, classes: int, images: int, *, precision: str, steps: int) -> Recipe:
    """The compact method on pictures like those of `part`: about `steps` batches over `images` of `classes`."""
    _, channels, size, _ = part.images.pixels.shape
    drawn = min(32, classes)
    strides = (2, 2, 2, 1) if size >= 48 else (2, 2, 1, 1)
    return Recipe(
        seed=TRUNK_SEED,
        stored_size=size,
        method=Config(
            encoder=EncoderConfig(
                trunk=CompactConfig(channels=channels, widths=(48, 64, 96, 128), strides=strides),
                input_size=size, mean=(0.5,) * channels, std=(0.25,) * channels,
            ),
            scale=16.0 if channels == 3 else 6.0,
        ),
        fit=FitConfig(
            epochs=max(1, round(steps / max(1, images // (drawn * 4)))), warmup_epochs=1.0, precision=precision
        ),
        sampling=SamplingConfig(
            classes_per_batch=drawn, images_per_class=4,
            sizes=((1.0, size),), mirrored_packs=MIRRORED,
        ),
        augmentation=AugmentationConfig() if channels == 3 else GREY_AUGMENTATION,
    )  # fmt: skip


def identity_of(split: ClassSplit, condition: Condition, trunk: Recipe) -> dict[str, Any]:
    """What decides a trunk."""
    return {"trunk": trunk.as_values(), "labels": asdict(condition), "data": split.fingerprint}


def planned_trunk(split: ClassSplit, condition: Condition, trunk: Recipe) -> PlannedRun:
    """The run whose files hold the features; one for all arms and seeds of the condition."""
    setting = f"{split.name}/trunk" + (f"/{condition.title}" if condition.title else "")

    def work(checkpoint: Path) -> RunRecord:
        started = time.monotonic()
        known = condition.apply(split.train_labels, len(split.base))
        trained = train_encoder(training_images(split, known), trunk, checkpoint=checkpoint)
        return RunRecord(
            name="trunk", setting=setting, seed=TRUNK_SEED,
            values={"epochs": trained.epochs, "training_seconds": round(trained.seconds, 1),
                    "known_labels": int((known >= 0).sum())},
            seconds=time.monotonic() - started,
            files={FEATURES_FILE: save({"features": pooled_features(trained.encoder, split.images.images.pixels)})},
        )  # fmt: skip

    return PlannedRun(
        name="trunk",
        setting=setting,
        seed=TRUNK_SEED,
        identity=identity_of(split, condition, trunk),
        work=work,
    )


def features_of(split: ClassSplit, condition: Condition, trunk: PlannedRun, options: Options) -> Features:
    """The cached features, trained now if the ledger lacks them."""
    record = options.ledger.run(trunk.full_identity("twin-bottleneck", smoke=options.smoke), trunk.work)
    vectors = _stored(record.files)
    own = vectors[split.train]
    scale = own.std(axis=0) + 1e-6
    return Features(
        split=split,
        vectors=((vectors - own.mean(axis=0)) / scale).astype(np.float32),
        known=condition.apply(split.train_labels, len(split.base)),
    )


def _stored(files: Mapping[str, bytes]) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = load(files[FEATURES_FILE])["features"]
    return vectors


def training_images(split: ClassSplit, known: NDArray[np.int64]) -> ImageSet:
    """The training images with the labels that are known, and only those."""
    images, rows = split.images.images, split.train[known >= 0]
    digest = hashlib.sha256(rows.astype("<i8").tobytes() + known.astype("<i8").tobytes())
    return ImageSet(
        pixels=images.pixels[torch.from_numpy(rows)],
        labels=torch.from_numpy(known[known >= 0]),
        names=split.base,
        packs=tuple(images.packs[row] for row in rows),
        fingerprint=hashlib.sha256(images.fingerprint.encode() + digest.digest()).hexdigest(),
    )


@torch.no_grad()
def pooled_features(encoder: ImageEncoder, pixels: torch.Tensor) -> NDArray[np.float32]:
    """(N, C, S, S) uint8 -> (N, F) of whole pictures, in float32."""
    encoder.eval()
    parts = [
        encoder.features((chunk.float() / 255.0).contiguous(memory_format=torch.channels_last)).float()
        for chunk in torch.split(pixels, _CHUNK)
    ]
    return torch.cat(parts).numpy()
