"""Held-out queries asked of a gallery, two-stage and calibrated as the product serves; no row is written.

A query that is also a catalogue photo leaves its own entry out.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.retrieval import signs_of
from ml.evaluation.two_stage import METRICS, CodedSet, answer_values, two_stage_scores
from ml.protocol import Calibration
from ml.retrieval.columns import EntryColumns
from searchapp.models import ItemImage, ModelVersion
from searchapp.services import intake, versions
from searchapp.services.gallery_columns import in_chunks, read_items
from searchapp.services.held_out import HeldOut
from searchapp.services.photo_features import Heard

NOBODY = -1  # no photo
_BLOCK, _CELLS = 64, 16_000_000  # queries at a time, and scores: bounded memory

Values = dict[str, NDArray[np.float64]]
Ids = NDArray[np.int64]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a version made of the queries: positions (R,), ascending, of those that could be read, and their vectors."""

    positions: NDArray[np.intp]
    vectors: CodedSet

    def of(self, chosen: Sequence[int] | NDArray[np.intp]) -> "Asked":
        """As if only the queries at `chosen`, ascending, had been asked."""
        rows = np.flatnonzero(np.isin(self.positions, chosen))
        return Asked(np.searchsorted(chosen, self.positions[rows]), self._taken(rows))

    def between(self, start: int, stop: int) -> tuple[NDArray[np.intp], CodedSet]:
        """Positions and vectors of the readable ones in [start, stop)."""
        first, last = np.searchsorted(self.positions, [start, stop])
        return self.positions[first:last], self._taken(slice(first, last))

    def _taken(self, rows: NDArray[np.intp] | slice) -> CodedSet:
        return CodedSet(self.vectors.signs[rows], self.vectors.embeddings[rows])


@dataclass(frozen=True, slots=True)
class Answers:
    """Of each query (Q,): METRICS, NaN where nothing relevant is in the gallery or the file is gone; and the photo at
    the first place, NOBODY where nothing was answered."""

    values: Values
    first: Ids


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """Item, category and content of photos (N,), ascending by id."""

    image_ids: Ids
    items: Ids
    categories: Ids
    contents: NDArray[np.object_]
    extensions: NDArray[np.object_]

    @classmethod
    def read(cls, image_ids: Iterable[int]) -> Self:
        """Of those that still exist; a photo that does not is relevant to nothing."""
        items = read_items()
        category_of = dict(zip(items.item_ids.tolist(), items.category_ids.tolist()))
        rows: list[tuple[int, int, str, str]] = []
        for ids in in_chunks(image_ids):
            rows += ItemImage.objects.filter(pk__in=ids).values_list(
                "pk", "item_id", "image_sha256", "extension"
            )
        rows.sort()
        return cls(
            np.array([row[0] for row in rows], np.int64),
            np.array([row[1] for row in rows], np.int64),
            np.array([category_of.get(row[1], NOBODY) for row in rows], np.int64),
            np.array([row[2] for row in rows], dtype=object),
            np.array([row[3] for row in rows], dtype=object),
        )

    def at(self, image_ids: Ids) -> "PhotoFacts":
        """Of these photos, in this order."""
        if not len(self.image_ids):
            nobody, nothing = np.full(len(image_ids), NOBODY), np.full(len(image_ids), "", object)
            return PhotoFacts(image_ids, nobody, nobody, nothing, nothing)
        rows = np.minimum(np.searchsorted(self.image_ids, image_ids), len(self.image_ids) - 1)
        is_known = self.image_ids[rows] == image_ids
        return PhotoFacts(
            image_ids,
            np.where(is_known, self.items[rows], NOBODY),
            np.where(is_known, self.categories[rows], NOBODY),
            np.where(is_known, self.contents[rows], ""),
            np.where(is_known, self.extensions[rows], ""),
        )

    def relevant(self, queries: Sequence[HeldOut]) -> NDArray[np.bool_]:
        """(Q, N): what is right for each query."""
        rows = [
            self.items == query.item_id if query.by_item else self.categories == query.category_id
            for query in queries
        ]
        return np.stack(rows).astype(np.bool_)

    def own(self, queries: Sequence[HeldOut]) -> NDArray[np.bool_]:
        """(Q, N): the very picture that asks."""
        return np.stack([self.contents == query.image_sha256 for query in queries]).astype(np.bool_)


def queries_encoded(
    version: ModelVersion, queries: Sequence[HeldOut], *, heard: Heard = lambda _done, _total: None
) -> Asked:
    """What `version` makes of the queries' pictures, one by one as in a search."""
    encoder = versions.encoder_of(version)
    readable, codes, embeddings = [], [], []
    for at, query in enumerate(queries):
        heard(at, len(queries))
        try:
            pixels = intake.stored_pixels(query.path, input_size=encoder.input_size)
        except intake.UNREADABLE as error:
            logger.warning("evaluation query %s cannot be read: %s", query.image_sha256, error)
            continue
        encoded = encoder.encode(pixels[None])
        readable.append(at)
        codes.append(encoded.packed_codes[0])
        embeddings.append(encoded.embeddings[0])
    vectors = CodedSet(
        np.empty((0, version.code_bits), np.float32), np.empty((0, version.dimension), np.float32)
    )
    if readable:
        vectors = CodedSet(signs_of(np.stack(codes)), np.stack(embeddings))
    return Asked(np.array(readable, np.intp), vectors)


def gallery_answers(
    queries: Sequence[HeldOut],
    asked: Asked,
    gallery: EntryColumns,
    calibrations: Mapping[str, Calibration],
    *,
    facts: PhotoFacts | None = None,
    heard: Heard = lambda _done, _total: None,
) -> Answers:
    """What a gallery whose producers have these calibrations answers; `facts` of its photos, if somebody read them."""
    present, producers = np.unique(gallery.producers, return_inverse=True)
    used = [calibrations[gallery.producer_names[position]] for position in present.tolist()]
    coded = CodedSet(signs_of(gallery.codes), gallery.embeddings.astype(np.float32))
    here = (facts or PhotoFacts.read(gallery.image_ids.tolist())).at(gallery.image_ids)
    answers = Answers(
        {name: np.full(len(queries), np.nan) for name in METRICS}, np.full(len(queries), NOBODY, np.int64)
    )
    size = max(1, min(_BLOCK, _CELLS // max(1, len(gallery))))
    for start in range(0, len(queries), size):
        heard(start, len(queries))
        positions, vectors = asked.between(start, start + size)
        if not len(positions) or not len(gallery):
            continue
        asking = [queries[at] for at in positions.tolist()]
        hidden = here.own(asking)
        scores = two_stage_scores(vectors, coded, producers, used, hidden=hidden)
        for name, found in answer_values(scores, here.relevant(asking) & ~hidden).items():
            answers.values[name][positions] = found
        best = scores.argmax(axis=1)
        has_any = scores[np.arange(len(best)), best] > -np.inf
        answers.first[positions] = np.where(has_any, gallery.image_ids[best], NOBODY)
    return answers


def answers_joined(count: int, parts: Sequence[tuple[NDArray[np.intp], Answers]]) -> Answers:
    """Answers to `count` queries of which each part knows those at its positions."""
    joined = Answers({name: np.full(count, np.nan) for name in METRICS}, np.full(count, NOBODY, np.int64))
    for positions, answers in parts:
        joined.first[positions] = answers.first
        for name in METRICS:
            joined.values[name][positions] = answers.values[name]
    return joined
