"""Measures of codes, against pairs and bits counted one by one."""

from itertools import combinations
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ml.evaluation.codes import code_diagnostics

Codes = NDArray[np.uint8]
Labels = NDArray[np.int64]


def entropy(values: list[int]) -> float:
    shares = [values.count(value) / len(values) for value in (0, 1)]
    return -sum(share * log2(share) for share in shares if share)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def one_by_one(codes: Codes, labels: Labels) -> dict[str, float]:
    words = [[int(bit) for byte in code for bit in f"{byte:08b}"] for code in codes.tolist()]
    width, classes = len(words[0]), sorted(set(labels.tolist()))
    inside: dict[int, list[list[int]]] = {
        one: [word for word, label in zip(words, labels) if label == one] for one in classes
    }
    gaps: dict[bool, list[float]] = {True: [], False: []}
    for (a, first), (b, second) in combinations(zip(words, labels.tolist()), 2):
        gaps[first == second].append(sum(x != y for x, y in zip(a, b)))
    columns = [[word[bit] for word in words] for bit in range(width)]
    information = [
        entropy(column)
        - sum(len(own) / len(words) * entropy([word[bit] for word in own]) for own in inside.values())
        for bit, column in enumerate(columns)
    ]
    varying = [column for column in columns if len(set(column)) == 2]
    correlations = [abs(float(np.corrcoef(a, b)[0, 1])) for a, b in combinations(varying, 2)]

    def tells(one: list[list[int]], other: list[list[int]]) -> bool:
        for bit in range(width):
            share, against = mean([w[bit] for w in one]), mean([w[bit] for w in other])
            if (share >= 0.95 and against <= 1 - 0.95) or (share <= 1 - 0.95 and against >= 0.95):
                return True
        return False

    rest = {one: [word for word, label in zip(words, labels) if label != one] for one in classes}
    alone = [float(tells(inside[one], rest[one])) for one in classes] if len(classes) > 1 else []
    pairs = [float(tells(inside[a], inside[b])) for a, b in combinations(classes, 2)]
    intra, inter = mean(gaps[True]), mean(gaps[False])
    return {
        "intra_class_distance": intra,
        "inter_class_distance": inter,
        "distance_ratio": intra / inter if inter else float("nan"),
        "bit_entropy": mean([entropy(column) for column in columns]),
        "class_information": mean(information),
        "bit_correlation": mean(correlations),
        "distinct_codes": len({tuple(word) for word in words}) / len(words),
        "codes_per_class": mean([float(len({tuple(word) for word in own})) for own in inside.values()]),
        "separable_classes": mean(alone),
        "separable_pairs": mean(pairs),
    }


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.sampled_from([1, 2, 9, 60]),
    width=st.sampled_from([1, 2, 4]),
    classes=st.integers(1, 6),
    noise=st.sampled_from([0.0, 0.03, 0.3]),
)
def test_every_measure_is_what_counting_one_by_one_gives(
    seed: int, count: int, width: int, classes: int, noise: float
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count) * 3  # labels need not be consecutive
    centres = rng.integers(0, 2, (3 * classes, 8 * width))
    codes = np.packbits(centres[labels] ^ (rng.random((count, 8 * width)) < noise), axis=1)

    assert code_diagnostics(codes, labels) == pytest.approx(one_by_one(codes, labels), abs=1e-9, nan_ok=True)


def test_four_codes_have_their_hand_made_measures() -> None:
    codes = np.array([[0b11110000], [0b11110000], [0b00000000], [0b00000011]], np.uint8)
    found = code_diagnostics(codes, np.array([7, 7, 2, 2]))

    assert found["intra_class_distance"] == 2 / 2  # pairs: 0 and 2 bits apart
    assert found["inter_class_distance"] == (4 + 6 + 4 + 6) / 4
    assert found["distance_ratio"] == 0.2
    quarter = -(0.25 * log2(0.25) + 0.75 * log2(0.75))
    assert found["bit_entropy"] == pytest.approx((4 * 1 + 2 * quarter) / 8)
    assert found["class_information"] == pytest.approx((4 * 1 + 2 * (quarter - 0.5)) / 8)
    # Six bits vary: four alike, two alike, and 1 / sqrt(3) between the two kinds.
    assert found["bit_correlation"] == pytest.approx((6 + 1 + 8 / 3**0.5) / 15)
    assert found["distinct_codes"] == 3 / 4
    assert found["codes_per_class"] == (1 + 2) / 2
    assert found["separable_classes"] == found["separable_pairs"] == 1.0


def test_classes_can_differ_pair_by_pair_where_no_bit_tells_one_from_all_others() -> None:
    # Four classes on two bits, written out: each pair differs in one bit, no class owns one.
    codes = np.repeat(np.array([[0b00], [0b01], [0b10], [0b11]], np.uint8), 5, axis=0)
    found = code_diagnostics(codes, np.arange(20) // 5)

    assert (found["separable_pairs"], found["separable_classes"]) == (1.0, 0.0)
    assert found["intra_class_distance"] == 0
    assert found["class_information"] == pytest.approx(2 / 8)

    owned = np.repeat(np.array([[1], [2], [4], [8]], np.uint8), 5, axis=0)
    assert code_diagnostics(owned, np.arange(20) // 5)["separable_classes"] == 1.0


def test_a_bit_may_err_in_one_of_twenty_and_no_more() -> None:
    labels = np.repeat([0, 1], 20)
    codes = labels[:, None].astype(np.uint8)
    codes[0] ^= 1
    assert code_diagnostics(codes, labels)["separable_pairs"] == 1.0
    codes[1] ^= 1
    assert code_diagnostics(codes, labels)["separable_pairs"] == 0.0


def test_collapsed_codes_have_no_entropy_and_random_ones_all_of_it() -> None:
    labels = np.arange(4000) % 4
    collapsed = code_diagnostics(np.full((4000, 4), 0xA5, np.uint8), labels)
    assert (
        collapsed["bit_entropy"] == collapsed["class_information"] == collapsed["inter_class_distance"] == 0
    )
    assert collapsed["distinct_codes"] == 1 / 4000
    assert np.isnan(collapsed["bit_correlation"])

    random = code_diagnostics(np.random.default_rng(0).integers(0, 256, (4000, 4)).astype(np.uint8), labels)
    assert random["bit_entropy"] > 0.999
    assert random["class_information"] < 0.002
    assert random["bit_correlation"] < 0.02
    assert random["distance_ratio"] == pytest.approx(1, abs=0.002)
    assert random["distinct_codes"] > 0.999


def test_no_entries_have_no_measures_and_bad_input_is_refused() -> None:
    none = code_diagnostics(np.empty((0, 2), np.uint8), np.empty(0, np.int64))
    assert len(none) == 10
    assert np.isnan(list(none.values())).all()
    with pytest.raises(ValueError, match=r"codes are uint8 \(3, 2\) with 2 labels"):
        code_diagnostics(np.zeros((3, 2), np.uint8), np.array([0, 1]))
    with pytest.raises(ValueError, match="labels start at -1"):
        code_diagnostics(np.zeros((2, 2), np.uint8), np.array([0, -1]))
