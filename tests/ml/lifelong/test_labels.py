"""Label registries, the cosine of label rows and its centring: invariants 5 and 6 of the method file."""

from itertools import chain, combinations

import numpy as np
import pytest

from ml.methods.lifelong.labels import Centring, LabelRegistry, LabelSet, similarity
from ml.methods.lifelong.statistics import CodeStatistics, label_totals
from tests.ml.lifelong.worlds import REGISTRY, SETS, shard

EVERY_SET: list[LabelSet] = list(
    chain.from_iterable(combinations(range(len(REGISTRY)), size) for size in range(1, len(REGISTRY) + 1))
)


def test_similarity_is_symmetric_and_1_only_for_equal_label_sets_and_0_only_for_disjoint_ones() -> None:
    """Invariant 5, over all pairs of the 31 label sets that five labels of unequal weight make."""
    rows = REGISTRY.rows(EVERY_SET)
    cosine = similarity(rows, rows)
    assert cosine.shape == (31, 31)
    np.testing.assert_allclose(cosine, cosine.T, rtol=0, atol=1e-15)
    assert cosine.min() == 0
    assert cosine.max() <= 1
    for i, left in enumerate(EVERY_SET):
        for j, right in enumerate(EVERY_SET):
            assert (cosine[i, j] > 1 - 1e-9) == (left == right), (left, right)
            assert (cosine[i, j] == 0) == (not set(left) & set(right)), (left, right)


def test_similarity_of_equally_weighted_labels_is_shared_labels_over_the_root_of_both_counts() -> None:
    registry = LabelRegistry(("a", "b", "c", "d"), (1.0,) * 4)
    cosine = similarity(registry.rows([(0, 1, 2)]), registry.rows([(1, 2), (0, 1, 2, 3), (3,)]))
    np.testing.assert_allclose(cosine, [[2 / np.sqrt(6), 3 / np.sqrt(12), 0]], rtol=1e-15)


def test_a_heavier_label_makes_items_more_alike() -> None:
    rows = REGISTRY.rows([(0, 2), (0, 3), (1, 2)])  # share the bag (weight 1), share red (weight 0.5)
    np.testing.assert_allclose(similarity(rows, rows)[0], [1, 1 / 1.25, 0.25 / 1.25], rtol=1e-15)


def test_centred_similarity_has_zero_mean_over_all_pairs_and_maps_1_to_1() -> None:
    """Invariant 5."""
    rows = REGISTRY.rows(shard(200).sets)
    centring = Centring.of(rows.sum(axis=0), len(rows))
    assert centring(similarity(rows, rows)).mean() == pytest.approx(0, abs=1e-12)
    assert centring(np.ones(1))[0] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("counts", [(10, 10), (5, 20, 75), (40,) * 25])
def test_centring_single_labels_gives_1_and_minus_the_odds_of_a_similar_pair(counts: tuple[int, ...]) -> None:
    """Invariant 5: DIHN's softened +1 / -1; of 25 classes of one size -1/24, the angle of a simplex."""
    registry = LabelRegistry(tuple(map(str, range(len(counts)))), (1.0,) * len(counts))
    rows = registry.rows([(label,) for label, count in enumerate(counts) for _ in range(count)])
    centred = Centring.of(rows.sum(axis=0), len(rows))(similarity(rows, rows))
    similar = sum(count**2 for count in counts) / sum(counts) ** 2
    np.testing.assert_allclose(np.unique(centred.round(12)), [-similar / (1 - similar), 1], rtol=1e-9)


@pytest.mark.parametrize("labels", range(1, 12))
def test_items_that_all_carry_the_same_labels_are_refused_however_many_labels_they_are(labels: int) -> None:
    """The norm of a row is 1 but for rounding, and a hair below 1 must not pass for a difference."""
    registry = LabelRegistry(
        tuple(map(str, range(labels))), tuple(1 + 0.1 * label for label in range(labels))
    )
    rows = registry.rows([tuple(range(labels))] * 7)
    with pytest.raises(ValueError, match="the same labels"):
        Centring.of(rows.sum(axis=0), len(rows))


def test_labels_appended_later_change_no_similarity_and_no_target_among_old_items() -> None:
    """Invariant 6."""
    grown = REGISTRY.extended({"hat": 3.0, "green": 0.25})
    assert grown.names == (*REGISTRY.names, "hat", "green")
    old, new = REGISTRY.rows(SETS), grown.rows(SETS)
    np.testing.assert_array_equal(new[:, : len(REGISTRY)], old)
    np.testing.assert_array_equal(new[:, len(REGISTRY) :], 0)
    np.testing.assert_allclose(similarity(new, new), similarity(old, old), rtol=0, atol=1e-15)

    statistics = CodeStatistics.of(*shard(50))
    before, after = label_totals(statistics, REGISTRY), label_totals(statistics, grown)
    assert Centring.of(after.label_total, after.items) == Centring.of(before.label_total, before.items)
    np.testing.assert_array_equal(after.label_codes[: len(REGISTRY)], before.label_codes)
    np.testing.assert_array_equal(after.label_codes[len(REGISTRY) :], 0)


def test_a_known_label_keeps_its_position_and_its_weight() -> None:
    grown = REGISTRY.extended({"red": 9.0, "hat": 1.0, "bag": 9.0})
    assert grown.names == (*REGISTRY.names, "hat")
    assert grown.weights == (*REGISTRY.weights, 1.0)
    assert grown.label_set(["hat", "bag", "hat"]) == (0, 5)
    assert REGISTRY.extended({}) == REGISTRY


def test_a_registry_begins_with_another_when_names_and_weights_do() -> None:
    grown = REGISTRY.extended({"hat": 1.0})
    assert grown.begins_with(REGISTRY)
    assert grown.begins_with(grown)
    assert not REGISTRY.begins_with(grown)
    heavier = LabelRegistry(grown.names, (9.0, *grown.weights[1:]))
    assert not heavier.begins_with(REGISTRY)


def test_an_item_without_labels_is_like_nothing_itself_included() -> None:
    rows = REGISTRY.rows([(), (0,)])
    np.testing.assert_array_equal(similarity(rows, rows), [[0, 0], [0, 1]])


def test_what_a_registry_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"labels that stand twice: \['a'\]"):
        LabelRegistry(("a", "b", "a"), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="2 names, 1 weights"):
        LabelRegistry(("a", "b"), (1.0,))
    with pytest.raises(ValueError, match="above 0, the smallest is 0"):
        LabelRegistry(("a", "b"), (1.0, 0.0))
    with pytest.raises(ValueError, match="not in the registry: hat, tie"):
        REGISTRY.label_set(["tie", "bag", "hat"])
