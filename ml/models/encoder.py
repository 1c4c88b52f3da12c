"""Trunk, code head and embedding head put together: the shape every method shares (design, section 2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.models.compact import CompactTrunk
from ml.models.config import CompactConfig, EncoderConfig
from ml.models.residual import ResidualTrunk


class CodeHead(nn.Module):
    """(B, F) -> (B, L) code logits: Linear, GELU, LayerNorm, Linear. Bit = 1[logit >= 0]."""

    def __init__(self, features: int, hidden: int, code_bits: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, code_bits)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, L)."""
        logits: Tensor = self.layers(features)
        return logits


class TwoHeaded(nn.Module):
    """What every encoder is behind its trunk: pooled features -> code logits and unit embeddings."""

    def __init__(self, features: int, *, code_hidden: int, code_bits: int, dimension: int) -> None:
        super().__init__()
        self.feature_size, self.code_bits, self.dimension = features, code_bits, dimension
        self.code_head = CodeHead(features, code_hidden, code_bits)
        self.embedding_head = nn.Linear(features, dimension)

    def features(self, inputs: Tensor) -> Tensor:
        """Inputs of any kind -> (B, F)."""
        raise NotImplementedError

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) -> ((B, L) code logits, (B, D) unit embeddings)."""
        embeddings = self.embedding_head(features).float()  # unit length needs float32, also under autocast
        return self.code_head(features).float(), F.normalize(embeddings, dim=1)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs -> ((B, L) code logits, (B, D) unit embeddings)."""
        return self.heads(self.features(inputs))


class ImageEncoder(TwoHeaded):
    """(B, C, S, S) float pixels in [0, 1] -> (code logits (B, L), embeddings (B, D) of unit L2 norm)."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        trunk: CompactTrunk | ResidualTrunk = (
            CompactTrunk(config.trunk)
            if isinstance(config.trunk, CompactConfig)
            else ResidualTrunk(config.trunk)
        )
        super().__init__(
            trunk.feature_size,
            code_hidden=config.code_hidden, code_bits=config.code_bits, dimension=config.dimension,
        )  # fmt: skip
        self.config = config
        self.trunk = trunk
        self.register_buffer("mean", torch.tensor(config.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, -1, 1, 1), persistent=False)

    def features(self, inputs: Tensor) -> Tensor:
        """(B, C, S, S) in [0, 1] -> (B, F) pooled trunk features. S may differ from input_size."""
        pooled: Tensor = self.trunk((inputs - self.mean) / self.std)
        return pooled


class FeatureEncoder(TwoHeaded):
    """The heads alone, over features that a frozen trunk gave: (B, F) -> (code logits, unit embeddings).

    Any code length is allowed: it is for training on cached features, not for serving.
    """

    def features(self, inputs: Tensor) -> Tensor:
        """(B, F), as they are."""
        return inputs


class ServingGraph(nn.Module):
    """The exported form: (B, S, S, 3) uint8 RGB -> (code logits, embeddings), normalisation inside."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, S, 3) uint8 -> ((B, L), (B, D))."""
        images = pixels.permute(0, 3, 1, 2).float() / 255.0  # (B, 3, S, S)
        if self.encoder.config.trunk.channels == 1:
            images = images.mean(dim=1, keepdim=True)
        codes, embeddings = self.encoder(images)
        return codes, embeddings
