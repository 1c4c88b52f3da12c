"""The controls of the paper's argument and the server-size trunk: shapes, sizes, export, all from config alone."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from ml.config import config_from_dict
from ml.models.config import CompactConfig, EncoderConfig, ResidualConfig
from ml.models.encoder import ImageEncoder
from ml.models.export import export_onnx
from ml.models.involution import Involution
from ml.onnx_encoder import open_onnx_encoder

GREY: dict[str, Any] = {"mean": (0.3,), "std": (0.3,), "input_size": 28}
CONTROLS: dict[str, CompactConfig] = {
    "none": CompactConfig(front=()),
    "two": CompactConfig(front=("involution", "involution")),
    "three": CompactConfig(front=("involution",) * 3),
    "conv-only": CompactConfig(front=("convolution",)),
    "involution-only": CompactConfig(front=(), stage="involution"),
    "after the first": CompactConfig(
        front_position="after_first", involution_kernel=7, involution_groups=2, involution_reduction=4
    ),
    "relu": CompactConfig(activation="relu"),
    "shortcut": CompactConfig(front_shortcut=True),
    "pool": CompactConfig(downsampling="pool"),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_each_control_is_a_config_and_its_export_equals_eager(name: str) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(trunk=CONTROLS[name], input_size=32)
    encoder = ImageEncoder(config).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)

    served = open_onnx_encoder(export_onnx(encoder), input_size=32, code_bits=128, dimension=128)
    with torch.no_grad():
        _, expected = encoder(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0)

    assert np.abs(served.encode(pixels).embeddings - expected.numpy()).max() < 1e-4


def test_the_number_of_involutions_is_what_the_config_says() -> None:
    def count(config: CompactConfig) -> int:
        encoder = ImageEncoder(EncoderConfig(trunk=config))
        return sum(isinstance(module, Involution) for module in encoder.modules())

    assert [count(CompactConfig(front=("involution",) * n)) for n in range(4)] == [0, 1, 2, 3]
    assert count(CONTROLS["conv-only"]) == 0
    assert count(CONTROLS["involution-only"]) == 4


def test_the_convolution_control_has_the_size_of_the_method_file() -> None:
    """Section 3.3: a 3 x 3 convolution 3 -> 3 has 84 parameters."""
    with_front = ImageEncoder(EncoderConfig(trunk=CONTROLS["conv-only"]))
    without = ImageEncoder(EncoderConfig(trunk=CONTROLS["none"]))

    assert _parameters(with_front) - _parameters(without) == 84


def test_activation_is_swapped_everywhere() -> None:
    kinds = {type(m) for m in ImageEncoder(EncoderConfig(trunk=CONTROLS["relu"])).trunk.modules()}

    assert torch.nn.ReLU in kinds
    assert torch.nn.GELU not in kinds


def test_a_shortcut_passes_on_what_a_silent_involution_would_lose() -> None:
    torch.manual_seed(0)
    plain = ImageEncoder(EncoderConfig(trunk=CONTROLS["none"], input_size=32)).eval()
    encoder = ImageEncoder(EncoderConfig(trunk=CONTROLS["shortcut"], input_size=32)).eval()
    encoder.load_state_dict(plain.state_dict(), strict=False)
    involution = encoder.trunk.get_submodule("involution")
    assert isinstance(involution, Involution)
    with torch.no_grad():
        for parameter in involution.span.parameters():
            parameter.zero_()
        images = torch.rand(2, 3, 32, 32)

        assert torch.equal(encoder(images)[1], plain(images)[1])


def test_a_grey_encoder_reads_the_mean_of_the_colours() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(EncoderConfig(trunk=CompactConfig(channels=1), **GREY)).eval()
    served = open_onnx_encoder(export_onnx(encoder), input_size=28, code_bits=128, dimension=128)
    grey = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), dtype=np.uint8)

    with torch.no_grad():
        _, expected = encoder(torch.from_numpy(grey).permute(0, 3, 1, 2) / 255.0)

    assert np.allclose(served.encode(grey.repeat(3, axis=3)).embeddings, expected.numpy(), atol=1e-4)


def test_the_residual_trunk_has_the_same_heads_and_survives_a_manifest() -> None:
    config = EncoderConfig(trunk=ResidualConfig(widths=(16, 32), blocks=(1, 2), stem=8), input_size=32)
    read_back = config_from_dict(EncoderConfig, json.loads(json.dumps(asdict(config))))

    logits, embeddings = ImageEncoder(read_back).eval()(torch.rand(2, 3, 32, 32))

    assert read_back == config
    assert logits.shape == (2, 128)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(2), atol=1e-5)


def test_a_manifest_written_before_there_were_two_trunks_is_a_compact_one() -> None:
    old = {"trunk": {"widths": [32, 64, 64, 96], "strides": [2, 2, 2, 1]}, "input_size": 96}

    assert config_from_dict(EncoderConfig, old) == EncoderConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trunk": {"kind": "vit"}}, "'vit', allowed: compact, residual"),
        ({"trunk": {"kind": "residual", "blocks": [2]}}, "expected 3 values"),
        ({"trunk": {"front": ["involution"] * 4}}, "up to three"),
        ({"trunk": {"activation": "swish"}}, "'swish', allowed: gelu, relu"),
        ({"trunk": {"involution_groups": 2}}, "must divide 3"),
        ({"trunk": {"front_shortcut": True, "involution_stride": 2}}, "a front_shortcut needs 1"),
        ({"trunk": {"channels": 2}}, "allowed 1 and 3"),
        ({"trunk": {"channels": 1}}, "must have 1 values"),
    ],
)
def test_a_trunk_that_cannot_be_built_is_refused_by_name_and_value(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_dict(EncoderConfig, values)


def _parameters(encoder: ImageEncoder) -> int:
    return sum(parameter.numel() for parameter in encoder.parameters())
