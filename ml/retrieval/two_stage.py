"""The search of the product: a pool of near codes per producer, re-ranked by calibrated probability, best per
item.

A native entry looks nearer than one of an older producer, so pools are drawn apart and only calibrated
probabilities are compared between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from ml.protocol import Calibration
from ml.retrieval.columns import NO_IDS, EntryFilter
from ml.retrieval.index import CodeMatches, check_query
from ml.retrieval.scoring import Candidates, Hit, best_rows, hits_of, log_odds
from ml.retrieval.view import GalleryView


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """One encoded query: packed_code (L // 8,) uint8, embedding (D,) float32 of unit L2 norm."""

    packed_code: NDArray[np.uint8]
    embedding: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """hits: best first. considered: candidates re-ranked. exhausted: every entry that passes the filter was
    considered.

    shortlist_ms and rerank_ms: wall time of drawing pools and of scoring, grouping and ordering them.
    """

    hits: tuple[Hit, ...]
    shortlist_ms: float
    rerank_ms: float
    considered: int
    exhausted: bool


def search(
    view: GalleryView,
    query: QueryVectors,
    *,
    k: int,
    where: EntryFilter | None = None,
    calibrations: Mapping[str, Calibration],
    group: bool = True,
) -> SearchOutcome:
    """The k best items (with `group`, each by its best image; otherwise the k best entries) that pass
    `where`.

    Pools start at each calibration's pool_size and double until k distinct items are found or every passing
    entry was considered. Equal scores are ordered by entry id. Raises ValueError on k < 1, a code or
    embedding of another shape, a non-finite embedding, or a producer of the view without a calibration (one
    outside the query's lineage).
    """
    check_vectors(view, query, k)
    producers, used = calibrated_producers(view, calibrations)
    shortlist_ms = rerank_ms = 0.0
    sizes = [max(k, calibration.pool_size) for calibration in used]
    while True:
        started = perf_counter()
        drawn = [
            view.pools[name].index.search(query.packed_code, size, where)
            for name, size in zip(producers, sizes)
        ]
        shortlisted = perf_counter()
        candidates = _scored(view, query, producers, used, drawn)
        rows = best_rows(candidates, k, group=group)
        exhausted = all(len(matches) < size for matches, size in zip(drawn, sizes))
        finished = perf_counter()
        shortlist_ms += 1000 * (shortlisted - started)
        rerank_ms += 1000 * (finished - shortlisted)
        if len(rows) >= k or exhausted:
            break
        # A pool that came back short holds all it can; asking it again for more would only repeat the work.
        sizes = [size if len(matches) < size else 2 * size for matches, size in zip(drawn, sizes)]
    hits = hits_of(candidates, rows, producers, used)
    return SearchOutcome(hits, shortlist_ms, rerank_ms, len(candidates), exhausted)


def check_vectors(view: GalleryView, query: QueryVectors, k: int) -> None:
    """Raise ValueError unless the query fits the view, its embedding is finite and k >= 1."""
    check_query(query.packed_code, view.code_bits, k)
    if query.embedding.dtype != np.float32 or query.embedding.shape != (view.dimension,):
        raise ValueError(
            f"the embedding is {query.embedding.dtype} {query.embedding.shape}, "
            f"expected float32 ({view.dimension},)"
        )
    if not np.isfinite(query.embedding).all():
        raise ValueError("the embedding holds a value that is not finite")


def calibrated_producers(
    view: GalleryView, calibrations: Mapping[str, Calibration]
) -> tuple[tuple[str, ...], tuple[Calibration, ...]]:
    """The producers with entries and their calibrations. Raises ValueError when one has none."""
    producers = tuple(name for name, pool in view.pools.items() if len(pool.rows))
    missing = [name for name in producers if name not in calibrations]
    if missing:
        raise ValueError(f"no calibration for producers {missing}, only for {sorted(calibrations)}")
    return producers, tuple(calibrations[name] for name in producers)


def _scored(
    view: GalleryView,
    query: QueryVectors,
    producers: tuple[str, ...],
    calibrations: tuple[Calibration, ...],
    drawn: list[CodeMatches],
) -> Candidates:
    parts = [
        _scored_pool(view, name, matches, query, position=position, calibration=calibration)
        for position, (name, matches, calibration) in enumerate(zip(producers, drawn, calibrations))
    ]
    return Candidates.concatenated(parts) if parts else _NO_CANDIDATES


def _scored_pool(
    view: GalleryView,
    producer: str,
    matches: CodeMatches,
    query: QueryVectors,
    *,
    position: int,
    calibration: Calibration,
) -> Candidates:
    entries = view.pools[producer].rows
    entry_ids, hamming = matches.entry_ids, matches.hamming
    rows = entries.rows_of(entry_ids)
    if len(rows) and rows.min() < 0:
        # An engine shared by several processes may be ahead of this view: what the view lacks is left out.
        known = rows >= 0
        rows, entry_ids, hamming = rows[known], entry_ids[known], hamming[known]
    # Row by row, so that a score depends on its entry alone and never on what else is in the pool.
    cosines = np.vecdot(entries.embeddings_at(rows), query.embedding)
    return Candidates(
        entry_ids,
        entries.image_ids_at(rows),
        entries.item_ids_at(rows),
        np.full(len(rows), position, np.int16),
        hamming,
        cosines,
        log_odds(hamming, cosines, calibration, view.code_bits),
    )


_NO_CANDIDATES = Candidates(
    NO_IDS,
    NO_IDS,
    NO_IDS,
    np.empty(0, np.int16),
    np.empty(0, np.int32),
    np.empty(0, np.float32),
    np.empty(0, np.float64),
)
