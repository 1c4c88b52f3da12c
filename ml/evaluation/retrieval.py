"""Retrieval metrics of many queries at once, by matrix products and sorted integer keys.

The values are those of `ml.evaluation.metrics`, query by query, and so are the conventions: where a single
order is needed (Recall@k, precision@k, kNN) equal scores are ordered by gallery row, smallest first; average
precision is its expectation over all orders of equal scores; a query without a relevant entry has no value
(NaN). A score is one float32 inner product, so the function serves cosine (unit vectors), Hamming distance
(`signs_of` packed codes: integers, exact, ties and all) and any weighted sum of the two (concatenated columns
scaled by the square roots of the weights).
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.metrics import mean_of
from ml.evaluation.ties import TieGroups, harmonic_numbers

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]
Values = NDArray[np.float64]

SHALLOW_DEPTH = 100  # the deepest place that Recall@k, precision@k and mAP@100 look at
NEIGHBOURS = 5
_NEVER = np.int64(np.iinfo(np.int32).max) << np.int64(32)
_BLOCK_SCORES = 2_000_000  # scores held at a time: about 50 MB with their keys


@dataclass(frozen=True, slots=True)
class RetrievalValues:
    """Per query (Q,) float64 in [0, 1], NaN for a query that has no relevant gallery entry.

    recall_at_k: 1 when one of the first k is relevant. precision_at_k: relevant share of the first k (of the
    whole gallery when it is smaller). map_at_100, map_at_1000, map: average precision at 100, at 1000 and over
    the full ranking. map_at_r: average precision at R, the number of relevant entries. knn_5: 1 when the most
    frequent label of the first five is the query's, the nearest deciding between equally frequent ones.
    """

    recall_at_1: Values
    recall_at_5: Values
    recall_at_10: Values
    precision_at_10: Values
    precision_at_100: Values
    map_at_100: Values
    map_at_r: Values
    knn_5: Values
    map: Values | None  # None when it was not asked for
    map_at_1000: Values | None = None  # likewise

    def per_query(self) -> dict[str, Values]:
        """Metric name -> (Q,) values, for those that were computed."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: values for name, values in found.items() if values is not None}

    def means(self) -> dict[str, float]:
        """Metric name -> mean over the queries that have a value; NaN when none has."""
        return {name: mean_of(values)[0] for name, values in self.per_query().items()}


def signs_of(packed_codes: NDArray[np.uint8]) -> Vectors:
    """(N, L // 8) packed codes -> (N, L) of -1 / +1: inner products are L - 2 * Hamming distance, exactly."""
    return np.unpackbits(packed_codes, axis=1).astype(np.float32) * 2 - 1


