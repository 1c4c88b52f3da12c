"""Retrieval metrics: pure functions of ids, labels and scores, one number per query.

Conventions, the same for every metric:

* A ranking is by score, highest first. Where a single order is needed (Recall@k, MRR, CMC) equal scores are
  ordered by gallery id, smallest first. Average precision instead takes its expectation over all orders of
  equal scores, so it does not depend on ids at all: Hamming distances tie in their hundreds.
* A query without any relevant gallery entry has no value: NaN, which `mean_of` leaves out and counts. It is
  never 0 or 1.
* A query that is itself in the gallery (same id) must not find itself: pass its own gallery id in `left_out`,
  and it is neither retrieved nor counted as relevant.
* k larger than the gallery means the whole gallery.

Recall@k here is the share of queries with at least one relevant entry among the first k (the metric-learning
literature's use), not the share of relevant entries found.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64] | NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ranking:
    """One query's gallery, best first, ties by gallery id: scores (N,), relevant (N,) bool."""

    scores: Scores
    relevant: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        scores: Scores,
        gallery_labels: Labels,
        gallery_ids: Labels,
        *,
        label: int,
        left_out: int | None = None,
    ) -> Self:
        """Rank a gallery for one query with `label`; all arrays (N,). Higher scores are better.

        left_out: the gallery id of the query itself, when it is in the gallery. Raises ValueError on arrays
        of different length, a repeated gallery id or a score that is not a number.
        """
        if not len(scores) == len(gallery_labels) == len(gallery_ids):
            raise ValueError(
                f"{len(scores)} scores, {len(gallery_labels)} labels and {len(gallery_ids)} ids do not match"
            )
        if len(np.unique(gallery_ids)) != len(gallery_ids):
            raise ValueError("a gallery id is repeated")
        if np.isnan(scores).any():
            raise ValueError("a score is not a number")
        order = np.lexsort((gallery_ids, -scores))
        if left_out is not None:
            order = order[gallery_ids[order] != left_out]
        return cls(scores[order], gallery_labels[order] == label)

    def __len__(self) -> int:
        return len(self.scores)


def recall_at(ranking: Ranking, k: int) -> float:
    """1.0 when a relevant entry is among the first k, else 0.0; NaN when there is none."""
    _check_k(k)
    if not ranking.relevant.any():
        return float("nan")
    return float(ranking.relevant[:k].any())


def reciprocal_rank(ranking: Ranking) -> float:
    """1 / (position of the first relevant entry, from 1); NaN without any relevant entry."""
    if not ranking.relevant.any():
        return float("nan")
    return 1.0 / (1 + int(np.argmax(ranking.relevant)))


def match_curve(ranking: Ranking, k: int) -> NDArray[np.float64]:
    """Cumulative match characteristic: (k,) values, the r-th being Recall@r; NaN without a relevant entry."""
    _check_k(k)
    if not ranking.relevant.any():
        return np.full(k, np.nan)
    return (np.arange(1, k + 1) > int(np.argmax(ranking.relevant))).astype(np.float64)


def average_precision(ranking: Ranking, k: int | None = None) -> float:
    """Average precision, its expectation over all orders of equal scores; NaN without any relevant entry.

    With k: only the first k positions count, and the sum is divided by min(k, relevant entries), so that a
    perfect answer is 1. Source of the tie treatment: McSherry and Najork, "Computing information retrieval
    performance measures efficiently in the presence of tied scores", ECIR 2008; a relevant entry at place i
    of a group of n equal scores with r relevant has on average (i - 1)(r - 1)/(n - 1) relevant ones of its
    group before it.
    """
    relevant_count = int(np.count_nonzero(ranking.relevant))
    if relevant_count == 0:
        return float("nan")
    if k is not None:
        _check_k(k)
    size = len(ranking)
    depth = size if k is None else min(k, size)
    starts = np.flatnonzero(np.r_[True, ranking.scores[1:] != ranking.scores[:-1]])
    group = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, size]))[:depth]
    group_size = np.diff(np.r_[starts, size])[group]
    group_relevant = np.add.reduceat(ranking.relevant.astype(np.int64), starts)
    before = (np.cumsum(group_relevant) - group_relevant)[group]
    inside = group_relevant[group]
    place = np.arange(depth) - starts[group]  # place in the group, from 0
    chance = inside / group_size  # of a relevant entry standing here
    companions = place * (inside - 1) / np.maximum(group_size - 1, 1)
    precision = (before + 1 + companions) / np.arange(1, depth + 1)
    wanted = relevant_count if k is None else min(k, relevant_count)
    return float((chance * precision).sum() / wanted)


def mean_of(values: NDArray[np.float64]) -> tuple[float, int]:
    """(mean over the queries that have a value, how many have none). NaN when none has."""
    present = values[~np.isnan(values)]
    return (float(present.mean()) if len(present) else float("nan")), len(values) - len(present)


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}, it must be at least 1")
