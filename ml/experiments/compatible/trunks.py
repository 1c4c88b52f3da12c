"""The frozen trunks that heads of tier A stand on, and their cached features: one trunk for each generation.

All arms of a setting share the new trunk, which was trained without a thought of the old one: what they differ in is
how its heads are taught.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ml.base_version.recipe import Recipe, train_encoder
from ml.data.augmentation import augment
from ml.experiments.compatible.settings import WIDTHS, Generation
from ml.experiments.data import ClassSplit, Ids
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import Options, PlannedRun
from ml.experiments.twin_bottleneck.trunks import pooled_features, training_images, trunk_recipe
from ml.models.encoder import ImageEncoder
from ml.training.memory import fastest_precision

EXPERIMENT = "compatible"
FEATURES_FILE = "features.safetensors"
TRUNK_SEED, VIEW_SEED = 0, 0
STEPS, FEWEST_STEPS, SMOKE_STEPS = 1_000, 400, 6  # of all training images; fewer images take fewer
VIEWS = 4  # of each training image, augmented
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Features:
    """What a frozen trunk says. vectors (N, F) of every image of the split; views (V, n, F) of the images it learned
    from, augmented; labels (n,) of those. Standardised by the images it learned from. float32.
    """

    vectors: NDArray[np.float32]
    views: NDArray[np.float32]
    rows: Ids  # (n,) of the split's images
    labels: Ids


def recipe_of(split: ClassSplit, generation: Generation, *, smoke: bool) -> Recipe:
    """The compact method at 64 pixels, of the generation's width and length."""
    known = generation.known(split)
    images = int((known >= 0).sum())
    steps = SMOKE_STEPS if smoke else max(FEWEST_STEPS, round(STEPS * images / len(known)))
    classes = len(np.unique(known[known >= 0]))
    plain = trunk_recipe(split.images, classes, images, precision=fastest_precision(), steps=steps)
    encoder = plain.method.encoder
    wide = replace(encoder, trunk=replace(encoder.trunk, widths=WIDTHS[generation.width]))
    return replace(plain, seed=TRUNK_SEED, method=replace(plain.method, encoder=wide))


def planned_trunk(split: ClassSplit, generation: Generation, options: Options) -> PlannedRun:
    """The run whose file holds the features."""
    recipe = recipe_of(split, generation, smoke=options.smoke)
    known = generation.known(split)
    identity: dict[str, Any] = {
        "recipe": recipe.as_values(), "generation": generation.as_values(), "data": split.fingerprint,
        "learned": hashlib.sha256(known.astype("<i8").tobytes()).hexdigest(), "views": VIEWS,
    }  # fmt: skip
    setting, name = f"{split.name}/trunks", generation.title

    def work(checkpoint: Path) -> RunRecord:
        images = training_images(split, known)
        present, compact = torch.unique(images.labels, return_inverse=True)
        learned = replace(
            images, labels=compact, names=tuple(images.names[label] for label in present.tolist())
        )
        trained = train_encoder(learned, recipe, checkpoint=checkpoint)
        found = {
            "vectors": pooled_features(trained.encoder, split.images.images.pixels),
            "views": _views(trained.encoder, images.pixels, recipe),
        }
        return RunRecord(
            name=name, setting=setting, seed=TRUNK_SEED,
            values={"epochs": trained.epochs, "training_seconds": round(trained.seconds, 1), "images": len(images),
                    "classes": len(present)},
            seconds=trained.seconds,
            files={FEATURES_FILE: save({key: value.astype(np.float16) for key, value in found.items()})},
        )  # fmt: skip

    return PlannedRun(name=name, setting=setting, seed=TRUNK_SEED, identity=identity, work=work)


def features_of(split: ClassSplit, generation: Generation, run: PlannedRun, options: Options) -> Features:
    """The cached features, trained now if the ledger lacks them."""
    record = options.ledger.run(run.full_identity(EXPERIMENT, smoke=options.smoke), run.work)
    found = {key: value.astype(np.float32) for key, value in load(record.files[FEATURES_FILE]).items()}
    known = generation.known(split)
    rows = split.train[known >= 0]
    own = found["vectors"][rows]
    mean, scale = own.mean(axis=0), own.std(axis=0) + np.float32(1e-6)
    return Features(
        (found["vectors"] - mean) / scale, (found["views"] - mean) / scale, rows, known[known >= 0]
    )


@torch.no_grad()
def _views(encoder: ImageEncoder, pixels: torch.Tensor, recipe: Recipe) -> NDArray[np.float32]:
    """(V, n, F): every picture augmented as in the trunk's own training, but never mirrored."""
    generator = torch.Generator().manual_seed(VIEW_SEED)
    size = recipe.method.encoder.input_size
    found = np.empty((VIEWS, len(pixels), encoder.feature_size), np.float32)
    for view in range(VIEWS):
        for start in range(0, len(pixels), _CHUNK):
            images = pixels[start : start + _CHUNK]
            seen = augment(images, size, recipe.augmentation, torch.zeros(len(images)), generator)
            found[view, start : start + len(images)] = encoder.features(seen).float().numpy()
    return found
