"""Calibrates version 1.0 on validation data and reports it on held-out queries."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.base_version.sets import EncodedParts, EncodedSet, Parts, encode_parts, encode_set
from ml.evaluation.metrics import Ranking, average_precision, mean_of, recall_at
from ml.protocol import Calibration, Encoder
from ml.training.calibration import Fusion, Similarities, calibrate, pool_recall, rankings

Stages = dict[str, dict[str, NDArray[np.float64]]]  # stage -> metric -> (Q,) values


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
    own = encode_parts(encoder, parts)
    calibration = calibrate(*_choosing_pairs(own, own), own.unknown.packs)
    metrics = report(own, own, calibration)
    for name, part in (("reserved_classes", parts.reserved), ("unlabelled_extra", parts.distractors)):
        if part:
            encoded = encode_set(encoder, part)
            metrics["strong_share"][name] = _strong(
                encoded, similarities(encoded, own.gallery), fusion_of(calibration), calibration
            )
    return calibration, metrics


def report(asking: EncodedParts, stored: EncodedParts, calibration: Calibration) -> dict[str, Any]:
    """Figures of one encoder's queries against the entries that one encoder, itself or another, has stored."""
    fusion = fusion_of(calibration)
    known_pairs, unseen_pairs, unknown_pairs = _choosing_pairs(asking, stored)
    test_pairs = similarities(asking.queries, stored.gallery)
    return {
        "gallery_images": len(stored.gallery),
        "validation": _by_pack(asking.known, known_pairs, fusion),
        "validation_classes": _by_pack(asking.unknown, unseen_pairs, fusion),
        "test": _by_pack(asking.queries, test_pairs, fusion),
        "pool_recall_at_10": {
            "validation": round(pool_recall(known_pairs, fusion, calibration.pool_size), 4),
            "test": round(pool_recall(test_pairs, fusion, calibration.pool_size), 4),
        },
        "strong_share": {
            "validation_classes_hidden": _strong(asking.unknown, unknown_pairs, fusion, calibration),
            "test_correct_best": _strong(asking.queries, test_pairs, fusion, calibration, correct=True),
            "test_wrong_best": _strong(asking.queries, test_pairs, fusion, calibration, correct=False),
        },
    }


def _choosing_pairs(
    asking: EncodedParts, stored: EncodedParts
) -> tuple[Similarities, Similarities, Similarities]:
    """Queries of trained classes, of classes that only the gallery holds, and of classes that it lacks."""
    gallery = stored.choosing()
    return (
        similarities(asking.known, gallery),
        without_self(similarities(asking.unknown, gallery), len(stored.training)),
        similarities(asking.unknown, gallery, hide_own_class=True),
    )


def fusion_of(calibration: Calibration) -> Fusion:
    """The part of a calibration that ranks."""
    return Fusion(calibration.intercept, calibration.code_weight, calibration.embedding_weight)


def report_plain(encoder: Encoder, parts: Parts) -> dict[str, Any]:
    """Test figures of an encoder without calibration (similarities simply added): for baselines."""
    gallery, queries = encode_set(encoder, parts.gallery), encode_set(encoder, parts.queries)
    return _by_pack(queries, similarities(queries, gallery), Fusion(0.0, 1.0, 1.0))


def stage_values(pairs: Similarities, fusion: Fusion) -> Stages:
    """Stage -> metric -> value of each query (Q,), NaN where nothing is relevant.

    Stages are the fused answer, embeddings alone and codes alone; metrics recall_at_1, recall_at_10 and map.
    """
    scores = {
        "fused": fusion.code_weight * pairs.code + fusion.embedding_weight * pairs.cosine,
        "embedding": pairs.cosine,
        "code": pairs.code,
    }
    return {stage: _values(list(rankings(found, pairs.relevant))) for stage, found in scores.items()}


def figures_of(values: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Metric -> mean over the queries that have a value, to four digits."""
    return {name: round(mean_of(found)[0], 4) for name, found in values.items()}


def _by_pack(queries: EncodedSet, pairs: Similarities, fusion: Fusion) -> dict[str, Any]:
    """Recall@1, Recall@10 and mAP of each stage, for each pack and over all queries."""
    packs = np.array(queries.packs)
    groups = {name: packs == name for name in sorted(set(queries.packs))}
    groups["all"] = np.ones(len(packs), dtype=np.bool_)
    result: dict[str, Any] = {name: {"queries": int(chosen.sum())} for name, chosen in groups.items()}
    for stage, values in stage_values(pairs, fusion).items():
        for name, chosen in groups.items():
            result[name][stage] = figures_of({metric: found[chosen] for metric, found in values.items()})
    return result


def _values(rankings_of_queries: list[Ranking]) -> dict[str, NDArray[np.float64]]:
    return {
        "recall_at_1": np.array([recall_at(ranking, 1) for ranking in rankings_of_queries]),
        "recall_at_10": np.array([recall_at(ranking, 10) for ranking in rankings_of_queries]),
        "map": np.array([average_precision(ranking) for ranking in rankings_of_queries]),
    }


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
