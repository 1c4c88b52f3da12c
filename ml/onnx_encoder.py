"""Serves an exported encoder with ONNX Runtime: one thread, no spinning, no torch."""

from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ml.models.config import EncoderConfig
from ml.protocol import Encoded, Pixels, checked_batch, pack_bits

# Bounds the memory of one call; a larger batch is encoded in parts with the same result.
CHUNK = 64


@dataclass(frozen=True, slots=True)
class OnnxEncoder:
    """An `ml.protocol.Encoder` over one exported graph; threads may share it."""

    input_size: int
    code_bits: int
    dimension: int
    _session: ort.InferenceSession = field(repr=False)

    def encode(self, pixels: Pixels) -> Encoded:
        """(B, S, S, 3) uint8 RGB -> packed codes (B, L // 8) and unit embeddings (B, D); B may be 0."""
        logits, embeddings = self.outputs(pixels)
        return Encoded(packed_codes=pack_bits(logits), embeddings=embeddings)

    def outputs(self, pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(B, S, S, 3) uint8 RGB -> code logits (B, L) and unit embeddings (B, D), before bits are taken."""
        checked_batch(pixels, self.input_size)
        logits = np.empty((len(pixels), self.code_bits), dtype=np.float32)
        embeddings = np.empty((len(pixels), self.dimension), dtype=np.float32)
        for start in range(0, len(pixels), CHUNK):
            part = slice(start, start + CHUNK)
            logits[part], embeddings[part] = self._session.run(
                None, {"pixels": np.ascontiguousarray(pixels[part])}
            )
        return logits, embeddings


def open_encoder_of(graph: bytes, config: EncoderConfig) -> OnnxEncoder:
    """`open_onnx_encoder` with the shapes that `config` promises."""
    return open_onnx_encoder(
        graph, input_size=config.input_size, code_bits=config.code_bits, dimension=config.dimension
    )


def open_onnx_encoder(model: bytes, *, input_size: int, code_bits: int, dimension: int) -> OnnxEncoder:
    """Load an exported graph from memory (so it can name no other file) and check its shapes.

    Raises ValueError when the graph cannot be loaded or its inputs and outputs are not those given.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises bare classes of its own, with no shared base
        raise ValueError(f"ONNX Runtime cannot load the graph: {error}") from error
    found = {
        port.name: (port.type, list(port.shape[1:]))
        for port in [*session.get_inputs(), *session.get_outputs()]
    }
    expected = {
        "pixels": ("tensor(uint8)", [input_size, input_size, 3]),
        "code_logits": ("tensor(float)", [code_bits]),
        "embeddings": ("tensor(float)", [dimension]),
    }
    if found != expected:
        raise ValueError(f"the graph's inputs and outputs are {found}, expected {expected}")
    return OnnxEncoder(input_size=input_size, code_bits=code_bits, dimension=dimension, _session=session)
