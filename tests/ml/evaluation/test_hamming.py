"""Metrics counted per distance against those of sorted rankings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ml.evaluation import hamming
from ml.evaluation.hamming import hamming_values
from ml.evaluation.metrics import Ranking, average_precision, recall_at
from ml.evaluation.retrieval import retrieval_values, signs_of

Ints = NDArray[np.int64]
Codes = NDArray[np.uint8]


def differing_bits(one: Codes, others: Codes) -> Ints:
    """(N,) by counting characters."""
    return np.array(
        [sum(int(a ^ b).bit_count() for a, b in zip(one.tolist(), other.tolist())) for other in others]
    )


def by_oracle(code: Codes, label: int, codes: Codes, labels: Ints, left_out: int | None) -> dict[str, float]:
    distances = differing_bits(code, codes)
    ranking = Ranking.of(
        -distances.astype(float), labels, np.arange(len(codes)), label=label, left_out=left_out
    )
    if label < 0 or not ranking.relevant.any():
        return dict.fromkeys(
            ("recall_at_1", "map_at_100", "map_at_1000", "map", "precision_within_2"), float("nan")
        )
    near = ranking.relevant[ranking.scores >= -2]
    return {
        "recall_at_1": recall_at(ranking, 1),
        "map_at_100": average_precision(ranking, 100),
        "map_at_1000": average_precision(ranking, 1000),
        "map": average_precision(ranking),
        "precision_within_2": float(near.mean()) if len(near) else 0.0,
    }


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([1, 3, 40, 130, 1200]),
    width=st.sampled_from([1, 2, 4, 8, 16]),
    leave_out=st.booleans(),
    block=st.sampled_from([1, 3_000, 1_000_000]),
)
def test_every_value_equals_the_oracle_where_distances_tie_in_their_hundreds(
    seed: int, size: int, width: int, leave_out: bool, block: int
) -> None:
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 256, (9, width)).astype(np.uint8)  # few codes: near and equal ones abound
    codes = patterns[rng.integers(0, 9, size + 4)] ^ (1 << rng.integers(0, 8, (size + 4, width))).astype(
        np.uint8
    )
    labels = rng.integers(-1, 1 + seed % 6, size + 4)
    left_out = rng.integers(-1, size, 4) if leave_out else None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hamming, "_BLOCK_PAIRS", block)
        found = hamming_values(codes[:4], labels[:4], codes[4:], labels[4:], left_out=left_out).per_query()
    for row in range(4):
        out = None if left_out is None or left_out[row] < 0 else int(left_out[row])
        expected = by_oracle(codes[row], int(labels[row]), codes[4:], labels[4:], out)
        assert {name: values[row] for name, values in found.items()} == pytest.approx(
            expected, abs=1e-10, nan_ok=True
        )


@pytest.mark.parametrize("bits", [16, 32, 64, 128])
def test_counting_and_sorting_agree_on_galleries_of_every_code_length(bits: int) -> None:
    rng = np.random.default_rng(bits)
    labels = rng.integers(0, 30, 2_600)
    centres = rng.integers(0, 2, (30, bits))
    codes = np.packbits(centres[labels] ^ (rng.random((2_600, bits)) < 0.25), axis=1)
    signs = signs_of(codes)

    found = hamming_values(codes[:100], labels[:100], codes[100:], labels[100:]).per_query()
    general = retrieval_values(
        signs[:100], labels[:100], signs[100:], labels[100:], thousand=True
    ).per_query()

    shared = set(found) & set(general)
    assert shared == {"recall_at_1", "map_at_100", "map_at_1000", "map"}
    for name in shared:
        assert found[name] == pytest.approx(general[name], abs=1e-10)


def test_a_hand_made_ranking_has_its_hand_made_values() -> None:
    gallery = np.array([[0b0], [0b1], [0b10], [0b11], [0b111], [0b11111111]], np.uint8)
    labels = np.array([0, 1, 0, 0, 1, 1])

    found = hamming_values(np.array([[0]], np.uint8), np.array([1]), gallery, labels)

    # Distances 0 | 1 1 | 2 | 3 | 8; the one relevant of the two at distance 1 is first or second of them.
    average = ((1 / 2 + 1 / 3) / 2 + 2 / 5 + 3 / 6) / 3
    assert {name: values[0] for name, values in found.per_query().items()} == pytest.approx(
        {
            "recall_at_1": 0.0,
            "map_at_100": average,
            "map_at_1000": average,
            "map": average,
            "precision_within_2": 1 / 4,
        }
    )
    assert hamming_values(
        np.array([[0b10]], np.uint8), np.array([0]), gallery, labels
    ).recall_at_1.tolist() == [1.0]


def test_of_equally_near_entries_the_first_row_answers() -> None:
    codes, query = np.array([[1], [1]], np.uint8), np.array([[1]], np.uint8)
    assert hamming_values(query, np.array([0]), codes, np.array([0, 1])).recall_at_1.tolist() == [1.0]
    assert hamming_values(query, np.array([0]), codes, np.array([1, 0])).recall_at_1.tolist() == [0.0]


def test_an_empty_gallery_and_a_class_nobody_has_give_no_value() -> None:
    codes = np.zeros((2, 2), np.uint8)
    empty = hamming_values(codes, np.array([0, -1]), codes[:0], np.array([], np.int64))
    foreign = hamming_values(codes, np.array([5, -1]), codes, np.array([0, -1]))
    for values in (empty, foreign):
        assert all(np.isnan(found).all() for found in values.per_query().values())
    assert np.isnan(empty.means()["map"])


def test_shapes_that_do_not_match_are_refused() -> None:
    codes, labels = np.zeros((2, 2), np.uint8), np.array([0, 1])
    with pytest.raises(ValueError, match=r"query codes are \(2, 2\) and gallery codes \(2, 1\)"):
        hamming_values(codes, labels, codes[:, :1], labels)
    with pytest.raises(ValueError, match="2 query codes with 1 labels"):
        hamming_values(codes, labels[:1], codes, labels)
    with pytest.raises(ValueError, match="left_out must give each of 2 queries a row below 2"):
        hamming_values(codes, labels, codes, labels, left_out=np.array([0, 2]))
