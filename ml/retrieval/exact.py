"""The oracle of the two-stage search: every entry of a view scored in full, without shortlist or index."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ml.protocol import Calibration, hamming_to_similarity
from ml.retrieval.columns import EntryColumns, EntryFilter, ItemColumns
from ml.retrieval.scoring import Hit, strength_of
from ml.retrieval.two_stage import QueryVectors, calibrated_producers, check_vectors
from ml.retrieval.view import GalleryView

# Rows converted to float32 at a time: 16 MB at 128 dimensions.
_CHUNK = 32_768


def search(
    view: GalleryView,
    query: QueryVectors,
    *,
    k: int,
    where: EntryFilter | None = None,
    calibrations: Mapping[str, Calibration],
    group: bool = True,
) -> tuple[Hit, ...]:
    """What `two_stage.search` would answer with pools that hold the whole gallery. Same arguments, same
    errors.
    """
    check_vectors(view, query, k)
    calibrated_producers(view, calibrations)
    entries, items = view.compacted_entries(), view.items.compacted()
    if where is not None:
        entries = entries.taken(_passing(entries, items, where))
    hamming = np.bitwise_count(entries.codes ^ query.packed_code).sum(axis=1, dtype=np.int32)
    cosines = exact_cosines(entries.embeddings, query.embedding)
    used = [calibrations[name] for name in entries.producer_names]
    logits = _logits(entries, hamming, cosines, used)
    hits: list[Hit] = []
    seen: set[int] = set()
    for row in np.lexsort((entries.entry_ids, -logits)):
        item_id = int(entries.item_ids[row])
        if group and item_id in seen:
            continue
        seen.add(item_id)
        producer = int(entries.producers[row])
        score = float(1 / (1 + np.exp(-logits[row])))
        hits.append(
            Hit(
                item_id,
                int(entries.image_ids[row]),
                int(entries.entry_ids[row]),
                score,
                int(hamming[row]),
                float(cosines[row]),
                entries.producer_names[producer],
                strength_of(score, used[producer]),
            )
        )
        if len(hits) == k:
            break
    return tuple(hits)


def exact_cosines(embeddings: NDArray[np.float16], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products of (N, D) float16 rows with a (D,) float32 query, as (N,) float32, in bounded memory."""
    cosines = np.empty(len(embeddings), np.float32)
    for start in range(0, len(embeddings), _CHUNK):
        chunk = embeddings[start : start + _CHUNK].astype(np.float32)
        cosines[start : start + _CHUNK] = np.vecdot(chunk, query)
    return cosines


def _logits(
    entries: EntryColumns, hamming: NDArray[np.int32], cosines: NDArray[np.float32], used: list[Calibration]
) -> NDArray[np.float64]:
    logits = np.empty(len(entries))
    similarity = hamming_to_similarity(hamming, entries.code_bits).astype(np.float64)
    for position, calibration in enumerate(used):
        own = entries.producers == position
        logits[own] = (
            calibration.intercept
            + calibration.code_weight * similarity[own]
            + calibration.embedding_weight * cosines[own].astype(np.float64)
        )
    return logits


def _passing(entries: EntryColumns, items: ItemColumns, where: EntryFilter) -> NDArray[np.bool_]:
    passes = np.ones(len(items), np.bool_)
    if where.category_ids is not None:
        passes &= np.isin(items.category_ids, list(where.category_ids))
    if where.vertical is not None:
        passes &= items.verticals == where.vertical
    for tag_id in where.tag_ids:
        passes &= np.isin(np.arange(len(items)), items.tag_rows[items.tag_ids == tag_id])
    if where.price_min is not None:
        passes &= items.prices >= np.float32(where.price_min)
    if where.price_max is not None:
        passes &= items.prices <= np.float32(where.price_max)
    kept = np.isin(entries.item_ids, items.item_ids[passes])
    kept &= ~np.isin(entries.item_ids, list(where.excluded_item_ids))
    return kept & ~np.isin(entries.image_ids, list(where.excluded_image_ids))
