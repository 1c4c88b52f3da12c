"""The frozen trunk of a chain of classes, trained on the base classes alone, and its cached features.

Feature extraction is done, and timed, once and apart: an increment begins where features are at hand.
"""

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ml.base_version.recipe import Recipe, pixel_statistics, train_encoder
from ml.data.augmentation import augment
from ml.data.images import ImageSet
from ml.experiments.data import ClassChain
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import Options, PlannedRun
from ml.experiments.twin_bottleneck.trunks import STEPS, trunk_recipe
from ml.models.config import EncoderConfig
from ml.models.encoder import ImageEncoder
from ml.models.export import encoder_from_weights, weights_of

FEATURES_FILE, WEIGHTS_FILE = "features.safetensors", "weights.safetensors"
TRUNK_SEED = 0
VIEW_SEED = 0
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Features:
    """What the frozen trunk says of every image of `chain`. vectors (N, F) float32, standardised by the base
    entries; embeddings (N, D) unit, of the trunk's own embedding head. views (V, G, F): the entries again, each time
    augmented anew (V may be 0). encoder: the trunk itself, for images that are not in the chain.
    """

    chain: ClassChain
    vectors: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    views: NDArray[np.float32]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    encoder: ImageEncoder

    @torch.no_grad()
    def of_pixels(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """(M, C, S, S) uint8 -> (M, F), standardised like `vectors`."""
        return (_applied(self.encoder, pixels)[0] - self.mean) / self.scale


def recipe(chain: ClassChain, *, precision: str, smoke: bool, steps: int = STEPS) -> Recipe:
    """The trunk's training: the compact method, as in the twin-bottleneck experiment."""
    entries = int((chain.images.labels()[chain.gallery] < chain.ends[0]).sum())
    steps = 20 if smoke else steps
    return trunk_recipe(chain.images, chain.ends[0], entries, precision=precision, steps=steps)


def planned_trunk(chain: ClassChain, trunk: Recipe) -> PlannedRun:
    """The run whose file holds the weights; one for all chains with these base classes."""
    place, images = chain.name, base_images(chain)

    def work(checkpoint: Path) -> RunRecord:
        trained = train_encoder(images, trunk, checkpoint=checkpoint)
        return RunRecord(
            name="trunk", setting=f"{place}/trunk", seed=TRUNK_SEED,
            values={"epochs": trained.epochs, "training_seconds": round(trained.seconds, 1), "images": len(images)},
            seconds=trained.seconds, files={WEIGHTS_FILE: save(weights_of(trained.encoder))},
        )  # fmt: skip

    identity = {"trunk": trunk.as_values(), "data": images.fingerprint}
    return PlannedRun(name="trunk", setting=f"{place}/trunk", seed=TRUNK_SEED, identity=identity, work=work)


def planned_features(
    chain: ClassChain, title: str, trunk: PlannedRun, made_by: Recipe, options: Options, *, views: int = 0
) -> PlannedRun:
    """The run whose file holds what the trunk says of every image of the chain. title: of the chain."""
    identity: dict[str, Any] = {
        "trunk": dict(trunk.identity), "encoder": asdict(_encoder_config(chain, made_by)),
        "data": chain.fingerprint, "views": views,
    }  # fmt: skip
    setting = f"{title}/features"

    def work(_checkpoint: Path) -> RunRecord:
        encoder = _encoder(chain, trunk, made_by, options)
        started = time.monotonic()
        vectors, embeddings = _applied(encoder, chain.images.images.pixels)
        seconds = time.monotonic() - started
        found = {
            "vectors": vectors,
            "embeddings": embeddings,
            "views": _views(encoder, chain, made_by, views),
        }
        return RunRecord(
            name="features", setting=setting, seed=TRUNK_SEED,
            values={"extraction_seconds": round(seconds, 2), "images": len(vectors), "views": views},
            seconds=time.monotonic() - started, files={FEATURES_FILE: save(found)},
        )  # fmt: skip

    return PlannedRun(name="features", setting=setting, seed=TRUNK_SEED, identity=identity, work=work)


def features_of(
    chain: ClassChain, features: PlannedRun, trunk: PlannedRun, made_by: Recipe, options: Options
) -> Features:
    """The cached features, made now if the ledger lacks them."""
    record = options.ledger.run(features.full_identity("lifelong", smoke=options.smoke), features.work)
    found = load(record.files[FEATURES_FILE])
    base = found["vectors"][chain.gallery[chain.images.labels()[chain.gallery] < chain.ends[0]]]
    mean, scale = base.mean(axis=0), base.std(axis=0) + np.float32(1e-6)
    return Features(
        chain=chain, vectors=(found["vectors"] - mean) / scale, embeddings=found["embeddings"],
        views=(found["views"] - mean) / scale, mean=mean, scale=scale, encoder=_encoder(chain, trunk, made_by, options),
    )  # fmt: skip


def _encoder(chain: ClassChain, trunk: PlannedRun, made_by: Recipe, options: Options) -> ImageEncoder:
    """The trained trunk."""
    record = options.ledger.run(trunk.full_identity("lifelong", smoke=options.smoke), trunk.work)
    return encoder_from_weights(_encoder_config(chain, made_by), load(record.files[WEIGHTS_FILE]))


def _encoder_config(chain: ClassChain, trunk: Recipe) -> EncoderConfig:
    """Pixels are standardised as in training, by what the training images are; weights do not hold that."""
    mean, deviation = pixel_statistics(base_images(chain))
    return replace(trunk.method.encoder, mean=mean, std=deviation)


def base_images(chain: ClassChain) -> ImageSet:
    """The entries of base classes."""
    images, labels = chain.images.images, chain.images.labels()
    rows = chain.gallery[labels[chain.gallery] < chain.ends[0]]
    pixels = images.pixels[torch.from_numpy(rows)]
    digest = hashlib.sha256(pixels.numpy().tobytes() + labels[rows].astype("<i8").tobytes()).hexdigest()
    return ImageSet(
        pixels=pixels,
        labels=torch.from_numpy(labels[rows]),
        names=chain.classes[: chain.ends[0]],
        packs=tuple(images.packs[row] for row in rows),
        fingerprint=digest,
    )


@torch.no_grad()
def _applied(encoder: ImageEncoder, pixels: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, F) pooled features and (N, D) unit embeddings, in float32."""
    encoder.eval()
    vectors, embeddings = [], []
    for chunk in torch.split(pixels, _CHUNK):
        own = encoder.features((chunk.float() / 255.0).contiguous(memory_format=torch.channels_last)).float()
        vectors.append(own)
        embeddings.append(encoder.heads(own)[1])
    return torch.cat(vectors).numpy(), torch.cat(embeddings).numpy()


@torch.no_grad()
def _views(encoder: ImageEncoder, chain: ClassChain, trunk: Recipe, count: int) -> NDArray[np.float32]:
    """(V, G, F): every entry augmented as in the trunk's own training."""
    pixels = chain.images.images.pixels[torch.from_numpy(chain.gallery)]
    generator = torch.Generator().manual_seed(VIEW_SEED)
    size = trunk.method.encoder.input_size
    found = np.empty((count, len(pixels), encoder.feature_size), np.float32)
    for view in range(count):
        for start in range(0, len(pixels), _CHUNK):
            images = pixels[start : start + _CHUNK]
            seen = augment(images, size, trunk.augmentation, torch.zeros(len(images)), generator)
            found[view, start : start + len(images)] = encoder.features(seen).float().numpy()
    return found
