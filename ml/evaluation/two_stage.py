"""The product's two-stage answer over a whole gallery at once: pools by code, ranked by calibrated log-odds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.metrics import Ranking, average_precision, recall_at, reciprocal_rank
from ml.protocol import Calibration

Values = NDArray[np.float64]
METRICS = ("map", "recall_at_1", "recall_at_10", "mrr")
_OUTSIDE = 1e6  # below every log-odds: what no pool holds comes last


@dataclass(frozen=True, slots=True)
class CodedSet:
    """N encoded images. signs (N, L) of -1 / +1, embeddings (N, D) unit, both float32."""

    signs: NDArray[np.float32]
    embeddings: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.signs)


def two_stage_scores(
    queries: CodedSet,
    gallery: CodedSet,
    producers: NDArray[np.integer],
    calibrations: Sequence[Calibration],
    *,
    hidden: NDArray[np.bool_] | None = None,
) -> Values:
    """(Q, N) scores that rank as the product does: the log-odds of relevance inside each producer's pool.

    producers (N,) are positions in `calibrations`. Entries outside the pools come after all others, by code
    similarity. hidden (Q, N): entries a query must not see; their score is -inf, and they take no place in a
    pool. Equal code similarities at a pool's edge go to the lower column.
    """
    code = queries.signs @ gallery.signs.T / np.float32(queries.signs.shape[1])
    cosine = queries.embeddings @ gallery.embeddings.T
    scores = code.astype(np.float64) - _OUTSIDE
    visible = code if hidden is None else np.where(hidden, np.float32(-np.inf), code)
    for position, calibration in enumerate(calibrations):
        columns = np.flatnonzero(producers == position)
        order = np.argsort(-visible[:, columns], axis=1, kind="stable")[:, : calibration.pool_size]
        pool = columns[order]
        odds = (
            calibration.intercept
            + calibration.code_weight * np.take_along_axis(code, pool, axis=1).astype(np.float64)
            + calibration.embedding_weight * np.take_along_axis(cosine, pool, axis=1)
        )
        np.put_along_axis(scores, pool, odds, axis=1)
    if hidden is not None:
        scores[hidden] = -np.inf
    return scores


def answer_values(scores: Values, relevant: NDArray[np.bool_]) -> dict[str, Values]:
    """METRICS of each query, (Q,) each in [0, 1], NaN for a query without a relevant entry.

    scores (Q, N) from `two_stage_scores`; a score of -inf is not in the gallery of that query.
    """
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for row, is_relevant in zip(scores, relevant):
        order = np.argsort(-row, kind="stable")[: int((row > -np.inf).sum())]
        ranking = Ranking(row[order], is_relevant[order])
        found["map"].append(average_precision(ranking))
        found["recall_at_1"].append(recall_at(ranking, 1))
        found["recall_at_10"].append(recall_at(ranking, 10))
        found["mrr"].append(reciprocal_rank(ranking))
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}
