"""What a two-stage answer is worth and what it reads, by the size of its pool.

The first stage reads every code and draws the nearest entries; the second reads the embeddings of those alone,
stored as float16, and orders them by the fused score. Whatever was not drawn follows in the order of the codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.retrieval import signs_of
from ml.evaluation.ties import TieGroups

Codes = NDArray[np.uint8]
Embeddings = NDArray[np.float32]
Labels = NDArray[np.int64]
Values = NDArray[np.float64]

DEPTH = 100
_BLOCK_PAIRS = 1_000_000  # query-entry pairs held at a time: about 40 MB


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """map_at_100: (Q,) in [0, 1], NaN for a query without a relevant entry. bytes_read: per query."""

    pool_size: int
    bytes_read: int
    map_at_100: Values


def full_scan_bytes(entries: int, dimension: int) -> int:
    """Read by one query that scans every embedding as float32."""
    return 4 * entries * dimension


def two_stage_bytes(entries: int, code_bits: int, dimension: int, pool_size: int) -> int:
    """Read by one two-stage query: every code, and the pool's embeddings as float16."""
    return entries * code_bits // 8 + 2 * dimension * min(pool_size, entries)


def two_stage_curve(  # noqa: PLR0917 -- two sides of three arrays each, in the order of the other metrics
    query_codes: Codes,
    query_embeddings: Embeddings,
    query_labels: Labels,
    gallery_codes: Codes,
    gallery_embeddings: Embeddings,
    gallery_labels: Labels,
    *,
    pool_sizes: Sequence[int],
    code_weight: float,
    embedding_weight: float,
) -> tuple[CurvePoint, ...]:
    """One point per pool size, in the given order; 0 ranks by codes alone, N or more is a fused scan.

    Codes (Q | N, L // 8), embeddings (Q | N, D) of unit length, labels (Q | N,): equal ones are relevant, a
    negative one to nothing. The pool is the first `pool_size` by Hamming distance, equal ones by row; within
    it the score is code_weight * (1 - 2 * distance / L) + embedding_weight * cosine. Average precision is its
    expectation over the orders of equal scores. Raises ValueError on shapes that do not match and on a
    negative pool size.
    """
    _check((query_codes, query_embeddings, query_labels), (gallery_codes, gallery_embeddings, gallery_labels))
    if any(pool < 0 for pool in pool_sizes):
        raise ValueError(f"pool sizes are {tuple(pool_sizes)}, they must be at least 0")
    count, entries = len(query_codes), len(gallery_codes)
    gallery_signs = signs_of(gallery_codes)
    bits = gallery_signs.shape[1]
    stored = gallery_embeddings.astype(np.float16).astype(np.float32)
    values = np.full((len(pool_sizes), count), np.nan)
    block = max(1, _BLOCK_PAIRS // max(1, entries))
    for start in range(0, count if entries else 0, block):
        rows = slice(start, start + block)
        similarities = signs_of(query_codes[rows]) @ gallery_signs.T  # (B, N), bits - 2 * distance
        distances = ((bits - similarities) / 2).astype(np.uint16)
        order = np.argsort(distances, axis=1, kind="stable")
        fused = similarities.astype(np.float64) * (code_weight / bits)
        # Pair by pair: a matrix product rounds copies of one entry differently, and so breaks their ties.
        fused += embedding_weight * np.vecdot(query_embeddings[rows][:, None], stored)
        asked = query_labels[rows, None]
        relevant = (asked == gallery_labels) & (asked >= 0)
        for point, pool in enumerate(pool_sizes):
            values[point, rows] = _average_precision(order, distances, fused, relevant, pool)
    dimension = gallery_embeddings.shape[1]
    return tuple(
        CurvePoint(pool, two_stage_bytes(entries, bits, dimension, pool), own)
        for pool, own in zip(pool_sizes, values)
    )


def _average_precision(
    order: NDArray[np.intp],
    distances: NDArray[np.uint16],
    fused: Values,
    relevant: NDArray[np.bool_],
    pool: int,
) -> Values:
    """(B,) average precision at 100; all arrays (B, N), order: rows by distance."""
    drawn, rest = order[:, :pool], order[:, pool:]
    scores = np.take_along_axis(fused, drawn, axis=1)
    drawn = np.take_along_axis(drawn, np.argsort(-scores, axis=1), axis=1)
    keys = np.take_along_axis(fused, drawn, axis=1)
    is_first = _changes(keys)
    ranked = drawn
    if pool < DEPTH:  # the places left are filled from what was not drawn
        ranked = np.concatenate([drawn, rest], axis=1)
        is_first = np.concatenate([is_first, _changes(np.take_along_axis(distances, rest, axis=1))], axis=1)
    wanted = relevant.sum(axis=1)
    groups = TieGroups.of_ranked(is_first, np.take_along_axis(relevant, ranked, axis=1))
    return np.where(wanted > 0, groups.precision_at(DEPTH, wanted), np.nan)


def _changes(keys: NDArray[np.float64] | NDArray[np.uint16]) -> NDArray[np.bool_]:
    """(B, M) sorted keys -> where one differs from the one before it; the first always does."""
    changed = np.ones(keys.shape, dtype=np.bool_)
    np.not_equal(keys[:, 1:], keys[:, :-1], out=changed[:, 1:])
    return changed


def _check(queries: tuple[Codes, Embeddings, Labels], gallery: tuple[Codes, Embeddings, Labels]) -> None:
    for title, (codes, embeddings, labels) in (("query", queries), ("gallery", gallery)):
        if codes.ndim != 2 or embeddings.ndim != 2 or not len(codes) == len(embeddings) == len(labels):
            raise ValueError(
                f"{title} codes are {codes.shape}, embeddings {embeddings.shape} and labels {labels.shape}, "
                "expected (N, L // 8), (N, D) and (N,)"
            )
        if not np.isfinite(embeddings).all():
            raise ValueError(f"{title} embeddings hold values that are not finite")
    for name, one, other in (("codes", queries[0], gallery[0]), ("embeddings", queries[1], gallery[1])):
        if one.shape[1] != other.shape[1]:
            raise ValueError(f"{name} of queries are {one.shape} and of the gallery {other.shape}")
