"""Statistics of stored codes: invariants 9, 11 and the size of 12 in the method file."""

import numpy as np
import pytest

from ml.evaluation.hamming import hamming_values
from ml.evaluation.retrieval import signs_of
from ml.methods.lifelong.code_solving import first_codewords
from ml.methods.lifelong.labels import Centring, LabelSet
from ml.methods.lifelong.statistics import CodeStatistics, label_totals
from tests.ml.lifelong.worlds import REGISTRY, SETS, digest, random_signs, shard


def bytes_of(statistics: CodeStatistics) -> str:
    """A digest of everything that is counted, label sets included."""
    return digest(*(array for _, array in sorted(statistics.arrays().items())))


def test_statistics_are_the_plain_sums_over_items() -> None:
    sets, codes = shard(300)
    found, wide = CodeStatistics.of(sets, codes), codes.astype(np.int64)
    assert found.items == 300
    assert found.gram.dtype == np.int64
    np.testing.assert_array_equal(found.gram, wide.T @ wide)
    assert found.sets == sorted(set(sets))
    for labels in found.sets:
        own = wide[[one == labels for one in sets]]
        assert found.tallies[labels].items == len(own)
        np.testing.assert_array_equal(found.tallies[labels].code_sum, own.sum(axis=0))


def test_adding_a_shard_and_taking_it_out_again_leaves_the_very_same_statistics() -> None:
    """Invariant 9, with a label set that only the shard has, and one that it shares."""
    found = CodeStatistics.of(*shard(100, sets=SETS[:3]))
    before = bytes_of(found)
    coming = shard(70, seed=1, sets=SETS[2:])
    found.add(*coming)
    assert found.items == 170
    assert bytes_of(found) != before
    found.remove(*coming)
    assert bytes_of(found) == before
    assert found.sets == sorted(SETS[:3])


def test_shards_add_up_in_any_order_to_the_statistics_of_all_rows() -> None:
    shards = [shard(count, seed=count) for count in (1, 40, 90)]
    whole = CodeStatistics.of(
        [labels for one in shards for labels in one.sets], np.concatenate([one.codes for one in shards])
    )
    a, b, c = (CodeStatistics.of(*one) for one in shards)
    before = bytes_of(a)
    assert bytes_of(a + b + c) == bytes_of(c + (b + a)) == bytes_of(whole)
    assert bytes_of(a) == before


def test_many_codes_are_counted_as_exactly_as_few() -> None:
    """More than are looked at in one piece."""
    sets, codes = shard(70_001, bits=8, sets=SETS[:2])
    halves = CodeStatistics.of(sets[:35_000], codes[:35_000]) + CodeStatistics.of(
        sets[35_000:], codes[35_000:]
    )
    assert bytes_of(CodeStatistics.of(sets, codes)) == bytes_of(halves)
    assert halves.gram[0, 0] == 70_001


def test_moving_relabelled_items_is_counting_them_anew_under_their_new_labels() -> None:
    sets, codes = shard(120)
    found = CodeStatistics.of(sets, codes)
    rows = [row for row, labels in enumerate(sets) if labels == SETS[2]][:9]
    target: LabelSet = (0, 2, 3)
    found.move(codes[rows], source=SETS[2], target=target)
    moved = [target if row in rows else labels for row, labels in enumerate(sets)]
    assert bytes_of(found) == bytes_of(CodeStatistics.of(moved, codes))


def test_more_codes_than_there_are_cannot_be_taken_out_and_nothing_changes() -> None:
    sets, codes = shard(20, sets=SETS[:2])
    found = CodeStatistics.of(sets, codes)
    before = bytes_of(found)
    with pytest.raises(ValueError, match="which holds 0"):
        found.remove([*sets[:3], SETS[3]], codes[:4])
    with pytest.raises(ValueError, match="21 codes to remove"):
        found.move(np.ones((21, 16), np.int8), source=SETS[0], target=SETS[1])
    assert bytes_of(found) == before


