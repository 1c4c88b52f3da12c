"""Supervised twin-bottleneck hashing: binary bottleneck = code, continuous bottleneck = embedding.

Base: TBH (Shen et al., CVPR 2020) in its released form. Supervision on the bits: SATBH (Chen and
Marchand-Maillet, arXiv 2306.11122), of which only abstract and introduction could be read; what it leaves open
follows the method file. Deviations, each a switch of `Bottlenecks` where it is more than form:

- The published wide first layer is the trunk itself: the encoder has the heads every version has.
- The continuous bottleneck is the unit embedding, because that is what a gallery stores and re-ranks by; it also
  carries metric losses (ours).
- One forward pass serves critics and encoder, as in the released TensorFlow 2 code: their gradients are disjoint
  (ml.losses.adversarial), so one optimiser takes both steps at once; rate and gradient clipping are shared.
- The reconstruction target is the trunk's feature, standardised by batch statistics and without gradient: a trunk
  that trains along could otherwise make it easier by growing flat.
- `reconstruct="bits"` decodes from the bits themselves, without graph (ours).
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.data.sampling import Batch
from ml.losses.adversarial import critic_loss, imitation_loss
from ml.losses.classification import cosine_cross_entropy
from ml.losses.codes import bernoulli_divergence, decorrelation_loss, probability_balance_loss
from ml.losses.contrastive import supervised_contrastive_loss
from ml.losses.multi_label import label_weights, weighted_binary_cross_entropy
from ml.losses.multi_similarity import multi_similarity_loss
from ml.models.bottleneck import (
    GraphConvolution,
    binary_bottleneck,
    code_adjacency,
    critic,
    decoder,
    normalised,
)
from ml.models.config import EncoderConfig
from ml.models.encoder import TwoHeaded
from ml.training.distributed import gathered
from ml.training.loop import StepOutput

_NOT_NEGATIVE = (
    "reconstruction_weight", "adversarial_weight", "class_weight", "balance_weight", "decorrelation_weight",
    "divergence_weight", "contrast_weight", "relation_weight", "ce_weight", "ms_weight", "ms_from_epoch",
    "adjacency_nearest",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottlenecks:
    """What is asked of the two bottlenecks. The defaults are what `train_base` uses; see `published()`."""

    # Binary bottleneck
    random_share: float = 0.0  # of the batches whose thresholds are drawn instead of 0.5, [0, 1]
    class_weight: float = 0.5  # eta, of the class head on the bits
    class_head: str = "bits"  # where it sits: "bits", "embedding" or "both"
    late_class_share: float = 1.0  # of class_weight in the last third of training; 0.5 against wrong labels
    balance_weight: float = 0.05  # each bit splits the batch (deterministic, instead of a critic)
    decorrelation_weight: float = 0.05  # bits say different things
    divergence_weight: float = 0.0  # of JMLH: keeps probabilities near 0.5
    contrast_weight: float = 0.25  # ours: supervised contrastive loss on the bits
    contrast_temperature: float = 0.2  # of code similarity in [-1, 1], > 0
    relation_weight: float = 0.0  # ours: the codes' similarities follow those of the embeddings
    # Reconstruction of the trunk's feature
    reconstruct: Literal["graph", "bits", "none"] = "bits"
    reconstruction_weight: float = 0.5
    decoder_hidden: int = 512
    adjacency_exponent: float = 1.4  # >= 1; 1.4 is the released code's
    adjacency_nearest: int = 0  # edges kept per item; 0 = all
    graph_residual: bool = False  # z' = z + graph convolution, without sigmoid
    # Critics
    adversarial_weight: float = 0.0  # lambda
    prior: Literal["uniform", "gaussian"] = "uniform"  # of z'; gaussian goes with no sigmoid
    critic_hidden: int = 256
    # Metric losses of the continuous bottleneck
    ce_weight: float = 1.0
    ms_weight: float = 0.5
    ms_from_epoch: int = 2
    scale: float = 16.0  # of its cosine classifier, > 0
    label_smoothing: float = 0.1  # of both class losses, [0, 1)

    def __post_init__(self) -> None:
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be >= 0")
        choices = {"class_head": ("bits", "embedding", "both"), "reconstruct": ("graph", "bits", "none"),
                   "prior": ("uniform", "gaussian")}  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, allowed: {', '.join(allowed)}")
        if not 0 <= self.random_share <= 1 or not 0 <= self.late_class_share <= 1:
            raise ValueError(
                f"random_share is {self.random_share}, late_class_share {self.late_class_share}: both 0 to 1"
            )
        if self.scale <= 0 or self.adjacency_exponent < 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"scale is {self.scale} (> 0), adjacency_exponent {self.adjacency_exponent} (>= 1), "
                f"label_smoothing {self.label_smoothing} (0 to below 1)"
            )
        if self.contrast_temperature <= 0:
            raise ValueError(f"contrast_temperature is {self.contrast_temperature}, it must be above 0")
        if min(self.decoder_hidden, self.critic_hidden) < 1:
            raise ValueError("decoder_hidden and critic_hidden must be at least 1")

    @property
    def has_sigmoid(self) -> bool:
        """Whether the graph's output is squashed to (0, 1)."""
        return not self.graph_residual and self.prior == "uniform"


