"""The network that puts words into the code space of the images: hashed text to code logits."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.models.encoder import CodeHead

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Shape of the text encoder."""

    buckets: int = 4096  # of ml.data.words.WordHasher, at least 256
    hidden: int = 256  # width of the hidden layer, 8 to 1024
    code_bits: int = 128  # L, a multiple of 8, 8 to 256

    def __post_init__(self) -> None:
        if self.buckets < 256 or not 8 <= self.hidden <= 1024:
            raise ValueError(f"buckets is {self.buckets} (at least 256), hidden {self.hidden} (8 to 1024)")
        if self.code_bits % 8 or not 8 <= self.code_bits <= 256:
            raise ValueError(f"code_bits is {self.code_bits}, it must be a multiple of 8, 8 to 256")


class TextEncoder(nn.Module):
    """(B, buckets) hashed texts -> (B, L) code logits, bit = 1[logit >= 0].

    A text without any word (zeros) gets the code that the biases alone give. It is the same for every such
    text and says nothing of what was meant: whoever ranks by it ranks by chance.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.code_head = CodeHead(config.buckets, config.hidden, config.code_bits)

    def forward(self, hashed: Tensor) -> Tensor:
        """(B, buckets) -> (B, L)."""
        logits: Tensor = self.code_head(hashed)
        return logits

    def arrays(self) -> Arrays:
        """Every weight by its name, as copies: what a safetensors file holds and ml.text_encoder serves."""
        return {name: value.float().cpu().numpy().copy() for name, value in self.state_dict().items()}


def text_encoder_from(arrays: Arrays) -> TextEncoder:
    """The encoder whose `arrays()` these are. Raises ValueError when a name or a shape does not fit."""
    try:
        hidden, buckets = arrays["code_head.layers.0.weight"].shape
        config = TextConfig(buckets=buckets, hidden=hidden, code_bits=len(arrays["code_head.layers.3.bias"]))
        encoder = TextEncoder(config)
        encoder.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in arrays.items()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"these are not the weights of a text encoder: {error}") from error
    return encoder