def retrieval_values(
    queries: Vectors,
    query_labels: Labels,
    gallery: Vectors,
    gallery_labels: Labels,
    *,
    left_out: Labels | None = None,
    deep: bool = True,
    thousand: bool = False,
) -> RetrievalValues:
    """Rank gallery (N, D) for each of queries (Q, D) by inner product, highest first, and measure.

    Labels are (Q,) and (N,); equal labels are relevant, a negative one is relevant to nothing. left_out: (Q,)
    gallery row that is the query itself and is not to be found, -1 for none. deep=False leaves out `map`,
    which saves about a third of the time; thousand=True adds `map_at_1000`. Raises ValueError on shapes that
    do not match and on values that are not finite.
    """
    _check(queries, query_labels, gallery, gallery_labels, left_out)
    count, size = len(queries), len(gallery)
    columns = {field.name: np.full(count, np.nan) for field in fields(RetrievalValues)}
    if size:
        block = max(1, _BLOCK_SCORES // size)
        for start in range(0, count, block):
            rows = slice(start, start + block)
            out = None if left_out is None else left_out[rows]
            scores = queries[rows] @ gallery.T  # (B, N)
            found = _block(scores, query_labels[rows], gallery_labels, out, deep=deep, thousand=thousand)
            for name, values in found.items():
                columns[name][rows] = values
    measured = RetrievalValues(**columns)
    return replace(
        measured,
        map=measured.map if deep else None,
        map_at_1000=measured.map_at_1000 if thousand else None,
    )


def _block(
    scores: Vectors,
    query_labels: Labels,
    gallery_labels: Labels,
    left_out: Labels | None,
    *,
    deep: bool,
    thousand: bool,
) -> dict[str, Values]:
    """All metrics of the queries of one block; scores (B, N)."""
    count, size = scores.shape
    relevant = (query_labels[:, None] == gallery_labels) & (query_labels >= 0)[:, None]
    keys = _keys(scores, relevant)
    sizes = np.full(count, size)
    if left_out is not None:
        own = np.flatnonzero(left_out >= 0)
        relevant[own, left_out[own]] = False
        keys[own, left_out[own]] = _NEVER | left_out[own] << 1  # behind every score, and not relevant
        sizes[own] -= 1
    wanted = relevant.sum(axis=1)
    shallow = max(1000 if thousand else SHALLOW_DEPTH, int(wanted.max(initial=0)))
    depth = size if deep else min(size, shallow)
    ranked = _first(keys, depth)  # (B, depth)
    groups = _groups(ranked, keys)
    hits = (ranked[:, :SHALLOW_DEPTH] & 1).astype(np.int64)
    values = {f"recall_at_{k}": hits[:, :k].any(axis=1).astype(np.float64) for k in (1, 5, 10)}
    for k in (10, 100):
        values[f"precision_at_{k}"] = hits[:, :k].sum(axis=1) / np.maximum(1, np.minimum(k, sizes))
    values["knn_5"] = _votes(ranked[:, :NEIGHBOURS], sizes, gallery_labels) == query_labels
    for k in (100, 1000) if thousand else (100,):
        values[f"map_at_{k}"] = groups.precision_at(k, wanted)
    values["map_at_r"] = groups.precision_sums(wanted) / np.maximum(1, wanted)
    if deep:
        values["map"] = groups.precision_sums(sizes) / np.maximum(1, wanted)
    return {name: np.where(wanted > 0, found, np.nan) for name, found in values.items()}


def _keys(scores: Vectors, relevant: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(B, N) keys that sort as (score descending, row ascending); the lowest bit says whether relevant."""
    bits = (scores + np.float32(0)).view(np.int32)  # + 0: the two zeros are one score
    falling = ~(bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF)))
    keys = falling.astype(np.int64) << 32
    keys |= np.arange(scores.shape[1], dtype=np.int64) << 1
    keys |= relevant
    return keys


def _first(keys: NDArray[np.int64], depth: int) -> NDArray[np.int64]:
    """The `depth` smallest keys of each row, in order."""
    if depth < keys.shape[1]:
        keys = np.partition(keys, depth - 1, axis=1)[:, :depth]
    return np.sort(keys, axis=1)


def _votes(nearest: NDArray[np.int64], sizes: Labels, gallery_labels: Labels) -> Labels:
    """The most frequent label of the nearest entries (B, k), the nearest deciding between equals."""
    labels = gallery_labels[(nearest & 0xFFFFFFFF) >> 1]
    voting = (np.arange(nearest.shape[1]) < sizes[:, None]) & (labels >= 0)
    alike = ((labels[:, :, None] == labels[:, None, :]) & voting[:, None, :]).sum(axis=2) * voting
    best = alike.argmax(axis=1)  # the first of equals
    return np.where(alike.max(axis=1) > 0, labels[np.arange(len(labels)), best], -1)


def _groups(ranked: NDArray[np.int64], keys: NDArray[np.int64]) -> TieGroups:
    """Groups of the ranked keys (B, M): those that hold something relevant and each query's last one, which
    may reach below M and is counted in all keys (B, N).
    """
    count, depth = ranked.shape
    order = (ranked >> 32).astype(np.int32)
    is_start = np.ones((count, depth), dtype=np.bool_)
    np.not_equal(order[:, 1:], order[:, :-1], out=is_start[:, 1:])
    starts = np.append(np.flatnonzero(is_start), count * depth)
    group = np.cumsum(is_start, dtype=np.int32) - 1  # of each place of the block
    ends = group[depth - 1 :: depth]  # of each query
    hits = group[np.flatnonzero((ranked & 1).astype(np.bool_))]
    kept, found = np.unique(np.concatenate([hits, ends]), return_counts=True)
    final = np.searchsorted(kept, ends)
    found[final] -= 1
    query = starts[kept] // depth
    before = np.cumsum(found) - found
    before -= before[np.searchsorted(query, np.arange(count))][query]
    sizes = starts[kept + 1] - starts[kept]
    if depth < keys.shape[1]:
        same = (keys >> 32).astype(np.int32) == order[:, -1:]
        sizes[final] = same.sum(axis=1)
        found[final] = (same & (keys & 1).astype(np.bool_)).sum(axis=1)
    return TieGroups(
        query, starts[kept] % depth, sizes, found, before, harmonic_numbers(keys.shape[1]), count
    )


def _check(
    queries: Vectors, query_labels: Labels, gallery: Vectors, gallery_labels: Labels, left_out: Labels | None
) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries are {queries.shape} and gallery {gallery.shape}, expected (Q, D) and (N, D)"
        )
    if len(query_labels) != len(queries) or len(gallery_labels) != len(gallery):
        raise ValueError(
            f"{len(queries)} queries with {len(query_labels)} labels, "
            f"{len(gallery)} entries with {len(gallery_labels)} labels"
        )
    if left_out is not None and (
        len(left_out) != len(queries) or (len(left_out) and left_out.max() >= len(gallery))
    ):
        raise ValueError(
            f"left_out must give each of {len(queries)} queries a row below {len(gallery)} or -1"
        )
    for name, vectors in (("queries", queries), ("gallery", gallery)):
        if not np.isfinite(vectors).all():
            raise ValueError(f"{name} hold values that are not finite")
