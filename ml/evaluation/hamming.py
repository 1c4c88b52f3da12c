"""Retrieval metrics of short codes, from counts per Hamming distance instead of sorted rankings.

A query's ranking by Hamming distance is fully described by how many entries, and how many relevant ones, stand
at each of its L + 1 distances. The values are those of `ml.evaluation.retrieval` on `signs_of` the codes.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.metrics import mean_of
from ml.evaluation.retrieval import signs_of
from ml.evaluation.ties import TieGroups, harmonic_numbers

Codes = NDArray[np.uint8]
Labels = NDArray[np.int64]
Values = NDArray[np.float64]

NEAR = 2  # bits
_BLOCK_PAIRS = 1_000_000  # distances held at a time: about 20 MB


@dataclass(frozen=True, slots=True)
class HammingValues:
    """Per query (Q,) float64 in [0, 1], NaN for a query that has no relevant gallery entry.

    recall_at_1: 1 when the nearest entry, of several the first row, is relevant. map_at_100, map_at_1000, map:
    average precision at 100, at 1000 and over the full ranking, its expectation over all orders of equal
    distances. precision_within_2: relevant share of the entries within 2 bits, 0 when there are none.
    """

    recall_at_1: Values
    map_at_100: Values
    map_at_1000: Values
    map: Values
    precision_within_2: Values

    def per_query(self) -> dict[str, Values]:
        """Metric name -> (Q,) values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def means(self) -> dict[str, float]:
        """Metric name -> mean over the queries that have a value; NaN when none has."""
        return {name: mean_of(values)[0] for name, values in self.per_query().items()}


def hamming_values(
    query_codes: Codes,
    query_labels: Labels,
    gallery_codes: Codes,
    gallery_labels: Labels,
    *,
    left_out: Labels | None = None,
) -> HammingValues:
    """Rank gallery codes (N, L // 8) for each of the query codes (Q, L // 8), smallest distance first.

    Labels are (Q,) and (N,); equal labels are relevant, a negative one is relevant to nothing. left_out: (Q,)
    gallery row that is the query itself and is not to be found, -1 for none. Raises ValueError on shapes that
    do not match.
    """
    _check(query_codes, query_labels, gallery_codes, gallery_labels, left_out)
    count, size = len(query_codes), len(gallery_codes)
    gallery = signs_of(gallery_codes)
    bits = gallery.shape[1]
    block = max(1, _BLOCK_PAIRS // max(1, size))
    entries = np.zeros((count, bits + 1), np.int64)  # at each distance
    relevant = np.zeros((count, bits + 1), np.int64)
    hits = np.zeros(count)
    for start in range(0, count if size else 0, block):
        rows = slice(start, start + block)
        out = None if left_out is None else left_out[rows]
        # Inner products of signs are bits - 2 * distance: one matrix product counts all bits.
        distances = ((bits - signs_of(query_codes[rows]) @ gallery.T) / 2).astype(np.intp)  # (B, N)
        same = (query_labels[rows, None] == gallery_labels) & (query_labels[rows, None] >= 0)
        if out is not None:
            own = np.flatnonzero(out >= 0)
            distances[own, out[own]] = bits + 1  # behind every distance, and cut off below
            same[own, out[own]] = False
        hits[rows] = same[np.arange(len(distances)), distances.argmin(axis=1)]
        entries[rows], relevant[rows] = _counts(distances, same, bits)
    return _measured(entries, relevant, hits)


def _counts(distances: NDArray[np.intp], same: NDArray[np.bool_], bits: int) -> tuple[Labels, Labels]:
    """(B, bits + 1) entries and relevant entries at each distance from 0 to bits."""
    shape = (len(distances), bits + 2)
    places = distances + (np.arange(shape[0]) * shape[1])[:, None]
    entries = np.bincount(places.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    relevant = np.bincount(places[same], minlength=shape[0] * shape[1]).reshape(shape)
    return entries[:, :-1], relevant[:, :-1]


def _measured(entries: Labels, relevant: Labels, hits: Values) -> HammingValues:
    """entries, relevant: (Q, bits + 1) counts at each distance; hits: (Q,) 1 where the nearest is relevant."""
    query, distance = np.nonzero(relevant)
    starts, before = np.cumsum(entries, axis=1) - entries, np.cumsum(relevant, axis=1) - relevant
    at = (query, distance)
    deepest = int(entries.sum(axis=1).max(initial=0))
    groups = TieGroups(
        query, starts[at], entries[at], relevant[at], before[at], harmonic_numbers(deepest), len(entries)
    )
    wanted = relevant.sum(axis=1)
    near = relevant[:, : NEAR + 1].sum(axis=1) / np.maximum(1, entries[:, : NEAR + 1].sum(axis=1))
    values = {
        "recall_at_1": hits,
        "map_at_100": groups.precision_at(100, wanted),
        "map_at_1000": groups.precision_at(1000, wanted),
        "map": groups.precision_at(max(1, deepest), wanted),
        "precision_within_2": near,
    }
    return HammingValues(**{name: np.where(wanted > 0, found, np.nan) for name, found in values.items()})


def _check(queries: Codes, query_labels: Labels, gallery: Codes, labels: Labels, out: Labels | None) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query codes are {queries.shape} and gallery codes {gallery.shape}, expected (Q, L // 8) and "
            "(N, L // 8)"
        )
    if len(query_labels) != len(queries) or len(labels) != len(gallery):
        raise ValueError(
            f"{len(queries)} query codes with {len(query_labels)} labels, "
            f"{len(gallery)} gallery codes with {len(labels)} labels"
        )
    if out is not None and (len(out) != len(queries) or (len(out) and out.max() >= len(gallery))):
        raise ValueError(
            f"left_out must give each of {len(queries)} queries a row below {len(gallery)} or -1"
        )
