"""A small copy of an uploaded photo, for a page to show and to send again: nothing is stored."""

import base64
import binascii
import io
from dataclasses import dataclass

from searchapp.exceptions import InvalidInput
from searchapp.services.image_decoding import decode_for_storing

PREVIEW_SIDE = 512  # twice what an encoder reads; about 40 kB
PREVIEW_QUALITY = 80
PREFIX = "data:image/jpeg;base64,"


@dataclass(frozen=True, slots=True)
class Preview:
    """A clean JPEG as a `data:` address, and its size in pixels."""

    url: str
    width: int
    height: int


def preview_of(data: bytes) -> Preview:
    """Untrusted bytes to a small clean copy. Raises what intake raises."""
    buffer = io.BytesIO()
    image = decode_for_storing(data, side=PREVIEW_SIDE).image
    image.save(buffer, "JPEG", quality=PREVIEW_QUALITY)
    return Preview(PREFIX + base64.b64encode(buffer.getvalue()).decode("ascii"), *image.size)


def preview_url(data: bytes) -> str:
    return preview_of(data).url


def preview_bytes(url: str) -> bytes:
    """The bytes of a `data:` address that came back from a page; as untrusted as any upload."""
    try:
        return base64.b64decode(url.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("The photo that came with the page is damaged; choose it again.") from None
