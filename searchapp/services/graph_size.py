"""How large the graph of an encoder will be, without training or exporting it: both take longer than a click."""

import torch

from ml.artifacts import MAX_COMPACT_GRAPH_BYTES
from ml.models.config import CompactConfig, EncoderConfig
from ml.models.encoder import ImageEncoder
from ml.models.involution import Involution

# Beside four bytes a parameter, as measured: 7,227 and 7,543 on the trained weights budget and parity (one
# involution), 28,581 on an untrained encoder of six.
_GRAPH_BYTES, _INVOLUTION_BYTES = 3_000, 4_500


def graph_bytes(config: EncoderConfig) -> int:
    """About as many as the exported graph will have."""
    with torch.device("meta"):  # shapes only
        encoder = ImageEncoder(config)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    involutions = sum(isinstance(module, Involution) for module in encoder.modules())
    return 4 * parameters + _GRAPH_BYTES + _INVOLUTION_BYTES * involutions


def check_graph_size(config: EncoderConfig) -> None:
    """Raises ValueError for a compact encoder whose graph would be refused after its training."""
    size = graph_bytes(config) if isinstance(config.trunk, CompactConfig) else 0
    if size > MAX_COMPACT_GRAPH_BYTES:
        raise ValueError(
            f"config.method.encoder makes a file of about {size:,} bytes, allowed {MAX_COMPACT_GRAPH_BYTES:,}: "
            "give smaller widths, code_hidden, code_bits or dimension"
        )
