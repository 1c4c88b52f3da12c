"""The states a gallery can be in once a version is there, in memory: as stored, corrected, backfilled, and with new
items under the candidate. No entry is written.

A gallery of more than MAX_PHOTOS is judged by a sample of its photos, the same one each time and in every state.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.columns import EntryColumns
from searchapp.models import ItemImage, ModelVersion, stored_path
from searchapp.services import intake, versions
from searchapp.services.gallery_columns import in_chunks, read_entries
from searchapp.services.held_out import HeldOut
from searchapp.services.held_out_answers import NOBODY, PhotoFacts
from searchapp.services.photo_features import Heard

MAX_PHOTOS = 20_000
FOLDS = 4
SEED = 0

Ids = NDArray[np.int64]
Rows = NDArray[np.intp]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Photos:
    """The photos that are judged: all of the gallery's, or a sample of them."""

    facts: PhotoFacts
    in_gallery: int

    @property
    def is_sample(self) -> bool:
        return len(self.facts.image_ids) < self.in_gallery


def photos_judged(gallery: EntryColumns, queries: Sequence[HeldOut], *, most: int | None = None) -> Photos:
    """The photos of `gallery`; of more than `most` (MAX_PHOTOS) a sample, photos of items that are asked for first."""
    limit = MAX_PHOTOS if most is None else most
    facts = PhotoFacts.read(sorted(gallery.image_ids.tolist()))
    count = len(facts.image_ids)
    if count <= limit:
        return Photos(facts, count)
    wanted = [query.item_id for query in queries if query.by_item]
    is_asked = np.isin(facts.items, np.array(wanted, np.int64))
    order = np.random.default_rng(SEED).permutation(count)
    asked = order[is_asked[order]][: limit // 2]
    others = order[~np.isin(order, asked)][: limit - len(asked)]
    return Photos(facts.at(facts.image_ids[np.sort(np.concatenate([asked, others]))]), count)


def stored_view(version: ModelVersion, photos: Photos) -> EntryColumns:
    """The entries that stand for the photos in the view of `version`, as it sees them now."""
    entries = read_entries(version)
    return entries.taken(np.isin(entries.image_ids, photos.facts.image_ids))


def not_by(version: ModelVersion, view: EntryColumns, photos: Photos) -> Ids:
    """Photos that `version` has no entry of, in its own `view`."""
    return np.setdiff1d(photos.facts.image_ids, view.image_ids[_is_by(view, version.name)])


def backfilled(
    version: ModelVersion,
    view: EntryColumns,
    photos: Photos,
    *,
    heard: Heard = lambda _done, _total: None,
) -> EntryColumns:
    """`view` once every readable photo has an entry by `version`: what a full re-encode would give."""
    missing = not_by(version, view, photos)
    image_ids, codes, embeddings = _encoded(version, missing, heard)
    made = EntryColumns(
        _numbers_after(view, len(image_ids)),
        image_ids,
        photos.facts.at(image_ids).items,
        np.zeros(len(image_ids), np.int16),
        codes,
        embeddings,
        (version.name,),
    )
    return with_entries(view, made, is_whole=True)


def with_entries(
    view: EntryColumns, made: EntryColumns, *, is_whole: bool = False, only: NDArray[np.bool_] | None = None
) -> EntryColumns:
    """`view` in which the entries of `made`, by one producer, stand for their photos, of all rows or of those in
    `only` (N,); with `is_whole` photos that the view lacks come to it.
    """
    place = _places(made.image_ids, view.image_ids)
    rows = np.flatnonzero((place >= 0) if only is None else (place >= 0) & only)
    found = place[rows]
    (producer,) = made.producer_names
    changed = view.rewritten(
        rows, codes=made.codes[found], embeddings=made.embeddings[found], producer=producer
    )
    new = ~np.isin(made.image_ids, view.image_ids)
    if not is_whole or not new.any():
        return changed
    added = made.taken(new)
    position = changed.producer_names.index(producer)
    added = replace(
        added, producers=np.full(len(added), position, np.int16), producer_names=changed.producer_names
    )
    return EntryColumns.concatenated([changed, added])


def entries_by(version: ModelVersion, view: EntryColumns) -> EntryColumns:
    """Those that `version` itself made, with it as the one producer."""
    return view.of_producer(version.name)


@dataclass(frozen=True, slots=True)
class Fold:
    """Some queries, and which entries are new to the gallery when they are asked: their own item's among them."""

    queries: Rows
    is_added: NDArray[np.bool_]  # (N,)


def folds_of(queries: Sequence[HeldOut], view: EntryColumns, photos: Photos) -> Iterator[Fold]:
    """FOLDS parts of the items, and of the categories for queries that any item of their category is right for."""
    facts = photos.facts.at(view.image_ids)
    by_item = np.array([query.by_item for query in queries], np.bool_)
    for chosen, subjects, wanted in (
        (by_item, facts.items, [query.item_id if query.by_item else NOBODY for query in queries]),
        (~by_item, facts.categories, [query.category_id for query in queries]),
    ):
        ids = np.unique(subjects)
        fold_of = dict(zip(ids.tolist(), np.random.default_rng(SEED).permutation(len(ids)) % FOLDS))
        own = np.array([fold_of.get(subject, NOBODY) for subject in wanted], np.int64)
        folds = np.array([fold_of[subject] for subject in subjects.tolist()], np.int64)
        for fold in range(FOLDS):
            asking = np.flatnonzero(chosen & (own == fold))
            if len(asking):
                yield Fold(asking, folds == fold)


def _encoded(
    version: ModelVersion, image_ids: Ids, heard: Heard
) -> tuple[Ids, NDArray[np.uint8], NDArray[np.float16]]:
    """Of those of the photos that could be read, ascending: their ids, codes and embeddings as they would be stored."""
    encoder = versions.encoder_of(version)
    read: list[int] = []
    codes = np.empty((len(image_ids), version.code_bits // 8), np.uint8)
    embeddings = np.empty((len(image_ids), version.dimension), np.float16)
    paths: dict[int, str] = {}
    for ids in in_chunks(image_ids.tolist()):
        rows = ItemImage.objects.filter(pk__in=ids).values_list("pk", "image_sha256", "extension")
        paths |= {pk: stored_path(sha, extension) for pk, sha, extension in rows}
    for done, image_id in enumerate(sorted(paths)):
        heard(done, len(image_ids))
        try:
            pixels = intake.stored_pixels(paths[image_id], input_size=encoder.input_size)
        except intake.UNREADABLE as error:
            logger.warning("photo %s cannot be read: %s", image_id, error)
            continue
        encoded = encoder.encode(pixels[None])
        codes[len(read)] = encoded.packed_codes[0]
        embeddings[len(read)] = encoded.embeddings[0].astype(np.float16)
        read.append(image_id)
    return np.array(read, np.int64), codes[: len(read)], embeddings[: len(read)]


def _is_by(view: EntryColumns, name: str) -> NDArray[np.bool_]:
    if name not in view.producer_names:
        return np.zeros(len(view), np.bool_)
    found: NDArray[np.bool_] = view.producers == view.producer_names.index(name)
    return found


def _places(ids: Ids, wanted: Ids) -> Rows:
    """Where each of `wanted` stands in `ids`; -1 where it does not."""
    place = {image: row for row, image in enumerate(ids.tolist())}
    return np.array([place.get(image, -1) for image in wanted.tolist()], np.intp)


def _numbers_after(view: EntryColumns, count: int) -> Ids:
    """Entry ids that no row of `view` has."""
    return np.arange(count, dtype=np.int64) + 1 + int(view.entry_ids.max(initial=0))
