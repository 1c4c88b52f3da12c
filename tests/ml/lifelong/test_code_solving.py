"""Coordinate descent on new codes, and where codes start: invariants 2 and 4 of the method file."""

import numpy as np
import pytest

from ml.methods.lifelong.code_solving import CodeProblem, code_problem, first_codewords
from ml.methods.lifelong.labels import Centring, LabelRegistry, LabelSet, similarity
from ml.methods.lifelong.statistics import CodeStatistics, Signs, label_totals
from tests.ml.lifelong.worlds import REGISTRY, SETS, random_signs, shard

ALPHA = 0.3
Problem = tuple[CodeProblem, np.ndarray, np.ndarray, np.ndarray]


def posed(
    samples: int = 30, others: int = 12, bits: int = 16, *, stored: CodeStatistics | None = None
) -> Problem:
    """The problem of items that are samples and others that are none; outputs U, targets T and own outputs."""
    rng = np.random.default_rng(1)
    sets = [SETS[one] for one in rng.integers(len(SETS), size=samples + others)]
    rows, outputs = REGISTRY.rows(sets), np.tanh(rng.normal(size=(samples, bits)))
    centring = Centring.of(rows.sum(axis=0), len(rows))
    own = np.concatenate([outputs, np.zeros((others, bits))])
    totals = None if stored is None else label_totals(stored, REGISTRY)
    problem = code_problem(outputs, rows[:samples], own, rows, centring, alpha=ALPHA, stored=totals)
    return problem, outputs, centring(similarity(rows[:samples], rows)), own


def direct_objective(codes: Signs, outputs: np.ndarray, target: np.ndarray, own: np.ndarray) -> float:
    """sum_ij (c T_ij - u_i . b_j)^2 + alpha * sum over samples of (u_j - b_j)^2, pair by pair."""
    pairs = (codes.shape[1] * target - outputs @ codes.T) ** 2
    sampled = np.abs(own).sum(axis=1) > 0
    return float(pairs.sum() + ALPHA * ((own - codes)[sampled] ** 2).sum())


def columns_solved_by_trying_both_values(
    problem: Problem, codes: Signs, *, sweeps: int
) -> tuple[Signs, list[float]]:
    """The oracle: each bit of each code set to the better of its two values, column by column, a draw keeping it.

    Returns the codes and the direct objective after every single column.
    """
    _, outputs, target, own = problem
    codes, objectives = codes.copy(), [direct_objective(codes, outputs, target, own)]
    for _ in range(sweeps):
        for bit in range(codes.shape[1]):
            kept = codes.copy()
            for row in range(len(codes)):
                other = kept[row : row + 1].copy()
                other[0, bit] *= -1
                values = [
                    direct_objective(one, outputs, target[:, row : row + 1], own[row : row + 1])
                    for one in (kept[row : row + 1], other)
                ]
                if values[1] < values[0] - 1e-9:
                    codes[row, bit] = other[0, bit]
            objectives.append(direct_objective(codes, outputs, target, own))
    return codes, objectives


@pytest.mark.parametrize("sweeps", [1, 2, 3])
def test_every_column_update_is_the_exact_minimiser_and_no_single_one_raises_the_objective(
    sweeps: int,
) -> None:
    """Invariant 2."""
    problem, start = posed(), random_signs(42, 16, np.random.default_rng(2))
    expected, objectives = columns_solved_by_trying_both_values(problem, start, sweeps=sweeps)
    np.testing.assert_array_equal(problem[0].solved(start, sweeps=sweeps), expected)
    assert (np.diff(objectives) <= 1e-9 * objectives[0]).all()
    assert objectives[16] < 0.9 * objectives[0]


def test_solved_codes_are_a_fixed_point_of_signs_and_the_start_is_left_alone() -> None:
    """Invariant 2."""
    problem, start = posed()[0], random_signs(42, 16, np.random.default_rng(3))
    before = start.copy()
    solved = problem.solved(start, sweeps=100)
    assert set(np.unique(solved)) == {-1, 1}
    assert solved.dtype == np.int8
    np.testing.assert_array_equal(problem.solved(solved, sweeps=100), solved)
    np.testing.assert_array_equal(start, before)
    assert problem.objective(solved) < problem.objective(start)


def test_a_bit_that_nothing_pulls_keeps_its_value() -> None:
    """sign(0) is the bit that was there, of either sign; a single pull decides, however small."""
    start = random_signs(8, 16, np.random.default_rng(4))
    flat = CodeProblem(linear=np.zeros((8, 16)), gram=np.zeros((16, 16)))
    np.testing.assert_array_equal(flat.solved(start, sweeps=3), start)
    pulled = flat.linear.copy()
    pulled[2, 5] = -1e-12 * start[2, 5]
    changed = CodeProblem(linear=pulled, gram=flat.gram).solved(start, sweeps=1)
    assert np.argwhere(changed != start).tolist() == [[2, 5]]


def test_no_sweeps_leave_the_codes_as_they_are() -> None:
    start = random_signs(42, 16, np.random.default_rng(5))
    np.testing.assert_array_equal(posed()[0].solved(start, sweeps=0), start)


