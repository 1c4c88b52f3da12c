"""Reads and cleans the photos of a chunk a few steps ahead, while the ones before them are encoded.

One thread beside the caller's: decoding, like encoding, runs outside the interpreter's lock, so an import
keeps two cores busy where there are two. It touches no rows.
"""

import hashlib
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchapp.exceptions import BadImage, InvalidInput
from searchapp.services import intake
from searchapp.services.import_sources.records import CatalogueSource, Photo
from searchapp.services.sketches import Sketch, sketch_of

AHEAD = 8


@dataclass(frozen=True, slots=True)
class PhotoToRead:
    """`known` uploads, by SHA-256, need no cleaning; `input_size` is None when nobody will encode."""

    photo: Photo
    known: frozenset[str]
    input_size: int | None


@dataclass(frozen=True, slots=True)
class ReadPhoto:
    """`stored` is None for an upload that is known already, or one that cannot be used: see `problem`."""

    sha256: str = ""
    stored: intake.StoredImage | None = None
    pixels: NDArray[np.uint8] | None = None
    sketch: Sketch | None = None
    problem: str = ""


def photos_read(
    source: CatalogueSource, photos: Sequence[PhotoToRead], stored: list[intake.StoredImage] | None
) -> Generator[ReadPhoto]:
    """One result for each photo, in order. Close the iterator to stop early.

    stored: every picture is noted here and then written to the media folder; None for a dry run.
    """
    waiting: deque[Future[ReadPhoto]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="import-reading") as thread:
        try:
            for photo in photos:
                waiting.append(thread.submit(_read, source, photo, stored))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _read(source: CatalogueSource, wanted: PhotoToRead, stored: list[intake.StoredImage] | None) -> ReadPhoto:
    try:
        data = source.read(wanted.photo)
    except (InvalidInput, BadImage) as error:
        return ReadPhoto(problem=error.message)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 in wanted.known:
        return ReadPhoto(sha256)
    try:
        clean = intake.image_clean(data)
    except BadImage as error:
        return ReadPhoto(sha256, problem=f"{wanted.photo.name[:120]}: {error.message}")
    if stored is not None:
        stored.append(clean.stored)
        intake.image_write(clean)
    if wanted.input_size is None:
        return ReadPhoto(sha256, clean.stored)
    pixels = intake.pixels_of_stored(clean.data, input_size=wanted.input_size)
    return ReadPhoto(sha256, clean.stored, pixels, sketch_of(pixels))
