"""What a lifelong increment moves: the image code head and the text code head, into one code space."""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.models.encoder import CodeHead
from ml.models.text import TextConfig, TextEncoder

_CHUNK = 8_192


class CrossModalHeads(nn.Module):
    """Pooled image features (B, F) and hashed texts (B, V) -> code logits (B, c). Outputs are their tanh."""

    def __init__(
        self, features: int, *, hidden: int, code_bits: int, words: int = 0, text_hidden: int = 128
    ) -> None:
        """words: V, the width of hashed texts; 0 for a catalogue without words."""
        super().__init__()
        self.image = CodeHead(features, hidden, code_bits)
        self.text = (
            TextEncoder(TextConfig(buckets=words, hidden=text_hidden, code_bits=code_bits)) if words else None
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, c) image outputs in (-1, 1)."""
        return torch.tanh(self.image(features))

    def text_outputs(self, hashed: Tensor) -> Tensor:
        """(B, V) -> (B, c) text outputs in (-1, 1). Raises ValueError when there is no text head."""
        if self.text is None:
            raise ValueError("these heads were made without words")
        return torch.tanh(self.text(hashed))


class LabelNetwork(nn.Module):
    """(B, L) label rows -> (B, c) outputs in (-1, 1): the bridge between modalities in the base stage, then dropped."""

    def __init__(self, labels: int, hidden: int, code_bits: int) -> None:
        super().__init__()
        self.layers = CodeHead(labels, hidden, code_bits)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, L) -> (B, c)."""
        return torch.tanh(self.layers(rows))


def settled(parent: CrossModalHeads, learned: CrossModalHeads, share: float) -> CrossModalHeads:
    """The learned heads with the image head's weights only `share` (0 to 1) of the way from the parent's.

    Source: weight-space ensembles (WiSE-FT, arXiv 2109.01903). Raises ValueError for another share.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, allowed: 0 to 1")
    heads, before = copy.deepcopy(learned), parent.image.state_dict()
    heads.image.load_state_dict(
        {name: before[name].lerp(value, share) for name, value in learned.image.state_dict().items()}
    )
    return heads


@torch.no_grad()
def outputs_of(head: nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, any) -> (N, c) logits of a code head, in chunks."""
    parts = [
        head(torch.from_numpy(inputs[start : start + _CHUNK])).numpy()
        for start in range(0, len(inputs), _CHUNK)
    ]
    width = next(reversed(list(head.parameters()))).shape[0]
    return np.concatenate([np.empty((0, width), np.float32), *parts])


def signs_of_logits(logits: NDArray[np.float32]) -> NDArray[np.int8]:
    """(N, c) -> (N, c) of -1 / +1; the sign of exactly 0 is +1, as everywhere."""
    return np.where(logits >= 0, 1, -1).astype(np.int8)
