"""Pairs of encoders to upgrade between, trained at 64 pixels: a small old one and those that could follow it.

`heads` are new ones on the old trunk (`serving_heads`); `independent` is larger and starts from other random weights;
`continued` goes on from the old one's weights with all of the images: a stand-in for a compatible encoder.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ml.base_version.recipe import Recipe, train_encoder
from ml.experiments.data import ClassSplit, Ids
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import Options, PlannedRun
from ml.experiments.twin_bottleneck.trunks import training_images, trunk_recipe
from ml.models.encoder import ImageEncoder
from ml.models.export import weights_of
from ml.protocol import Embeddings, PackedCodes, pack_bits
from ml.training.memory import fastest_precision

EXPERIMENT = "corrector"
Role = Literal["old", "heads", "independent", "continued"]
TRAINED: tuple[Role, ...] = ("independent", "continued")
SUCCESSORS: tuple[Role, ...] = ("heads", "continued", "independent")
VECTORS_FILE, WEIGHTS_FILE = "vectors.safetensors", "weights.safetensors"
SMALL, LARGE = (32, 64, 64, 96), (48, 64, 96, 128)
WIDTHS: Mapping[Role, tuple[int, ...]] = {
    "old": SMALL, "heads": SMALL, "independent": LARGE, "continued": SMALL,
}  # fmt: skip
STEPS: Mapping[Role, int] = {"old": 500, "independent": 1_000, "continued": 700}
SMOKE_STEPS = 6
OLD_SHARE = 0.3  # of each class's training images
_FEWEST = 2  # of a class: metric losses need a pair
_CHUNK = 256
_TIMED = 1_024  # pictures
_OTHER_WEIGHTS = 1_000  # what the independent encoder's seed is away from the old one's


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder says of every image of a split. codes (N, L // 8) uint8; embeddings (N, D) float32, unit;
    seconds: processor time of encoding one image.
    """

    codes: PackedCodes
    embeddings: Embeddings
    seconds: float


def share_of_images(labels: Ids, share: float, seed: int) -> NDArray[np.bool_]:
    """(n,) labels -> (n,) whether an image is drawn: `share` of each class, at least two where there are two."""
    rng, drawn = np.random.default_rng(seed), np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        drawn[members[: max(_FEWEST, round(share * len(members)))]] = True
    return drawn


def recipe_of(split: ClassSplit, role: Role, *, images: int, seed: int, smoke: bool) -> Recipe:
    """The compact method, of the role's width and length; images: how many it learns from."""
    steps = SMOKE_STEPS if smoke else STEPS[role]
    plain = trunk_recipe(split.images, len(split.base), images, precision=fastest_precision(), steps=steps)
    encoder = plain.method.encoder
    wide = replace(encoder, trunk=replace(encoder.trunk, widths=WIDTHS[role]))
    own_seed = seed + (_OTHER_WEIGHTS if role == "independent" else 0)
    return replace(plain, seed=own_seed, method=replace(plain.method, encoder=wide))


def planned_encoders(split: ClassSplit, seed: int, options: Options) -> dict[Role, PlannedRun]:
    """The runs of a seed that train a trunk, in the order in which they stand on each other."""
    old = _planned(split, "old", seed, options, parent=None)
    planned: dict[Role, PlannedRun] = {"old": old}
    for role in TRAINED:
        parent = old if role == "continued" else None
        planned[role] = _planned(split, role, seed, options, parent=parent)
    return planned


def encoded_by(run: PlannedRun, options: Options) -> Encoded:
    """What the run's encoder says, trained now if the ledger lacks it."""
    record = record_of(run, options)
    stored = load(record.files[VECTORS_FILE])
    vectors = stored["embeddings"].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Encoded(stored["codes"], vectors, float(record.values["encode_seconds"]))


def seconds_per_image(split: ClassSplit, role: Role) -> float:
    """Of the processor, to encode a picture at hand; weights do not matter."""
    recipe = recipe_of(split, role, images=len(split.train), seed=0, smoke=True)
    return encode_all(ImageEncoder(recipe.method.encoder), split.images.images.pixels[:_TIMED]).seconds


def _planned(
    split: ClassSplit, role: Role, seed: int, options: Options, *, parent: PlannedRun | None
) -> PlannedRun:
    known = known_to(split, role, seed)
    recipe = recipe_of(split, role, images=int((known >= 0).sum()), seed=seed, smoke=options.smoke)
    setting = f"serving/{split.name}/encoders"
    identity: dict[str, Any] = {
        "recipe": recipe.as_values(), "data": split.fingerprint,
        "learned": hashlib.sha256(known.astype("<i8").tobytes()).hexdigest(),
        "parent": None if parent is None else dict(parent.identity),
    }  # fmt: skip

    def work(checkpoint: Path) -> RunRecord:
        images = training_images(split, known)
        initial = None if parent is None else load(record_of(parent, options).files[WEIGHTS_FILE])
        trained = train_encoder(images, recipe, checkpoint=checkpoint, initial=initial)
        found = encode_all(trained.encoder, split.images.images.pixels)
        values = {"epochs": trained.epochs, "training_seconds": round(trained.seconds, 1), "images": len(images),
                  "encode_seconds": found.seconds}  # fmt: skip
        stored: dict[str, NDArray[Any]] = {
            "codes": found.codes,
            "embeddings": found.embeddings.astype(np.float16),
        }
        files = {VECTORS_FILE: save(stored), WEIGHTS_FILE: save(weights_of(trained.encoder))}
        return RunRecord(
            name=role, setting=setting, seed=seed, values=values, seconds=trained.seconds, files=files
        )

    return PlannedRun(name=role, setting=setting, seed=seed, identity=identity, work=work)


def known_to(split: ClassSplit, role: Role, seed: int) -> Ids:
    """(n,) labels of the training images, -1 for what the role does not learn from."""
    if role != "old":
        return split.train_labels
    return np.where(share_of_images(split.train_labels, OLD_SHARE, seed), split.train_labels, -1)


def record_of(run: PlannedRun, options: Options) -> RunRecord:
    """The finished run, done now if the ledger lacks it."""
    return options.ledger.run(run.full_identity(EXPERIMENT, smoke=options.smoke), run.work)


@torch.no_grad()
def encode_all(encoder: ImageEncoder, pixels: torch.Tensor) -> Encoded:
    """(N, C, S, S) uint8 -> codes, embeddings, and the processor's seconds for one image."""
    encoder.eval()
    codes, embeddings = [], []
    started = time.process_time()
    for chunk in torch.split(pixels, _CHUNK):
        images = (chunk.float() / 255.0).contiguous(memory_format=torch.channels_last)
        logits, vectors = encoder(images)
        codes.append(pack_bits(logits.numpy()))
        embeddings.append(vectors.numpy())
    seconds = (time.process_time() - started) / max(1, len(pixels))
    return Encoded(np.concatenate(codes), np.concatenate(embeddings), seconds)
