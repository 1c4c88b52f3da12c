"""The smallest upgrade: new heads, taught by all of the images, on the trunk that the old encoder has."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ml.base_version.recipe import pixel_statistics
from ml.experiments.corrector.serving_encoders import (
    VECTORS_FILE,
    WEIGHTS_FILE,
    encode_all,
    known_to,
    recipe_of,
    record_of,
)
from ml.experiments.data import ClassSplit
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import Options, PlannedRun
from ml.experiments.twin_bottleneck.arms import METRIC_ONLY
from ml.experiments.twin_bottleneck.heads import HeadConfig, train_heads
from ml.experiments.twin_bottleneck.trunks import Features, training_images
from ml.models.encoder import ImageEncoder
from ml.models.export import encoder_from_weights

_CHUNK, _TIMED = 256, 1_024


def planned_heads(split: ClassSplit, seed: int, old: PlannedRun, options: Options) -> PlannedRun:
    """old: the run that trained the trunk. Its augmentation is not repeated: heads see every image as it is."""
    config = HeadConfig(epochs=1, batch=50) if options.smoke else HeadConfig()
    setting = f"serving/{split.name}/encoders"

    def work(checkpoint: Path) -> RunRecord:
        trunk = _encoder(split, seed, load(record_of(old, options).files[WEIGHTS_FILE]), options)
        found = train_heads(_features(trunk, split), METRIC_ONLY, config, seed=seed, checkpoint=checkpoint)
        stored: dict[str, NDArray[Any]] = {
            "codes": found.codes,
            "embeddings": found.embeddings.astype(np.float16),
        }
        values = {
            "training_seconds": round(found.seconds, 1), "images": len(split.train),
            "encode_seconds": encode_all(trunk, split.images.images.pixels[:_TIMED]).seconds,
        }  # fmt: skip
        files = {VECTORS_FILE: save(stored)}
        return RunRecord(
            name="heads", setting=setting, seed=seed, values=values, seconds=found.seconds, files=files
        )

    identity: dict[str, Any] = {
        "heads": asdict(config), "settings": asdict(METRIC_ONLY), "parent": dict(old.identity),
    }  # fmt: skip
    return PlannedRun(name="heads", setting=setting, seed=seed, identity=identity, work=work)


def _encoder(
    split: ClassSplit, seed: int, weights: Mapping[str, NDArray[Any]], options: Options
) -> ImageEncoder:
    """The old encoder; its pixel statistics are those of what it learned from."""
    known = known_to(split, "old", seed)
    recipe = recipe_of(split, "old", images=int((known >= 0).sum()), seed=seed, smoke=options.smoke)
    mean, deviation = pixel_statistics(training_images(split, known))
    return encoder_from_weights(replace(recipe.method.encoder, mean=mean, std=deviation), weights).eval()


@torch.no_grad()
def _features(trunk: ImageEncoder, split: ClassSplit) -> Features:
    """Of every image, standardised by the training images."""
    parts = [
        trunk.features((chunk.float() / 255.0).contiguous(memory_format=torch.channels_last)).float()
        for chunk in torch.split(split.images.images.pixels, _CHUNK)
    ]
    vectors = torch.cat(parts).numpy()
    own = vectors[split.train]
    standardised = (vectors - own.mean(axis=0)) / (own.std(axis=0) + np.float32(1e-6))
    return Features(split=split, vectors=standardised.astype(np.float32), known=split.train_labels)
