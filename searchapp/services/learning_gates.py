"""What an increment is worth before it goes live: held-out queries, two-stage and calibrated, by it and by its parent.

Everything is asked of features, which both versions share: no picture is opened that was seen before.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import Bundle
from ml.base_version.increment import stored_outputs
from ml.evaluation.intervals import clustered_interval, paired_interval
from ml.evaluation.retrieval import signs_of
from ml.evaluation.two_stage import METRICS, CodedSet
from ml.methods.lifelong.gate import Gate, GateInput, increment_gates
from ml.protocol import Calibration, Encoded
from ml.retrieval.columns import EntryColumns
from searchapp.models import ModelVersion
from searchapp.services import versions
from searchapp.services.corrected_views import entries_corrected
from searchapp.services.gallery_columns import read_entries
from searchapp.services.held_out import HeldOut, held_out_queries
from searchapp.services.held_out_answers import Asked, Values, gallery_answers
from searchapp.services.learning import waiting_ids
from searchapp.services.learning_material import NewPhoto
from searchapp.services.learning_proof import OldCodes
from searchapp.services.photo_features import Heard, features_ensure

SEED = 0


@dataclass(frozen=True, slots=True)
class NewCodes:
    """Codes and embeddings of photos of the new categories, row by row, as they are to be stored."""

    photos: tuple[NewPhoto, ...]
    packed_codes: NDArray[np.uint8]
    embeddings: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Judged:
    """The gates' verdicts; of queries of old and of new categories how many there are, and METRICS before and after."""

    gates: tuple[Gate, ...]
    old: Mapping[str, Any]
    new: Mapping[str, Any]


def judged(
    version: ModelVersion,
    bundle: Bundle,
    new: NewCodes,
    codes: OldCodes,
    learned: Collection[int],
    *,
    corrector_digest: str,
    heard: Heard,
) -> Judged:
    """Ask `version` and `bundle`, learned on it, the held-out queries of old and of new categories, in the gallery as
    it is seen through that corrector, if it is."""
    queries, features = _asked(version, learned, heard)
    items = np.array([query.cluster for query in queries], np.int64)
    is_new = np.array([query.category_id in learned for query in queries], np.bool_)
    parent = versions.bundle_of(version)
    calibrations = versions.calibrations_of(version, parent, corrector_digest=corrector_digest)
    gallery = entries_corrected(read_entries(version), version, corrector_digest)
    before = _values(queries, stored_outputs(parent, None, features), gallery, calibrations)
    own = "increment"
    after = _values(
        queries,
        stored_outputs(bundle, None, features),
        gallery_after(gallery, new, producer=own),
        {**calibrations, own: bundle.calibration},
    )
    sides = [
        GateInput(
            old_codes=digest,
            old_entries=codes.checked,
            old_precision=values["map"][~is_new],
            new_precision=values["map"][is_new],
        )
        for digest, values in ((codes.before, before), (codes.after, after))
    ]
    gates = increment_gates(
        *sides,
        old_items=items[~is_new],
        new_items=items[is_new],
        weights={**bundle.weights, **(bundle.text or {})},
    )
    return Judged(
        tuple(gates), _summary(before, after, items, ~is_new), _summary(before, after, items, is_new)
    )


def gallery_after(gallery: EntryColumns, new: NewCodes, *, producer: str) -> EntryColumns:
    """The gallery in which the photos of the new categories have their new entries instead of provisional ones."""
    of_new = {photo.image_id: row for row, photo in enumerate(new.photos)}
    place = np.array([of_new.get(image, -1) for image in gallery.image_ids.tolist()], np.int64)
    rows = np.flatnonzero(place >= 0)
    found = place[rows]
    return gallery.rewritten(
        rows, codes=new.packed_codes[found], embeddings=new.embeddings[found], producer=producer
    )


def _asked(
    version: ModelVersion, learned: Collection[int], heard: Heard
) -> tuple[list[HeldOut], NDArray[np.float32]]:
    """Held-out queries whose picture can be read, all of the new categories among them, and their features.

    Those of categories that still wait are neither old nor new.
    """
    waiting = set(waiting_ids(version)).difference(learned)
    queries = held_out_queries(with_categories=learned)
    queries = [query for query in queries if query.category_id not in waiting]
    features = features_ensure(version, [(query.image_sha256, query.path) for query in queries], heard=heard)
    queries = [query for query in queries if query.image_sha256 in features]
    width = versions.bundle_of(version).weights["embedding_head.weight"].shape[1]
    empty = np.empty((0, width), np.float32)
    return queries, np.stack([features[query.image_sha256] for query in queries]) if queries else empty


def _values(
    queries: Sequence[HeldOut], asked: Encoded, gallery: EntryColumns, calibrations: Mapping[str, Calibration]
) -> Values:
    """METRICS per query (Q,), NaN where nothing relevant is stored."""
    vectors = CodedSet(signs_of(asked.packed_codes), asked.embeddings)
    return gallery_answers(queries, Asked(np.arange(len(vectors)), vectors), gallery, calibrations).values


def _summary(
    before: Values, after: Values, items: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> dict[str, Any]:
    """n, items, and per metric its mean before and after and the gain, with intervals; without a query n alone.

    Intervals are over items, photos of one being alike; `by_query` ones of the gain take each query for itself, so they
    say what holds of these items and not of others.
    """
    answered = chosen & ~np.isnan(before["map"]) & ~np.isnan(after["map"])
    found: dict[str, Any] = {"n": int(answered.sum())}
    if not found["n"]:
        return found
    own, each = items[answered], np.arange(found["n"])
    found["items"] = len(np.unique(own))
    for name in METRICS:
        first, last = before[name][answered], after[name][answered]
        for key, interval in (
            (f"{name}_before", clustered_interval(first, own, seed=SEED)),
            (f"{name}_after", clustered_interval(last, own, seed=SEED)),
            (f"{name}_gain", paired_interval(last, first, own, seed=SEED)),
            (f"{name}_gain_by_query", paired_interval(last, first, each, seed=SEED)),
        ):
            bounds = {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}
            found |= {bound: round(value, 6) for bound, value in bounds.items()}
    return found
