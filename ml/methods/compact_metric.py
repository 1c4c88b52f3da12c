"""Compact involution metric model (Islam et al., arXiv 2404.06593): cross-entropy, Multi-Similarity, or both.

Deviations: the paper gives no layer list and no hyper-parameters (method file, section 12). A cosine
classifier replaces its linear one, and a code head with a cosine classifier of its own is trained beside the
embedding, because the product searches by codes first.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ml.data.sampling import Batch
from ml.losses.classification import cosine_cross_entropy
from ml.losses.codes import code_loss
from ml.losses.multi_similarity import multi_similarity_loss
from ml.models.config import EncoderConfig
from ml.models.encoder import ImageEncoder, TwoHeaded
from ml.training.loop import StepOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Weights and shapes of the losses. At least one of ce_weight and ms_weight must be above 0."""

    kind: str = "compact"  # tells it from ml.methods.twin_bottleneck.Config in a recipe
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    ce_weight: float = 1.0  # cosine cross-entropy on the embedding, >= 0
    ms_weight: float = 0.5  # Multi-Similarity on the embedding, >= 0; section 4: CE + 0.5 MS
    ms_from_epoch: int = 2  # MS collapses when started cold (section 9); >= 0
    code_weight: float = 0.5  # code head loss, >= 0
    scale: float = 16.0  # of both cosine classifiers, > 0
    label_smoothing: float = 0.1  # [0, 1)
    quantisation_weight: float = 0.1  # inside the code loss, >= 0
    balance_weight: float = 0.1  # inside the code loss, >= 0

    def __post_init__(self) -> None:
        if self.kind != "compact":
            raise ValueError(f"kind is {self.kind!r}, expected 'compact'")
        for name in (
            "ce_weight",
            "ms_weight",
            "ms_from_epoch",
            "code_weight",
            "quantisation_weight",
            "balance_weight",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be >= 0")
        if self.ce_weight + self.ms_weight == 0:
            raise ValueError("ce_weight and ms_weight are both 0: nothing would train the embedding")
        if self.scale <= 0 or not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"scale is {self.scale} (> 0), label_smoothing {self.label_smoothing} (0 to below 1)"
            )


class _Parts(nn.Module):
    """The encoder and the class centres that exist in training only."""

    def __init__(self, encoder: TwoHeaded, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding_centres = nn.Parameter(torch.randn(classes, encoder.dimension))
        self.code_centres = nn.Parameter(torch.randn(classes, encoder.code_bits))


class CompactMetricTrainer:
    """Trains an encoder on labelled images. Initial weights come from torch's global seed."""

    def __init__(
        self, config: Config, *, classes: int, compiled: bool = False, encoder: TwoHeaded | None = None
    ) -> None:
        """classes: C >= 2. compiled: run the encoder through torch.compile (same weights, other rounding).

        encoder: the one to train, whatever its inputs; None: an ImageEncoder as the config says, new.
        """
        if classes < 2:
            raise ValueError(f"{classes} classes, at least 2 are needed")
        self.config = config
        self.epoch = 0
        self.parts = _Parts(ImageEncoder(config.encoder) if encoder is None else encoder, classes)
        self.parts.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parts.train()
        self._forward = torch.compile(self.parts.encoder) if compiled else self.parts.encoder

    def training_step(self, batch: Batch) -> StepOutput:
        """Loss of one batch: ce_weight * CE + ms_weight * MS + code_weight * code loss.

        Under autocast the encoder alone runs in half precision; the losses are always float32.
        """
        logits, embeddings = self._forward(batch.images)
        with torch.autocast(batch.images.device.type, enabled=False):
            return self._losses(logits, embeddings, batch)

    def _losses(self, logits: Tensor, embeddings: Tensor, batch: Batch) -> StepOutput:
        config = self.config
        ce = cosine_cross_entropy(
            embeddings, self.parts.embedding_centres, batch.labels,
            scale=config.scale, label_smoothing=config.label_smoothing,
        )  # fmt: skip
        code = code_loss(
            logits, self.parts.code_centres, batch.labels,
            scale=config.scale, label_smoothing=config.label_smoothing,
            quantisation_weight=config.quantisation_weight, balance_weight=config.balance_weight,
        )  # fmt: skip
        loss = config.ce_weight * ce + config.code_weight * code
        logs = {"ce": float(ce.detach()), "code": float(code.detach())}
        if config.ms_weight > 0 and self.epoch >= config.ms_from_epoch:
            ms = multi_similarity_loss(embeddings, batch.labels)
            loss = loss + config.ms_weight * ms
            logs["ms"] = float(ms.detach())
        return StepOutput(loss=loss, logs=logs)

    def start_epoch(self, epoch: int) -> None:
        """Epoch `epoch` (from 0) begins."""
        self.epoch = epoch

    def module(self) -> nn.Module:
        """Encoder and class centres."""
        return self.parts

    def encoder(self) -> TwoHeaded:
        """The live (not averaged) encoder."""
        return self.parts.encoder
