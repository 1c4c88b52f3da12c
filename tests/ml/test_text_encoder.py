"""Words to codes: the network, its form without torch, and what is refused."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ml.data.words import WordHasher
from ml.models.text import TextConfig, TextEncoder, text_encoder_from
from ml.protocol import pack_bits
from ml.text_encoder import TextWeights

CONFIG = TextConfig(buckets=256, hidden=32, code_bits=64)
TEXTS = ["Granny Smith", "gröna äpplen", "", "a nylon jacket, a nylon bag", "!!"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    encoder = TextEncoder(CONFIG)
    with torch.no_grad():  # no weight at the value it starts with, so that each one counts
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder.eval()


def logits_by_torch(encoder: TextEncoder, texts: list[str]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = encoder(torch.from_numpy(WordHasher(CONFIG.buckets)(texts))).numpy()
    return logits


def test_the_served_form_gives_the_logits_of_the_network(encoder: TextEncoder) -> None:
    served = TextWeights.of(encoder.arrays())
    found = served.encode(TEXTS)
    assert (str(found.dtype), found.shape, served.code_bits) == ("float32", (5, 64), 64)
    np.testing.assert_allclose(found, logits_by_torch(encoder, TEXTS), atol=1e-5)
    assert np.std(found[0] - found[1]) > 0.1  # words matter


def test_weights_survive_a_safetensors_file_byte_for_byte(encoder: TextEncoder) -> None:
    arrays = load(save(encoder.arrays()))
    restored = text_encoder_from(arrays)
    assert restored.config == CONFIG
    assert {name: value.tobytes() for name, value in restored.arrays().items()} == {
        name: value.tobytes() for name, value in encoder.arrays().items()
    }
    np.testing.assert_array_equal(
        TextWeights.of(arrays).encode(TEXTS), TextWeights.of(encoder.arrays()).encode(TEXTS)
    )


def test_arrays_are_copies_that_later_training_does_not_touch(encoder: TextEncoder) -> None:
    trained = text_encoder_from(encoder.arrays())
    arrays = trained.arrays()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.zero_()
    assert all(np.array_equal(arrays[name], value) for name, value in encoder.arrays().items())


def test_every_text_without_a_word_gets_the_one_code_of_the_biases(encoder: TextEncoder) -> None:
    served = TextWeights.of(encoder.arrays())
    with torch.inference_mode():
        expected = encoder(torch.zeros(1, CONFIG.buckets)).numpy()
    np.testing.assert_allclose(served.encode(["", "!!"]), np.repeat(expected, 2, axis=0), atol=1e-5)
    assert pack_bits(served.encode([""])).shape == (1, 8)
    assert served.encode([]).shape == (0, 64)


def test_training_moves_every_weight() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(CONFIG)
    encoder(torch.from_numpy(WordHasher(CONFIG.buckets)(TEXTS))).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())


def test_serving_loads_no_torch() -> None:
    program = "import sys, ml.text_encoder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_weights_that_do_not_fit_are_refused(encoder: TextEncoder) -> None:
    arrays = encoder.arrays()
    name = "code_head.layers.3.weight"
    with pytest.raises(ValueError, match=r"the arrays are \[\], expected \['code_head"):
        TextWeights.of({})
    with pytest.raises(ValueError, match=rf"{name} is \(64, 31\)"):
        TextWeights.of(arrays | {name: arrays[name][:, 1:]})
    with pytest.raises(ValueError, match=rf"{name} .* finite numbers"):
        TextWeights.of(arrays | {name: np.full_like(arrays[name], np.nan)})
    with pytest.raises(ValueError, match="not the weights of a text encoder"):
        text_encoder_from(arrays | {name: arrays[name][:, 1:]})
    with pytest.raises(ValueError, match="not the weights of a text encoder"):
        text_encoder_from({})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"buckets": 255}, "buckets is 255"),
        ({"hidden": 4}, r"hidden 4 \(8 to 1024\)"),
        ({"code_bits": 60}, "code_bits is 60"),
        ({"code_bits": 512}, "code_bits is 512"),
    ],
)
def test_shapes_out_of_range_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(CONFIG, **wrong)
