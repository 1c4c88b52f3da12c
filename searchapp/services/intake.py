"""The one door for untrusted pictures: to a model input for a query, to a cleaned file for the catalogue.

What a stored file holds was decoded and encoded again here: no metadata, no appended bytes, no other format's
tricks. A claimed file name is taken and never believed. Nothing here protects from what a picture shows.
"""

import hashlib
import io
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from django.conf import settings
from numpy.typing import NDArray
from PIL import Image

from ml.data import preprocessing
from searchapp.exceptions import InvalidInput
from searchapp.models import stored_path, thumbnail_path
from searchapp.services.image_decoding import decode_for_input, decode_for_storing, decode_stored, shrink
from searchapp.services.media import media_link, media_read, media_write

# What Pillow raises on a file that was damaged after it was stored.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError)
THUMBNAIL_SIDE = 400
_JPEG_QUALITY = 90
_THUMBNAIL_QUALITY = 80
_PNG_LEVEL = 3  # half the time of the default level for a tenth more bytes


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of the upright picture that is asked about, as shares of its width and height."""

    x: float
    y: float
    w: float
    h: float

    def __post_init__(self) -> None:
        try:
            preprocessing.checked_crop(self.as_tuple())
        except ValueError:
            raise _bad_crop(",".join(f"{value:g}" for value in self.as_tuple())) from None

    def as_tuple(self) -> preprocessing.Crop:
        return self.x, self.y, self.w, self.h

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "x,y,w,h", each in 0-1. Raises InvalidInput on the field `crop`."""
        try:
            x, y, w, h = (float(part) for part in text.split(","))
        except ValueError:
            raise _bad_crop(text[:80]) from None
        if not all(map(math.isfinite, (x, y, w, h))):
            raise _bad_crop(text[:80])
        return cls(x, y, w, h)


@dataclass(frozen=True, slots=True)
class QueryImage:
    """`pixels` is (S, S, 3) uint8, ready for an encoder; width and height are those of the upright upload."""

    pixels: NDArray[np.uint8]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A cleaned picture on disk; the fields of a photo's row."""

    image_sha256: str
    upload_sha256: str
    extension: str
    width: int
    height: int
    size_bytes: int
    colour: str

    @property
    def path(self) -> str:
        return stored_path(self.image_sha256, self.extension)

    def as_row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def files(self) -> tuple[str, str]:
        return self.path, thumbnail_path(self.image_sha256)


@dataclass(frozen=True, slots=True)
class CleanImage:
    """A cleaned picture in memory: what `image_store` writes, and what a dry run throws away."""

    stored: StoredImage
    data: bytes
    thumbnail: bytes


def query_image(
    data: bytes,
    *,
    input_size: int,
    filename: str = "",  # noqa: ARG001
    crop: Crop | None = None,
) -> QueryImage:
    """Untrusted bytes to a model input. Raises the BadImage family and nothing else."""
    decoded = decode_for_input(data, input_size=input_size, crop=crop.as_tuple() if crop else None)
    return QueryImage(preprocessing.to_input(decoded.image, input_size), decoded.width, decoded.height)


def image_clean(data: bytes) -> CleanImage:
    """Untrusted bytes to a picture of at most IMAGE_STORED_SIDE pixels a side, its thumbnail and its facts.

    A lossless source is stored as PNG, so that a query with the same file has the same code to the bit; a
    lossy one as JPEG.
    """
    decoded = decode_for_storing(data, side=settings.IMAGE_STORED_SIDE)
    encoded = _png(decoded.image) if decoded.is_lossless else _jpeg(decoded.image, _JPEG_QUALITY)
    small = shrink(decoded.image, THUMBNAIL_SIDE, reducing_gap=1.0)
    is_its_own_thumbnail = small is decoded.image and not decoded.is_lossless
    red, green, blue = small.resize((1, 1), Image.Resampling.BOX).tobytes()
    stored = StoredImage(
        image_sha256=hashlib.sha256(encoded).hexdigest(),
        upload_sha256=hashlib.sha256(data).hexdigest(),
        extension="png" if decoded.is_lossless else "jpg",
        width=decoded.image.width,
        height=decoded.image.height,
        size_bytes=len(encoded),
        colour=f"#{red:02x}{green:02x}{blue:02x}",
    )
    thumbnail = encoded if is_its_own_thumbnail else _jpeg(small, _THUMBNAIL_QUALITY)
    return CleanImage(stored, encoded, thumbnail)


def image_write(clean: CleanImage) -> bool:
    """Put the files in place; True when the picture itself is new. Calling it twice changes nothing."""
    picture, thumbnail = clean.stored.files
    is_new = media_write(picture, clean.data)
    if clean.thumbnail is clean.data:
        media_link(picture, thumbnail)
    else:
        media_write(thumbnail, clean.thumbnail)
    return is_new


def image_store(data: bytes, *, filename: str = "") -> StoredImage:  # noqa: ARG001
    """Clean an untrusted upload and write it and its thumbnail under MEDIA_ROOT, named by content."""
    clean = image_clean(data)
    image_write(clean)
    return clean.stored


def stored_pixels(relative_path: str, *, input_size: int) -> NDArray[np.uint8]:
    """A stored picture as a model input: (S, S, 3) uint8, by the same decode-and-resize path as a query."""
    return pixels_of_stored(media_read(relative_path), input_size=input_size)


def pixels_of_stored(data: bytes, *, input_size: int) -> NDArray[np.uint8]:
    """As `stored_pixels`, from bytes that this module has just made."""
    return preprocessing.to_input(decode_stored(data, input_size=input_size), input_size)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def _bad_crop(got: str) -> InvalidInput:
    message = (
        f"The crop is {got!r}; it must be x,y,w,h inside 0-1 with w and h above 0, such as 0.1,0.2,0.5,0.5."
    )
    return InvalidInput(message, fields={"crop": message})
