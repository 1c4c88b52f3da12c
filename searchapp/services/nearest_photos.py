"""Photos whose embeddings are nearest to new ones: in the gallery of the version in use, and in one's own run.

Entries are compared whole while they are few, which is also faster than asking their engine one by one. Of a version
with more, the nearest codes are drawn first: there a copy may be missed when its
category, learned and so nearly alike in code, has more photos than the shortlist.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ml.retrieval.columns import widened
from ml.retrieval.view import GalleryView, Pool
from searchapp.models import ModelVersion
from searchapp.services import serving
from searchapp.services.duplicate_photos import Key, NewPhoto

# So many entries are compared whole, those of small versions first.
WHOLE_ROWS = 20_000
SHORTLIST = 128
# The view is brought up to date when so many photos of a run are not in it yet.
FOLLOW_AFTER = 1024
# A trial run's photos never come to the gallery: it compares with the latest so many.
REMEMBERED = 8192

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Near:
    """A photo of another item: its id in the gallery, or a photo of this run. bits: in which the codes differ."""

    cosine: float
    bits: int
    photo: int | NewPhoto


@dataclass(frozen=True, slots=True)
class _Whole:
    """image_ids, item_ids (N,), codes (N, L // 8), embeddings (N, D) float32."""

    image_ids: NDArray[np.int64]
    item_ids: NDArray[np.int64]
    codes: Codes
    embeddings: Floats


class NearestPhotos:
    """Neighbours for the photos of one run. is_dry: they get no rows, so they are remembered here."""

    def __init__(self, *, is_dry: bool) -> None:
        self._is_dry = is_dry
        self._version: ModelVersion | None = None
        self._whole: list[_Whole] = []
        self._large: list[Pool] = []
        self._met: deque[NewPhoto] = deque(maxlen=REMEMBERED)
        self._met_vectors: tuple[Codes, Floats] | None = None

    def nearest(
        self, photos: Sequence[NewPhoto], version: ModelVersion, *, least_cosine: float, count: int
    ) -> dict[Key, list[Near]]:
        """Of each encoded photo at most `count` of other items, nearest first; earlier ones of `photos` count too.

        Nothing unless `version`, which encoded them, is in use.
        """
        if not photos or not self._is_ready(version):
            return {}
        codes, embeddings = _vectors(photos, version)
        found: dict[Key, list[Near]] = {}
        for whole in self._whole:
            cosines = embeddings @ whole.embeddings.T
            for number, photo in enumerate(photos):
                is_other = _of_other_items(whole.item_ids, photo)
                for row in _best_rows(cosines[number], least_cosine, count, is_other):
                    bits = _bits(codes[number], whole.codes[row])
                    near = Near(float(cosines[number, row]), bits, int(whole.image_ids[row]))
                    found.setdefault(photo.named.key, []).append(near)
        for number, photo in enumerate(photos):
            near_codes = self._near_codes(photo, codes[number], embeddings[number], least_cosine, count)
            found.setdefault(photo.named.key, []).extend(near_codes)
        for photo, near in self._near_in_run(photos, codes, embeddings, least_cosine, count):
            found[photo.named.key].append(near)
        return {key: sorted(nears, key=lambda near: -near.cosine)[:count] for key, nears in found.items()}

    def met(self, photos: Iterable[NewPhoto], version: ModelVersion | None) -> None:
        """These encoded photos are in the catalogue now, or would be: the next ones are compared with them too."""
        if self._version is not None and version == self._version:
            self._met.extend(photos)
            self._met_vectors = None

    def _is_ready(self, version: ModelVersion) -> bool:
        """Whether the gallery by `version` is at hand; it is read, or followed, when that is due."""
        if version.pk is None:  # not in use yet: its gallery is empty
            self._version = version
        if self._version == version and (self._is_dry or len(self._met) < FOLLOW_AFTER):
            return True
        try:
            arm = serving.follow_once().champion
        except Exception as error:  # noqa: BLE001  whatever it was: a warning less, but the photos come in
            logger.warning("new photos are not compared with the gallery: %s", error)
            return False
        if arm.version != version:
            return False
        if self._version is not None:
            self._met.clear()  # by now they are entries, or were encoded by a version no longer in use
            self._met_vectors = None
        self._version = version
        self._whole, self._large = _divided(arm.view)
        return True

    def _near_codes(
        self, photo: NewPhoto, code: Codes, embedding: Floats, least_cosine: float, count: int
    ) -> Iterator[Near]:
        """Neighbours among versions with many entries, by the shortlist of nearest codes."""
        for pool in self._large:
            matches = pool.index.search(code, SHORTLIST)
            rows = pool.rows.rows_of(matches.entry_ids)
            bits, rows = (
                matches.hamming[rows >= 0],
                rows[rows >= 0],
            )  # a shared engine may be ahead of the view
            cosines = np.vecdot(pool.rows.embeddings_at(rows), embedding)
            image_ids, is_other = (
                pool.rows.image_ids_at(rows),
                _of_other_items(pool.rows.item_ids_at(rows), photo),
            )
            for at in _best_rows(cosines, least_cosine, count, is_other):
                yield Near(float(cosines[at]), int(bits[at]), int(image_ids[at]))

    def _near_in_run(
        self, photos: Sequence[NewPhoto], codes: Codes, embeddings: Floats, least_cosine: float, count: int
    ) -> Iterator[tuple[NewPhoto, Near]]:
        if self._met_vectors is None and self._version is not None:
            self._met_vectors = _vectors(self._met, self._version)
        met_codes, met_embeddings = self._met_vectors or (codes[:0], embeddings[:0])
        run, run_codes = [*self._met, *photos], np.concatenate([met_codes, codes])
        cosines = np.hstack([embeddings @ met_embeddings.T, embeddings @ embeddings.T])
        for number, photo in enumerate(photos):
            earlier = cosines[number, : len(self._met) + number]
            is_other = _of_other_skus(run, photo)
            for row in _best_rows(earlier, least_cosine, count, is_other):
                yield photo, Near(float(earlier[row]), _bits(codes[number], run_codes[row]), run[row])


def _of_other_items(item_ids: NDArray[np.int64], photo: NewPhoto) -> Callable[[int], bool]:
    return lambda row: item_ids[row] != photo.item_id


def _of_other_skus(run: Sequence[NewPhoto], photo: NewPhoto) -> Callable[[int], bool]:
    return lambda row: run[row].named.sku != photo.named.sku


def _best_rows(
    cosines: Floats, least_cosine: float, count: int, is_wanted: Callable[[int], bool]
) -> Iterator[int]:
    """At most `count` wanted rows with that cosine or more, highest first."""
    rows = np.flatnonzero(cosines >= least_cosine)
    ordered = rows[np.argsort(-cosines[rows], kind="stable")].tolist()
    return islice(filter(is_wanted, ordered), count)


def _bits(one: Codes, other: Codes) -> int:
    return int(np.bitwise_count(one ^ other).sum())


def _vectors(photos: Iterable[NewPhoto], version: ModelVersion) -> tuple[Codes, Floats]:
    """codes (N, L // 8), embeddings (N, D) float32."""
    photos = list(photos)
    codes = np.frombuffer(b"".join(photo.code for photo in photos), np.uint8)
    halves = np.frombuffer(b"".join(photo.embedding for photo in photos), "<f2")
    return codes.reshape(-1, version.code_bits // 8), widened(halves.reshape(-1, version.dimension))


def _divided(view: GalleryView) -> tuple[list[_Whole], list[Pool]]:
    """The entries of each version to compare whole, smaller versions first, and those that are too many."""
    whole, large, rows = [], [], 0
    for pool in sorted(view.pools.values(), key=lambda pool: len(pool.rows)):
        rows += len(pool.rows)
        if rows > WHOLE_ROWS:
            large.append(pool)
        elif len(pool.rows):
            entries = pool.rows.compacted()
            vectors = entries.codes, widened(entries.embeddings)
            whole.append(_Whole(entries.image_ids, entries.item_ids, *vectors))
    return whole, large
