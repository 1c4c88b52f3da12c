"""The ranking of candidates against a plain sort of all of them."""

import numpy as np
import pytest

from ml.retrieval.scoring import Candidates, best_rows


def tied_candidates(count: int, *, seed: int) -> Candidates:
    """Scores from five values only, so that the last place taken is nearly always contested."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(count)
    return Candidates(
        ids,
        ids,
        rng.integers(0, count // 3, count),
        np.zeros(count, np.int16),
        np.zeros(count, np.int32),
        np.zeros(count, np.float32),
        rng.integers(0, 5, count).astype(np.float64),
    )


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("k", [1, 5, 40, 1000])
def test_the_best_are_those_of_a_full_sort_however_many_tie(group: bool, k: int) -> None:
    for seed in range(20):
        candidates = tied_candidates(500, seed=seed)
        expected: list[int] = []
        seen: set[int] = set()
        for row in sorted(range(500), key=lambda row: (-candidates.logits[row], candidates.entry_ids[row])):
            if not group or int(candidates.item_ids[row]) not in seen:
                expected.append(row)
            seen.add(int(candidates.item_ids[row]))
        assert best_rows(candidates, k, group=group).tolist() == expected[:k]
