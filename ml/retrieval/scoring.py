"""Calibrated scores of candidates and their ranking: shared by the two-stage search and its exact
counterpart.
"""

from dataclasses import dataclass
from math import exp
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.protocol import Calibration
from ml.retrieval.columns import Ids

Strength = Literal["strong", "fair", "weak"]


class Hit(NamedTuple):
    """One answer. score: calibrated probability of relevance in (0, 1). hamming: bits that differ. cosine: in
    [-1, 1].

    strength: "strong" from the calibration's `strong` probability on, "weak" below its `weak`, else "fair".
    """

    item_id: int
    image_id: int
    entry_id: int
    score: float
    hamming: int
    cosine: float
    producer: str
    strength: Strength


@dataclass(frozen=True, slots=True)
class Candidates:
    """Scored entries, row i of each column belonging together. logits are log-odds of relevance, float64.

    producers holds positions in the caller's tuple of producer names.
    """

    entry_ids: Ids
    image_ids: Ids
    item_ids: Ids
    producers: NDArray[np.int16]
    hamming: NDArray[np.int32]
    cosines: NDArray[np.float32]
    logits: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.entry_ids)

    @staticmethod
    def concatenated(parts: "list[Candidates]") -> "Candidates":
        """All rows of `parts`, at least one."""
        if len(parts) == 1:
            return parts[0]
        return Candidates(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in Candidates.__slots__)
        )


def log_odds(
    hamming: NDArray[np.int32], cosines: NDArray[np.float32], calibration: Calibration, code_bits: int
) -> NDArray[np.float64]:
    """Log-odds of relevance: the calibration's linear term before the sigmoid, so that ranking never
    saturates.
    """
    odds: NDArray[np.float64] = hamming * np.float64(-2.0 * calibration.code_weight / code_bits)
    odds += calibration.intercept + calibration.code_weight
    odds += calibration.embedding_weight * cosines
    return odds


def best_rows(candidates: Candidates, k: int, *, group: bool) -> NDArray[np.intp]:
    """Rows of the best k candidates, best first, ties to the smaller entry id; with `group` the best of each
    item.

    Fewer than k when there are fewer candidates (or items).
    """
    logits = candidates.logits
    considered = len(logits) if len(logits) <= 8 * k else 4 * k
    while True:
        if considered < len(logits):
            # Everything tied with the last considered place comes along, so the order below is exact.
            lowest = np.partition(logits, len(logits) - considered)[len(logits) - considered]
            rows = np.flatnonzero(logits >= lowest)
        else:
            rows = np.arange(len(logits))
        rows = rows[np.lexsort((candidates.entry_ids[rows], -logits[rows]))]
        if group:
            rows = rows[_first_of_each(candidates.item_ids[rows])]
        if len(rows) >= k or considered >= len(logits):
            return rows[:k]
        considered = min(len(logits), 8 * considered)


def hits_of(
    candidates: Candidates,
    rows: NDArray[np.intp],
    producers: tuple[str, ...],
    calibrations: tuple[Calibration, ...],
) -> tuple[Hit, ...]:
    """The candidates at `rows` as hits; producers and calibrations are indexed by the candidates' producer
    column.
    """
    hits = []
    for item_id, image_id, entry_id, logit, hamming, cosine, producer in zip(
        candidates.item_ids[rows].tolist(),
        candidates.image_ids[rows].tolist(),
        candidates.entry_ids[rows].tolist(),
        candidates.logits[rows].tolist(),
        candidates.hamming[rows].tolist(),
        candidates.cosines[rows].tolist(),
        candidates.producers[rows].tolist(),
    ):
        score = _sigmoid(logit)
        word = strength_of(score, calibrations[producer])
        hits.append(Hit(item_id, image_id, entry_id, score, hamming, cosine, producers[producer], word))
    return tuple(hits)


def strength_of(score: float, calibration: Calibration) -> Strength:
    """The word for a probability of relevance."""
    if score >= calibration.strong:
        return "strong"
    return "weak" if score < calibration.weak else "fair"


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1.0 / (1.0 + exp(-logit))
    odds = exp(max(logit, -700.0))  # exp underflows to 0 below
    return odds / (1.0 + odds)


def _first_of_each(item_ids: Ids) -> NDArray[np.intp]:
    """Ascending positions of the first occurrence of each item."""
    backwards = range(len(item_ids) - 1, -1, -1)
    first = dict(zip(item_ids[::-1].tolist(), backwards))  # the last to be written is the first of its item
    return np.sort(np.fromiter(first.values(), np.intp, len(first)))
