"""What a new encoder is held to, made from the codes and embeddings that an older version stored."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml.base_version.stored import stored_of
from ml.evaluation.retrieval import signs_of
from ml.losses.fixed_codes import direct_pair_loss

NAMES = ("bag", "boat", "door", "shoe")
LABELS = np.array([0, 0, 0, 1, 1, 3, 3, 3, 3, -1])  # of "door" nothing is stored


def stored_arrays() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes of 16 bits and unit embeddings."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (len(LABELS), 2), dtype=np.uint8)
    embeddings = rng.standard_normal((len(LABELS), 3)).astype(np.float32)
    return codes, embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def majority(codes: NDArray[np.uint8], label: int) -> list[float]:
    return [1.0 if total >= 0 else -1.0 for total in signs_of(codes[label == LABELS]).sum(axis=0)]


def test_a_class_is_held_to_its_mean_embedding_and_its_majority_code() -> None:
    codes, embeddings = stored_arrays()

    stored = stored_of(codes, embeddings, LABELS, NAMES)

    assert stored.space.counts.tolist() == [3, 2, 0, 4]
    mean = embeddings[3:5].mean(axis=0)
    assert stored.space.prototypes[1].numpy() == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    assert stored.codes is not None
    assert [stored.codes.words[label].tolist() for label in (0, 1, 3)] == [
        majority(codes, label) for label in (0, 1, 3)
    ]
    assert stored.codes.words[2].tolist() == [0.0] * 16


def test_the_pair_loss_is_that_of_every_entry_at_its_majority_code_with_centred_targets() -> None:
    codes, embeddings = stored_arrays()
    stored = stored_of(codes, embeddings, LABELS, NAMES)
    outputs = torch.tanh(torch.randn(4, 16, generator=torch.Generator().manual_seed(1)))
    asked, known = np.arange(4), LABELS[:9]

    one_class = (
        3**2 + 2**2 + 4**2
    ) / 9**2  # the share of pairs that are of one class, which is the mean cosine
    same = torch.from_numpy(asked[:, None] == known).float()
    entries = torch.tensor([majority(codes, label) for label in known.tolist()])
    direct = direct_pair_loss(outputs, entries, (same - one_class) / (1 - one_class))

    assert stored.codes is not None
    assert float(stored.codes.pairs.loss(outputs, torch.from_numpy(asked))) == pytest.approx(
        float(direct), rel=1e-5
    )


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (LABELS[:9], NAMES, "10 codes, 10 embeddings, 9 labels"),
        (np.where(LABELS > 0, -1, LABELS), NAMES, "images of 1 classes, at least 2"),
        (LABELS, NAMES[:3], "a label is 3, allowed: -1 to 2"),
    ],
)
def test_what_cannot_be_held_to_is_refused(
    labels: NDArray[np.int64], names: tuple[str, ...], message: str
) -> None:
    codes, embeddings = stored_arrays()

    with pytest.raises(ValueError, match=message):
        stored_of(codes, embeddings, labels, names)
