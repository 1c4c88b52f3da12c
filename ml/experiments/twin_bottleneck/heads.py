"""Trains the two heads of one arm on cached features, or fits a projection, and gives every image its vectors."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.data.sampling import Batch
from ml.experiments.twin_bottleneck.trunks import Features
from ml.methods.twin_bottleneck import Bottlenecks, TwinBottleneckTrainer
from ml.models.encoder import FeatureEncoder
from ml.protocol import pack_bits
from ml.training.loop import FitConfig, fit

LABELLED_SHARE = 4  # where labels are few, one in four of a batch has one
STEPS_PER_EPOCH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """Everything but the losses that decides the heads."""

    code_bits: int = 128
    dimension: int = 128
    code_hidden: int = 256
    epochs: int = 14  # of STEPS_PER_EPOCH batches
    batch: int = 400  # the method file's; the graph spans it
    class_exponent: float = 1.0  # class i is drawn with weight n_i ** this: 1 = every image alike
    learning_rate: float = 2e-3


@dataclass(frozen=True, slots=True)
class Vectors:
    """What an arm makes of every image of its split: packed codes (N, ceil(L / 8)), unit embeddings (N, D)."""

    codes: NDArray[np.uint8]
    embeddings: NDArray[np.float32]
    seconds: float


class FeatureBatches:
    """Batches of cached features; an epoch depends on (seed, its number) alone."""

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, vectors: Tensor, labels: Tensor, config: HeadConfig, *, seed: int) -> None:
        """vectors: (n, F) of training images; labels: (n,), -1 where unknown."""
        self.vectors, self.labels, self.config, self.seed = vectors, labels, config, seed
        self.known = torch.nonzero(labels >= 0).flatten()
        self.unknown = torch.nonzero(labels < 0).flatten()
        counts = torch.bincount(labels[self.known]).double()
        self.weights = counts[labels[self.known]].pow(config.class_exponent - 1)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of epoch `epoch`, counted from 0."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        for _ in range(self.steps_per_epoch):
            rows = self.draw(generator)
            yield Batch(images=self.vectors[rows], labels=self.labels[rows])

    def draw(self, generator: torch.Generator) -> Tensor:
        """(batch,) rows."""
        wanted = self.config.batch if not len(self.unknown) else self.config.batch // LABELLED_SHARE
        drawn = [self.known[torch.multinomial(self.weights, wanted, replacement=True, generator=generator)]]
        if len(self.unknown):
            rest = self.config.batch - wanted
            drawn.append(self.unknown[torch.randint(len(self.unknown), (rest,), generator=generator)])
        return torch.cat(drawn)


def train_heads(
    features: Features,
    settings: Bottlenecks,
    config: HeadConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    label_sets: NDArray[np.float32] | None = None,
) -> Vectors:
    """Heads trained with `settings`, applied to every image. label_sets: (C, K), see TwinBottleneckTrainer."""
    started = time.monotonic()
    known = torch.from_numpy(features.known)
    classes = len(features.split.base)
    torch.manual_seed(seed)
    encoder = FeatureEncoder(
        features.vectors.shape[1],
        code_hidden=config.code_hidden, code_bits=config.code_bits, dimension=config.dimension,
    )  # fmt: skip
    sets = None if label_sets is None else torch.from_numpy(label_sets)
    counts = None if sets is None else torch.bincount(known[known >= 0], minlength=classes).float() @ sets
    trainer = TwinBottleneckTrainer(
        settings,
        encoder,
        classes=classes,
        epochs=config.epochs,
        seed=seed,
        label_sets=sets,
        label_counts=counts,
    )
    own = torch.from_numpy(features.vectors[features.split.train])
    result = fit(
        trainer,
        FeatureBatches(own, known, config, seed=seed),
        FitConfig(
            epochs=config.epochs, learning_rate=config.learning_rate, warmup_epochs=1.0, ema_decay=0.99
        ),
        checkpoint=checkpoint,
    )
    codes, embeddings = _applied(cast("FeatureEncoder", result.encoder), features.vectors)
    return Vectors(codes, embeddings, time.monotonic() - started)


@torch.no_grad()
def _applied(
    encoder: FeatureEncoder, vectors: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    logits, embeddings = encoder(torch.from_numpy(vectors))
    return pack_bits(logits.numpy()), embeddings.numpy()