def test_other_codes_than_were_added_cannot_be_taken_out_and_nothing_changes() -> None:
    found = CodeStatistics.of([SETS[0]] * 2, np.ones((2, 16), np.int8))
    before = bytes_of(found)
    with pytest.raises(ValueError, match="others than these were counted"):
        found.remove([SETS[0]] * 2, -np.ones((2, 16), np.int8))
    with pytest.raises(ValueError, match="others than these were counted"):
        found.remove([SETS[0]], -np.ones((1, 16), np.int8))
    assert bytes_of(found) == before


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        (np.zeros((1, 16), np.int8), "neither -1 nor"),
        (np.full((1, 16), 2, np.int8), "neither -1 nor"),
        (np.ones((1, 8), np.int8), r"expected \(N, 16\)"),
        (np.ones((2, 16), np.int8), "with 1 label sets"),
    ],
)
def test_what_is_no_code_is_refused_and_nothing_changes(codes: np.ndarray, reason: str) -> None:
    found = CodeStatistics.of(*shard(5))
    before = bytes_of(found)
    with pytest.raises(ValueError, match=reason):
        found.add([SETS[0]], codes)
    assert bytes_of(found) == before


def test_statistics_come_back_from_their_arrays_and_go_on_counting() -> None:
    found = CodeStatistics.of(*shard(60))
    again = CodeStatistics.from_arrays(found.arrays())
    assert bytes_of(again) == bytes_of(found)
    again.add(*shard(10, seed=3))
    assert again.items == 70
    assert found.items == 60  # no memory is shared
    assert bytes_of(CodeStatistics.from_arrays(CodeStatistics(16).arrays())) == bytes_of(CodeStatistics(16))


def test_the_codeword_of_a_label_set_is_the_majority_of_its_codes_and_a_draw_is_plus_1() -> None:
    codes = np.array([[1, -1, 1], [1, -1, -1], [-1, -1, 1], [1, 1, -1]], np.int8)
    found = CodeStatistics.of([SETS[0]] * 4, codes)
    np.testing.assert_array_equal(found.codewords()[SETS[0]], [1, -1, 1])


def test_cleaned_statistics_are_those_of_every_code_replaced_by_its_codeword() -> None:
    sets, codes = shard(90)
    found = CodeStatistics.of(sets, codes)
    before, words = bytes_of(found), found.codewords()
    assert bytes_of(found.cleaned()) == bytes_of(
        CodeStatistics.of(sets, np.stack([words[one] for one in sets]))
    )
    assert bytes_of(found) == before


def test_statistics_of_a_thousand_codes_and_of_a_hundred_thousand_have_the_same_size() -> None:
    """Invariant 12: what an update reads of stored codes does not grow with their number."""

    def sizes(count: int) -> dict[str, tuple[int, ...]]:
        found = CodeStatistics.of(*shard(count, bits=8))
        totals = label_totals(found, REGISTRY)
        derived = {name: getattr(totals, name) for name in totals.__slots__ if name != "items"}
        return {name: array.shape for name, array in (found.arrays() | derived).items()}

    assert sizes(1_000) == sizes(100_000)


def test_packed_hamming_distance_is_half_of_bits_less_inner_product() -> None:
    """Invariant 11."""
    rng = np.random.default_rng(0)
    left, right = random_signs(40, 32, rng), random_signs(30, 32, rng)
    packed = np.packbits(left > 0, axis=1), np.packbits(right > 0, axis=1)
    np.testing.assert_array_equal(signs_of(packed[0]), left)
    differing = np.unpackbits(packed[0][:, None] ^ packed[1][None], axis=2).sum(axis=2)
    np.testing.assert_array_equal(differing, (32 - left.astype(int) @ right.T.astype(int)) // 2)


def test_codewords_as_codes_rank_perfectly_and_random_codes_rank_at_the_prior() -> None:
    """Invariant 8."""
    classes, per_class, bits = 6, 50, 32
    labels = np.repeat(np.arange(classes), per_class)
    counts = [((label,), per_class) for label in range(5)] + [((0, 1), per_class)]
    words = first_codewords(CodeStatistics(bits), REGISTRY, counts, Centring(1.2, -0.2), seed=0)
    oracle = np.packbits(np.stack([word > 0 for word in words.values()])[labels], axis=1)
    assert hamming_values(oracle, labels, oracle, labels).means()["map"] == 1.0
    chance = np.packbits(random_signs(len(labels), bits, np.random.default_rng(0)) > 0, axis=1)
    found = hamming_values(chance, labels, chance, labels, left_out=np.arange(len(labels))).means()["map"]
    assert found == pytest.approx(1 / classes, abs=0.03)