def test_the_objective_is_the_direct_one_but_for_a_constant() -> None:
    problem, outputs, target, own = posed()
    rng = np.random.default_rng(6)
    rest = [
        problem.objective(codes) - direct_objective(codes, outputs, target, own)
        for codes in (random_signs(42, 16, rng) for _ in range(6))
    ]
    np.testing.assert_allclose(rest, rest[0], rtol=1e-9)


def test_what_pulls_at_codes_through_labels_is_what_every_pair_pulls() -> None:
    """Invariant 4: P = c * T^T U + alpha * U_own without forming T."""
    problem, outputs, target, own = posed()
    np.testing.assert_allclose(problem.linear, 16 * target.T @ outputs + ALPHA * own, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(problem.gram, outputs.T @ outputs, rtol=1e-12)


def test_stored_codes_count_as_further_samples_whose_output_is_their_code() -> None:
    old = shard(200, seed=7)
    problem, outputs, target, own = posed(stored=CodeStatistics.of(*old))
    rows = REGISTRY.rows([SETS[one] for one in np.random.default_rng(1).integers(len(SETS), size=42)])
    centring = Centring.of(rows.sum(axis=0), len(rows))
    stored_target = centring(similarity(REGISTRY.rows(old.sets), rows))
    both = np.concatenate([outputs, old.codes.astype(float)])
    every = np.concatenate([target, stored_target])
    np.testing.assert_allclose(problem.linear, 16 * every.T @ both + ALPHA * own, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(problem.gram, both.T @ both, rtol=1e-9, atol=1e-9)


def words_of(classes: int, bits: int, seed: int = 0) -> tuple[CodeStatistics, dict[LabelSet, Signs]]:
    """First codewords of classes with a label each, and their statistics as if stored."""
    registry = LabelRegistry(tuple(map(str, range(classes))), (1.0,) * classes)
    centring = Centring.of(np.full(classes, 20.0), 20 * classes)
    counts: list[tuple[LabelSet, int]] = [((label,), 20) for label in range(classes)]
    words = first_codewords(CodeStatistics(bits), registry, counts, centring, seed=seed)
    stored = CodeStatistics(bits)
    for labels, word in words.items():
        stored.add([labels] * 20, np.repeat(word[None], 20, axis=0))
    return stored, words


def distances(words: np.ndarray) -> np.ndarray:
    """(U, c) -> Hamming distances of all pairs of different words."""
    wide = words.astype(int)
    apart = (wide.shape[1] - wide @ wide.T) // 2
    return np.asarray(apart[np.triu_indices(len(wide), 1)])


def test_first_codewords_of_classes_that_share_no_label_are_far_apart_and_the_same_every_time() -> None:
    words = np.stack(list(words_of(10, 32)[1].values()))
    apart = distances(words)
    assert apart.min() >= 12  # of 32 bits; ten random words come as near as 7 to 9
    assert apart.mean() > 16  # a simplex: further than orthogonal
    np.testing.assert_array_equal(words, np.stack(list(words_of(10, 32)[1].values())))
    assert not np.array_equal(words, np.stack(list(words_of(10, 32, seed=1)[1].values())))


def test_a_codeword_that_is_added_keeps_away_from_all_that_are_stored() -> None:
    stored, known = words_of(9, 32)
    registry = LabelRegistry(tuple(map(str, range(10))), (1.0,) * 10)
    before = stored.gram.copy()
    words = first_codewords(stored, registry, [((9,), 20)], Centring.of(np.full(10, 20.0), 200), seed=3)
    assert distances(np.stack([*known.values(), words[(9,)]])).min() >= 12
    np.testing.assert_array_equal(stored.gram, before)


def test_a_stored_label_set_keeps_its_codeword_when_more_items_of_it_come() -> None:
    stored, known = words_of(9, 32)
    registry = LabelRegistry(tuple(map(str, range(10))), (1.0,) * 10)
    counts = [((3,), 5), ((9,), 20)]
    words = first_codewords(stored, registry, counts, Centring.of(np.full(10, 20.0), 200), seed=3)
    np.testing.assert_array_equal(words[(3,)], known[(3,)])


def test_codewords_of_items_that_share_labels_are_nearer_than_those_of_items_that_share_none() -> None:
    registry = LabelRegistry(("bag", "shoe", "red", "blue"), (1.0,) * 4)
    sets: list[LabelSet] = [(0, 2), (0, 3), (1, 2), (1, 3)]
    rows = registry.rows(sets)
    words = first_codewords(
        CodeStatistics(64),
        registry,
        [(labels, 5) for labels in sets],
        Centring.of(rows.sum(axis=0), 4),
        seed=0,
    )
    wide = np.stack([words[labels] for labels in sets]).astype(int)
    inner = wide @ wide.T
    assert min(inner[0, 1], inner[0, 2], inner[1, 3], inner[2, 3]) > max(inner[0, 3], inner[1, 2]) + 8
