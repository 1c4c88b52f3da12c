"""The engine that serves and the engine that trains give one code, and so does the textbook's form."""

import ml.threads  # noqa: F401  isort: skip

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.encoder_speed import CLEAR_LOGIT, agreement, decoded, eager_outputs, evenly, trained_encoder
from benchmarks.textbook_encoder import TextbookInvolution, textbook
from ml.artifacts import Bundle, load_bundle
from ml.base_version.sets import open_packs, parts_of
from ml.data.reserved import load_reserved
from ml.models.encoder import ServingGraph
from ml.models.involution import Involution
from ml.protocol import Pixels


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="module")
def pixels(data_packs: Path, bundle: Bundle) -> Pixels:
    """Forty real photos that nothing was trained on, of all packs."""
    queries = parts_of(open_packs([data_packs]), load_reserved()).queries
    return decoded(evenly(queries, 40), bundle.manifest.input_size)


def test_serving_and_training_engine_give_the_same_bits_of_real_photos(
    bundle: Bundle, pixels: Pixels
) -> None:
    training = ServingGraph(trained_encoder(bundle, bundle.manifest.input_size)).eval()
    found = agreement(bundle.encoder().outputs(pixels)[0], eager_outputs(training, pixels)[0])

    assert (found.photos, found.bits) == (40, 40 * bundle.manifest.code_bits)
    assert found.differing <= 1  # one in 5,120 may sit on the fence; the benchmark counts 128,000
    assert found.largest_logit_of_a_differing_bit <= CLEAR_LOGIT
    assert found.largest_difference < 1e-3


def test_the_textbook_form_gives_the_same_outputs_and_leaves_the_encoder_as_it_was(
    bundle: Bundle, pixels: Pixels
) -> None:
    encoder = trained_encoder(bundle, bundle.manifest.input_size)
    plain = textbook(encoder)
    ours = eager_outputs(ServingGraph(encoder).eval(), pixels[:8])
    theirs = eager_outputs(ServingGraph(plain).eval(), pixels[:8])

    assert TextbookInvolution in {type(module) for module in plain.modules()}
    assert TextbookInvolution not in {type(module) for module in encoder.modules()}
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, atol=2e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_textbook_involution_is_the_same_operator_in_groups_and_with_a_stride(stride: int) -> None:
    torch.manual_seed(0)
    ours = Involution(4, kernel_size=3, stride=stride, groups=2)
    theirs = TextbookInvolution(4, kernel_size=3, stride=stride, groups=2)
    theirs.load_state_dict(ours.state_dict())
    maps = torch.randn(2, 4, 8, 8)

    assert torch.allclose(ours(maps), theirs(maps), atol=1e-5)


def test_a_differing_bit_is_counted_and_judged_by_its_larger_logit() -> None:
    serving = np.ones((1000, 128), np.float32)
    training = serving.copy()
    serving[3, 5], training[3, 5] = 0.0, -9e-5
    one = agreement(serving, training)
    training[3, 5] = -1.1e-4
    too_clear = agreement(serving, training)
    serving[:2, 7], training[:2, 7] = 1e-6, -1e-6
    training[3, 5] = -9e-5
    too_many = agreement(serving, training)

    assert (one.differing, one.bits, one.holds) == (1, 128_000, True)
    assert one.largest_logit_of_a_differing_bit == pytest.approx(9e-5)
    assert (too_clear.differing, too_clear.holds) == (1, False)
    assert (too_many.differing, too_many.holds) == (3, False)
    assert agreement(serving, serving).largest_logit_of_a_differing_bit == 0.0
