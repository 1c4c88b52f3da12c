"""Serves an exported encoder with ONNX Runtime: one thread, no spinning, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ml.models.config import EncoderConfig
from ml.protocol import Encoded, Pixels, checked_batch, pack_bits

# Bounds the memory of one call; a larger batch is encoded in parts with the same result.
CHUNK = 64

Floats = NDArray[np.float32]


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

    def outputs(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """(B, S, S, 3) uint8 RGB -> code logits (B, L) and unit embeddings (B, D), before bits are taken."""
        widths = {"code_logits": self.code_bits, "embeddings": self.dimension}
        logits, embeddings = _outputs(self._session, pixels, self.input_size, widths)
        return logits, embeddings


@dataclass(frozen=True, slots=True)
class FeatureEncoder:
    """An `ml.protocol.Encoder` that also tells the trunk's pooled features; threads may share it."""

    input_size: int
    code_bits: int
    dimension: int
    feature_size: int  # F
    _feature: str = field(repr=False)  # the graph's name for them
    _session: ort.InferenceSession = field(repr=False)

    def encode(self, pixels: Pixels) -> Encoded:
        """(B, S, S, 3) uint8 RGB -> what `OnnxEncoder.encode` gives, to the bit."""
        encoded, _ = self.encode_with_features(pixels)
        return encoded

    def encode_with_features(self, pixels: Pixels) -> tuple[Encoded, Floats]:
        """(B, S, S, 3) uint8 RGB -> codes and embeddings, and pooled features (B, F); B may be 0."""
        widths = {
            "code_logits": self.code_bits,
            "embeddings": self.dimension,
            self._feature: self.feature_size,
        }
        logits, embeddings, features = _outputs(self._session, pixels, self.input_size, widths)
        return Encoded(packed_codes=pack_bits(logits), embeddings=embeddings), features


def open_encoder_of(graph: bytes, config: EncoderConfig) -> OnnxEncoder:
    """`open_onnx_encoder` with the shapes that `config` promises."""
    return open_onnx_encoder(
        graph, input_size=config.input_size, code_bits=config.code_bits, dimension=config.dimension
    )


def open_onnx_encoder(model: bytes, *, input_size: int, code_bits: int, dimension: int) -> OnnxEncoder:
    """Load an exported graph from memory (so it can name no other file) and check its shapes.

    Raises ValueError when the graph cannot be loaded or its inputs and outputs are not those given.
    """
    session = _session(model)
    _check_ports(session, input_size, {"code_logits": code_bits, "embeddings": dimension})
    return OnnxEncoder(input_size=input_size, code_bits=code_bits, dimension=dimension, _session=session)


def open_feature_encoder(graph: bytes, *, input_size: int, code_bits: int, dimension: int) -> FeatureEncoder:
    """`open_onnx_encoder` for the same graph with the tensor that both heads are given as one more output.

    Raises ValueError as that does, and when the graph has no such tensor.
    """
    # onnx loads slowly, and the processes that answer shoppers need no features.
    from ml.models.graph import graph_with_feature  # noqa: PLC0415

    changed, name, feature_size = graph_with_feature(graph)
    session = _session(changed)
    widths = {"code_logits": code_bits, "embeddings": dimension, name: feature_size}
    _check_ports(session, input_size, widths)
    return FeatureEncoder(
        input_size=input_size, code_bits=code_bits, dimension=dimension, feature_size=feature_size,
        _feature=name, _session=session,
    )  # fmt: skip


def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises bare classes of its own, with no shared base
        raise ValueError(f"ONNX Runtime cannot load the graph: {error}") from error


def _check_ports(session: ort.InferenceSession, input_size: int, widths: Mapping[str, int]) -> None:
    """widths: of each output, by its name."""
    found = {
        port.name: (port.type, list(port.shape[1:]))
        for port in [*session.get_inputs(), *session.get_outputs()]
    }
    expected = {
        "pixels": ("tensor(uint8)", [input_size, input_size, 3]),
        **{name: ("tensor(float)", [width]) for name, width in widths.items()},
    }
    if found != expected:
        raise ValueError(f"the graph's inputs and outputs are {found}, expected {expected}")


def _outputs(
    session: ort.InferenceSession, pixels: Pixels, input_size: int, widths: Mapping[str, int]
) -> list[Floats]:
    """Each output (B, width), in the order of `widths`; B may be 0."""
    checked_batch(pixels, input_size)
    whole = [np.empty((len(pixels), width), dtype=np.float32) for width in widths.values()]
    for start in range(0, len(pixels), CHUNK):
        part = slice(start, start + CHUNK)
        found = session.run(list(widths), {"pixels": np.ascontiguousarray(pixels[part])})
        for rows, values in zip(whole, found, strict=True):
            rows[part] = values
    return whole
