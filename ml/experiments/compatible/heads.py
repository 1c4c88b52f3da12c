"""Tier A: the two heads of a generation, trained on cached features, alone or held to what an older one stored.

Between features and heads stands a layer with a GELU: a linear head on a trunk that was trained without a thought of
the old one cannot turn its space into the old one, which a trunk that learns with it can.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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

    neck: int = 256  # width of a layer between features and heads: what of the trunk can still move
    code_bits: int = 128
    dimension: int = 128
    code_hidden: int = 256
    epochs: int = 16
    steps: int = 50  # of an epoch
    classes_per_batch: int = 32
    images_per_class: int = 6
    frequency_exponent: float = 0.5  # a class of n images is drawn with weight n ** this
    learning_rate: float = 3e-3
    losses: Config = field(default_factory=lambda: Config(scale=10.0))


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


class NeckedHeads(FeatureEncoder):
    """Cached features -> neck -> the two heads. Inputs may hold, behind the features, what the old encoder said."""

    def __init__(self, features: int, config: HeadConfig) -> None:
        super().__init__(
            config.neck,
            code_hidden=config.code_hidden,
            code_bits=config.code_bits,
            dimension=config.dimension,
        )
        self.inputs = features
        self.neck = nn.Sequential(nn.Linear(features, config.neck), nn.GELU(), nn.LayerNorm(config.neck))

    def features(self, inputs: Tensor) -> Tensor:
        """(B, F + D_o) -> (B, neck)."""
        found: Tensor = self.neck(inputs[:, : self.inputs])
        return found

    def old(self, inputs: Tensor) -> Tensor:
        """(B, F + D_o) -> (B, D_o)."""
        return inputs[:, self.inputs :]


@dataclass(frozen=True, slots=True)
class Holding:
    """What new heads are held to: the old embeddings (N, D_o) of every image, codes, and an alignment, which may need
    the student.
    """

    old: NDArray[np.float32]
    codes: HeldCodes
    alignment: Callable[[CompactMetricTrainer], Alignment]


@dataclass(frozen=True, slots=True)
class TrainedHeads:
    """Codes and embeddings of every image; centres (C, D) of the embeddings' classifier; logs of each epoch."""

    encoded: Encoded
    centres: NDArray[np.float32]
    history: tuple[dict[str, float], ...]


def train_heads(
    features: Features,
    config: HeadConfig,
    *,
    classes: int,
    seed: int,
    holding: Holding | None = None,
    checkpoint: Path | None = None,
) -> TrainedHeads:
    """Heads of a generation; with `holding`, held to what an older one stored (their own code loss is off then)."""
    torch.manual_seed(seed)
    encoder = NeckedHeads(features.vectors.shape[1], config)
    losses = config.losses if holding is None else replace(config.losses, code_weight=0.0)
    student = CompactMetricTrainer(losses, classes=classes, encoder=encoder)
    trainer: Trainer = student
    old = np.zeros((len(features.vectors), 0), np.float32)
    if holding is not None:
        old = holding.old
        trainer = CompatibleTrainer(student, holding.alignment(student), old=encoder.old, codes=holding.codes)
    result = fit(
        trainer,
        ViewStream(features, old, config, seed),
        FitConfig(
            epochs=config.epochs, learning_rate=config.learning_rate, warmup_epochs=1.0, ema_decay=0.99
        ),
        checkpoint=checkpoint,
    )
    encoded = _applied(cast("NeckedHeads", result.encoder), features.vectors, result.seconds)
    return TrainedHeads(encoded, student.parts.embedding_centres.detach().numpy(), result.history)


@torch.no_grad()
def _applied(encoder: NeckedHeads, vectors: NDArray[np.float32], seconds: float) -> Encoded:
    logits, embeddings = encoder(torch.from_numpy(vectors))
    return Encoded(pack_bits(logits.numpy()), embeddings.numpy(), seconds)
