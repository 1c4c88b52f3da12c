"""Calibrates version 1.0 on validation data and reports it on held-out queries."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.base_version.sets import EncodedSet, Parts, encode_set, joined
from ml.evaluation.metrics import Ranking, average_precision, mean_of, recall_at
from ml.protocol import Calibration, Encoder
from ml.training.calibration import Fusion, Similarities, calibrate, pool_recall, rankings

Scorer = Callable[[Similarities], NDArray[np.float64] | NDArray[np.float32]]


def similarities(queries: EncodedSet, gallery: EncodedSet, *, hide_own_class: bool = False) -> Similarities:
    """Every query against every entry. hide_own_class: relevant entries get similarity -1, as if absent."""
    code = queries.signs @ gallery.signs.T / queries.signs.shape[1]
    cosine = queries.embeddings @ gallery.embeddings.T
    relevant = (queries.names[:, None] == gallery.names[None, :]) & (gallery.names != np.array(None))[None, :]
    if hide_own_class:
        code = np.where(relevant, np.float32(-1), code)
        cosine = np.where(relevant, np.float32(-1), cosine)
        relevant = np.zeros_like(relevant)
    return Similarities(code=code, cosine=cosine, relevant=relevant)


def without_self(pairs: Similarities, first: int) -> Similarities:
    """Query i as if entry `first` + i, which is its own picture, were not in the gallery."""
    queries = np.arange(len(pairs.code))
    code, cosine, relevant = pairs.code.copy(), pairs.cosine.copy(), pairs.relevant.copy()
    code[queries, first + queries] = cosine[queries, first + queries] = -1
    relevant[queries, first + queries] = False
    return Similarities(code=code, cosine=cosine, relevant=relevant)


def calibrate_and_report(encoder: Encoder, parts: Parts) -> tuple[Calibration, dict[str, Any]]:
    """Fit the calibration on known and unknown validation queries, then measure once on what is held out."""
    training, unknown, known = (
        encode_set(encoder, part) for part in (parts.training, parts.unknown, parts.known)
    )
    choosing = joined(training, unknown)
    known_pairs = similarities(known, choosing)
    unknown_pairs = similarities(unknown, choosing, hide_own_class=True)
    unseen_pairs = without_self(similarities(unknown, choosing), len(training))
    calibration = calibrate(known_pairs, unseen_pairs, unknown_pairs, unknown.packs)
    fusion = Fusion(calibration.intercept, calibration.code_weight, calibration.embedding_weight)

    gallery, queries = encode_set(encoder, parts.gallery), encode_set(encoder, parts.queries)
    test_pairs = similarities(queries, gallery)
    metrics: dict[str, Any] = {
        "gallery_images": len(gallery),
        "validation": _by_pack(known, known_pairs, fusion),
        "validation_classes": _by_pack(unknown, unseen_pairs, fusion),
        "test": _by_pack(queries, test_pairs, fusion),
        "pool_recall_at_10": {
            "validation": round(pool_recall(known_pairs, fusion, calibration.pool_size), 4),
            "test": round(pool_recall(test_pairs, fusion, calibration.pool_size), 4),
        },
        "strong_share": {
            "validation_classes_hidden": _strong(unknown, unknown_pairs, fusion, calibration),
            "test_correct_best": _strong(queries, test_pairs, fusion, calibration, correct=True),
            "test_wrong_best": _strong(queries, test_pairs, fusion, calibration, correct=False),
        },
    }
    for name, part in (("reserved_classes", parts.reserved), ("unlabelled_extra", parts.distractors)):
        if part:
            encoded = encode_set(encoder, part)
            pairs = similarities(encoded, gallery)
            metrics["strong_share"][name] = _strong(encoded, pairs, fusion, calibration)
    return calibration, metrics


def report_plain(encoder: Encoder, parts: Parts) -> dict[str, Any]:
    """Test figures of an encoder without calibration (similarities simply added): for baselines."""
    gallery, queries = encode_set(encoder, parts.gallery), encode_set(encoder, parts.queries)
    return _by_pack(queries, similarities(queries, gallery), Fusion(0.0, 1.0, 1.0))


def _by_pack(queries: EncodedSet, pairs: Similarities, fusion: Fusion) -> dict[str, Any]:
    """Recall@1, Recall@10 and mAP of each stage, for each pack and over all queries."""
    stages: dict[str, Scorer] = {
        "fused": lambda p: fusion.code_weight * p.code + fusion.embedding_weight * p.cosine,
        "embedding": lambda p: p.cosine,
        "code": lambda p: p.code,
    }
    result: dict[str, Any] = {}
    for stage, scorer in stages.items():
        ranked = list(rankings(scorer(pairs), pairs.relevant))
        for pack in [*sorted(set(queries.packs)), "all"]:
            chosen = [one for one, name in zip(ranked, queries.packs) if pack in (name, "all")]
            result.setdefault(pack, {"queries": len(chosen)})[stage] = _figures(chosen)
    return result


def _figures(rankings_of_queries: list[Ranking]) -> dict[str, float]:
    values = {
        "recall_at_1": [recall_at(ranking, 1) for ranking in rankings_of_queries],
        "recall_at_10": [recall_at(ranking, 10) for ranking in rankings_of_queries],
        "map": [average_precision(ranking) for ranking in rankings_of_queries],
    }
    return {name: round(mean_of(np.array(found))[0], 4) for name, found in values.items()}


def _strong(
    queries: EncodedSet,
    pairs: Similarities,
    fusion: Fusion,
    calibration: Calibration,
    *,
    correct: bool | None = None,
) -> dict[str, Any]:
    """Share of queries with a strong best, by pack; `correct` keeps those with a (not) relevant best."""
    scores = fusion.probability(pairs.code, pairs.cosine)
    best = scores.argmax(axis=1)
    rows = np.arange(len(best))
    chosen = np.ones(len(best), dtype=np.bool_) if correct is None else pairs.relevant[rows, best] == correct
    strong = scores[rows, best] >= calibration.strong
    packs = np.array(queries.packs)
    groups = {"all": chosen} | {name: chosen & (packs == name) for name in sorted(set(queries.packs))}
    return {
        name: {
            "queries": int(mask.sum()),
            "strong": round(float(strong[mask].mean()), 4) if mask.any() else 0.0,
        }
        for name, mask in groups.items()
    }
