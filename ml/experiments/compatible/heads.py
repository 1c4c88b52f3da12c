"""Tier A: the two heads of a generation, trained on cached features, alone or held to what an older one stored."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.data.sampling import Batch
from ml.experiments.compatible.trunks import Features
from ml.experiments.corrector.serving_encoders import Encoded
from ml.methods.compact_metric import CompactMetricTrainer, Config
from ml.methods.compatible.alignment import Alignment
from ml.methods.compatible.training import CompatibleTrainer, HeldCodes
from ml.models.encoder import FeatureEncoder
from ml.protocol import pack_bits
from ml.training.loop import FitConfig, Trainer, fit


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """Everything but the alignment that decides the heads. Losses are those of the product's compact method."""

    code_bits: int = 128
    dimension: int = 128
    code_hidden: int = 256
    epochs: int = 16
    steps: int = 50  # of an epoch
    classes_per_batch: int = 32
    images_per_class: int = 6
    frequency_exponent: float = 0.5  # a class of n images is drawn with weight n ** this
    learning_rate: float = 4e-3
    losses: Config = field(default_factory=Config)


class ViewStream:
    """Views of the learned images, the old embeddings beside them; an epoch depends on (seed, its number) alone."""

    def __init__(self, features: Features, old: NDArray[np.float32], config: HeadConfig, seed: int) -> None:
        """old: (N, D_o) of every image of the split; D_o may be 0."""
        self.views, self.labels = torch.from_numpy(features.views), torch.from_numpy(features.labels)
        self.old = torch.from_numpy(old[features.rows])
        self.config, self.seed, self.steps_per_epoch = config, seed, config.steps
        present, counts = np.unique(features.labels, return_counts=True)
        self.members = [torch.from_numpy(np.flatnonzero(features.labels == label)) for label in present]
        self.weights = torch.from_numpy(counts.astype(np.float64)).pow(config.frequency_exponent)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """`steps` batches of distinct classes."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        for _ in range(self.config.steps):
            rows = self._draw(generator)
            chosen = torch.randint(len(self.views), (len(rows),), generator=generator)
            seen = torch.cat([self.views[chosen, rows], self.old[rows]], dim=1)
            yield Batch(images=seen, labels=self.labels[rows])

    def _draw(self, generator: torch.Generator) -> Tensor:
        count = min(self.config.classes_per_batch, len(self.members))
        drawn = torch.multinomial(self.weights, count, generator=generator)
        wanted = self.config.images_per_class
        return torch.cat(
            [
                own[torch.randint(len(own), (wanted,), generator=generator)]
                if len(own) < wanted
                else own[torch.randperm(len(own), generator=generator)[:wanted]]
                for own in (self.members[label] for label in drawn.tolist())
            ]
        )


class BesideOld(FeatureEncoder):
    """Heads over the first `feature_size` inputs; what follows them is what the old encoder said."""

    def features(self, inputs: Tensor) -> Tensor:
        """(B, F + D_o) -> (B, F)."""
        return inputs[:, : self.feature_size]

    def old(self, inputs: Tensor) -> Tensor:
        """(B, F + D_o) -> (B, D_o)."""
        return inputs[:, self.feature_size :]


@dataclass(frozen=True, slots=True)
class Held:
    """What new heads are held to: an alignment over a split's classes, made once their student is there, and codes."""

    old: NDArray[np.float32]  # (N, D_o) of every image
    codes: HeldCodes
    code_weight: float


def train_heads(
    features: Features,
    config: HeadConfig,
    *,
    classes: int,
    seed: int,
    held: Held | None = None,
    alignment: "AlignmentMaker | None" = None,
    checkpoint: Path | None = None,
) -> tuple[Encoded, list[dict[str, float]]]:
    """Codes and embeddings of every image, and the logs of each epoch."""
    torch.manual_seed(seed)
    old = held.old if held is not None else np.zeros((len(features.vectors), 0), np.float32)
    encoder = BesideOld(
        features.vectors.shape[1],
        code_hidden=config.code_hidden, code_bits=config.code_bits, dimension=config.dimension,
    )  # fmt: skip
    student = CompactMetricTrainer(config.losses, classes=classes, encoder=encoder)
    trainer: Trainer = student
    if held is not None and alignment is not None:
        trainer = CompatibleTrainer(
            student, alignment(student), old=encoder.old, codes=held.codes, code_weight=held.code_weight
        )
    result = fit(
        trainer,
        ViewStream(features, old, config, seed),
        FitConfig(
            epochs=config.epochs, learning_rate=config.learning_rate, warmup_epochs=1.0, ema_decay=0.99
        ),
        checkpoint=checkpoint,
    )
    trained = cast("BesideOld", result.encoder)
    return _applied(trained, features.vectors, result.seconds), list(result.history)


class AlignmentMaker:
    """(student) -> Alignment; a protocol, for some alignments read the student's class centres."""

    def __call__(self, student: CompactMetricTrainer) -> Alignment:
        raise NotImplementedError


@torch.no_grad()
def _applied(encoder: BesideOld, vectors: NDArray[np.float32], seconds: float) -> Encoded:
    logits, embeddings = encoder(torch.from_numpy(vectors))
    return Encoded(pack_bits(logits.numpy()), embeddings.numpy(), seconds)