def published(**changes: object) -> Bottlenecks:
    """SATBH as far as it is known: graph, decoder, two critics, class head on the bits; no metric loss.

    Without labels (`class_weight=0`) it is TBH.
    """
    settings: dict[str, object] = {
        "class_weight": 1.0, "reconstruct": "graph", "reconstruction_weight": 1.0, "adversarial_weight": 0.1,
        "balance_weight": 0.0, "decorrelation_weight": 0.0, "contrast_weight": 0.0, "ce_weight": 0.0,
        "ms_weight": 0.0,
    }  # fmt: skip
    return Bottlenecks(**settings | changes)  # type: ignore[arg-type]


def class_head_alone(**changes: object) -> Bottlenecks:
    """JMLH: a class head on stochastic bits and the divergence; no graph, no decoder, no critics."""
    settings: dict[str, object] = {
        "class_weight": 1.0, "reconstruct": "none", "divergence_weight": 0.2, "random_share": 1.0,
        "balance_weight": 0.0, "decorrelation_weight": 0.0, "contrast_weight": 0.0, "ce_weight": 0.0,
        "ms_weight": 0.0,
    }  # fmt: skip
    return Bottlenecks(**settings | changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """End-to-end training of an image encoder."""

    kind: str = "twin-bottleneck"  # tells it from ml.methods.compact_metric.Config in a recipe
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    bottlenecks: Bottlenecks = field(default_factory=Bottlenecks)

    def __post_init__(self) -> None:
        if self.kind != "twin-bottleneck":
            raise ValueError(f"kind is {self.kind!r}, expected 'twin-bottleneck'")


class _Parts(nn.Module):
    """The encoder, and what exists in training only: all of it always, so that two forms start from one draw."""

    def __init__(self, encoder: TwoHeaded, settings: Bottlenecks, classes: int, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        code_bits = encoder.code_head.layers[-1].out_features
        dimension, features = encoder.embedding_head.out_features, encoder.feature_size
        assert isinstance(code_bits, int)
        self.standardise = nn.BatchNorm1d(features, affine=False)
        source = code_bits if settings.reconstruct == "bits" else dimension
        self.graph = GraphConvolution(dimension)
        self.decoder = decoder(source, settings.decoder_hidden, features)
        self.code_critic = critic(code_bits, settings.critic_hidden)
        self.latent_critic = critic(dimension, settings.critic_hidden)
        self.centres = nn.Parameter(torch.randn(classes, dimension))
        self.code_classes = nn.Linear(code_bits, outputs)
        self.embedding_classes = nn.Linear(dimension, outputs)


class TwinBottleneckTrainer:
    """Trains a two-headed encoder with labels, some labels or none. Initial weights: torch's global seed."""

    def __init__(
        self,
        settings: Bottlenecks,
        encoder: TwoHeaded,
        *,
        classes: int,
        epochs: int,
        seed: int = 0,
        label_sets: Tensor | None = None,
        label_counts: Tensor | None = None,
        compiled: bool = False,
    ) -> None:
        """classes: C >= 2; a batch's labels are in [0, C), or -1 without label.

        label_sets: (C, K) in {0, 1}: the K labels that class c's images carry; the class head then tells those
        (binary cross-entropy, weighted by label_counts (K,), images per label) instead of the class. epochs:
        of the whole training. seed: of thresholds and prior draws. compiled: as CompactMetricTrainer.
        """
        if classes < 2:
            raise ValueError(f"{classes} classes, at least 2 are needed")
        if label_sets is not None and (label_counts is None or label_sets.shape[0] != classes):
            raise ValueError(
                f"label_sets are {tuple(label_sets.shape)}, expected ({classes}, K) and label_counts"
            )
        self.settings, self.epochs, self.seed, self.epoch = settings, epochs, seed, 0
        self.label_sets = label_sets
        self.weights = None if label_counts is None else label_weights(label_counts)
        outputs = classes if label_sets is None else label_sets.shape[1]
        self.parts = _Parts(encoder, settings, classes, outputs)
        self.parts.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parts.train()
        self._features = torch.compile(encoder.features) if compiled else encoder.features
        self._generator = torch.Generator().manual_seed(seed)

    def start_epoch(self, epoch: int) -> None:
        """Epoch `epoch` (from 0) begins; its draws depend on its number alone."""
        self.epoch = epoch
        self._generator.manual_seed(self.seed * 1_000_003 + epoch)

    def module(self) -> nn.Module:
        """Everything that is optimised, critics included."""
        return self.parts

    def encoder(self) -> TwoHeaded:
        """The live (not averaged) encoder."""
        return self.parts.encoder

    def training_step(self, batch: Batch) -> StepOutput:
        """The loss of one batch: the critics' and the encoder's together, their gradients being disjoint.

        Under autocast the trunk alone runs in half precision.
        """
        features = gathered(self._features(batch.images))
        with torch.autocast(batch.images.device.type, enabled=False):
            terms, critics = self.losses(features.float(), batch.labels)
            loss = torch.stack([*terms.values(), *critics.values()]).sum()
        logs = {name: float(value.detach()) for name, value in (terms | critics).items()}
        return StepOutput(loss=loss, logs=logs)

    def losses(self, features: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(B, F), (B,) -> weighted terms of the encoder's loss, and of the critics'."""
        settings, parts = self.settings, self.parts
        logits, embeddings = parts.encoder.heads(features)
        bits, probabilities = binary_bottleneck(logits, self._thresholds(logits))
        terms = self._code_terms(bits, probabilities, embeddings)
        terms |= self._label_terms(bits, embeddings, labels)
        latent = self._latent(bits, embeddings) if self._uses_graph else None
        if settings.reconstruct != "none" and settings.reconstruction_weight:
            source = 2 * bits - 1 if latent is None else latent
            terms["reconstruction"] = settings.reconstruction_weight * self._reconstruction(source, features)
        if not settings.adversarial_weight:
            return terms, {}
        of_encoder, critics = self._adversarial(bits, latent)
        return terms | of_encoder, critics

    @property
    def _uses_graph(self) -> bool:
        return self.settings.reconstruct == "graph"

    def _thresholds(self, logits: Tensor) -> Tensor | float:
        """0.5, or in random_share of the batches uniform draws."""
        share = self.settings.random_share
        if share == 0 or float(torch.rand((), generator=self._generator)) >= share:
            return 0.5
        return torch.rand(logits.shape, generator=self._generator).to(logits)

    def _code_terms(self, bits: Tensor, probabilities: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
        settings = self.settings
        terms = {}
        if settings.balance_weight:
            terms["balance"] = settings.balance_weight * probability_balance_loss(probabilities)
        if settings.decorrelation_weight:
            terms["decorrelation"] = settings.decorrelation_weight * decorrelation_loss(probabilities)
        if settings.divergence_weight:
            terms["divergence"] = settings.divergence_weight * bernoulli_divergence(probabilities)
        if settings.relation_weight:
            terms["relation"] = settings.relation_weight * relation_loss(bits, embeddings)
        return terms

    def _label_terms(self, bits: Tensor, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Class heads and metric losses, over the labelled images of the batch; none when there are none."""
        settings, known = self.settings, labels >= 0
        if not bool(known.any()):
            return {}
        bits, embeddings, labels = bits[known], embeddings[known], labels[known]
        terms = {}
        eta = settings.class_weight
        if 3 * self.epoch >= 2 * self.epochs:
            eta *= settings.late_class_share
        if eta and settings.class_head != "embedding":
            terms["code_class"] = eta * self._class_loss(self.parts.code_classes(2 * bits - 1), labels)
        if eta and settings.class_head != "bits":
            terms["embedding_class"] = eta * self._class_loss(
                self.parts.embedding_classes(embeddings * settings.scale), labels
            )
        if settings.contrast_weight:
            signs = (2 * bits - 1) / bits.shape[1] ** 0.5
            terms["contrast"] = settings.contrast_weight * supervised_contrastive_loss(
                signs, labels, temperature=settings.contrast_temperature
            )
        if settings.ce_weight:
            terms["ce"] = settings.ce_weight * cosine_cross_entropy(
                embeddings, self.parts.centres, labels,
                scale=settings.scale, label_smoothing=settings.label_smoothing,
            )  # fmt: skip
        if settings.ms_weight and self.epoch >= settings.ms_from_epoch:
            terms["ms"] = settings.ms_weight * multi_similarity_loss(embeddings, labels)
        return terms

    def _class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.label_sets is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        assert self.weights is not None
        targets = self.label_sets[labels].float()
        smoothed = targets + self.settings.label_smoothing * (0.5 - targets)
        return weighted_binary_cross_entropy(logits, smoothed, self.weights)

    def _latent(self, bits: Tensor, embeddings: Tensor) -> Tensor:
        """z': the embeddings after the graph that the bits draw."""
        settings = self.settings
        adjacency = code_adjacency(
            bits, exponent=settings.adjacency_exponent, nearest=settings.adjacency_nearest
        )
        spread: Tensor = self.parts.graph(embeddings, normalised(adjacency))
        if settings.graph_residual:
            return embeddings + spread
        return torch.sigmoid(spread) if settings.has_sigmoid else spread

    def _reconstruction(self, source: Tensor, features: Tensor) -> Tensor:
        """Half the mean squared error over items and dimensions, of standardised features."""
        target = self.parts.standardise(features.detach())
        return 0.5 * F.mse_loss(self.parts.decoder(source), target)

    def _adversarial(
        self, bits: Tensor, latent: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The critic on the bits, and on z' where there is a graph: (encoder's terms, critics' losses)."""
        weight, parts = self.settings.adversarial_weight, self.parts
        code_draw = torch.randint(0, 2, bits.shape, generator=self._generator).to(bits)
        terms = {"code_imitation": weight * imitation_loss(parts.code_critic, bits)}
        critics = {"code_critic": critic_loss(parts.code_critic, code_draw, bits)}
        if latent is not None:
            draw = torch.rand if self.settings.has_sigmoid else torch.randn
            drawn = draw(latent.shape, generator=self._generator).to(latent)
            terms["latent_imitation"] = weight * imitation_loss(parts.latent_critic, latent)
            critics["latent_critic"] = critic_loss(parts.latent_critic, drawn, latent)
        return terms, critics


def relation_loss(bits: Tensor, embeddings: Tensor) -> Tensor:
    """Mean squared difference between code similarity and cosine over all pairs of different images.

    bits: (B, L) in {0, 1}; embeddings: (B, D) unit, without gradient: the codes follow, they do not lead. B >= 2.
    """
    signs = 2 * bits - 1
    codes = signs @ signs.T / bits.shape[1]
    wanted = (embeddings @ embeddings.T).detach()
    other = ~torch.eye(len(bits), dtype=torch.bool, device=bits.device)
    return (codes - wanted)[other].square().mean()
