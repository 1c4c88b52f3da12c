"""Untrusted bytes to an upright RGB picture: limits from the header, then one decoder, then clean pixels.

The decoder class is chosen by us, so no other Pillow plugin is ever entered and a multi-picture JPEG is
simply its first picture. Our own ceilings lie far below those where Pillow starts to warn, so nothing
depends on its warnings (turning them into errors would change a process-wide filter under other threads).
The decode runs in this process: an unknown bug in a C decoder is contained by the process manager, not
here.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from django.conf import settings
from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ml.data.preprocessing import WHOLE, Crop, cut, draft_target
from searchapp.exceptions import BadImage, ImageTooLarge
from searchapp.services.image_headers import (
    ALLOWED,
    PNG_SIGNATURE,
    ImageFormat,
    ImageHeader,
    damaged,
    header_read,
)

MAX_SIDE = 12_000
MAX_ASPECT = 50
_DECODERS: dict[ImageFormat, type[ImageFile]] = {
    ImageFormat.JPEG: JpegImageFile,
    ImageFormat.PNG: PngImageFile,
    ImageFormat.WEBP: WebPImageFile,
}
# Everything Pillow's decoders raise on broken bytes; only decoding steps run where these are caught.
_BROKEN = (
    Image.DecompressionBombError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})
_WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright RGB picture, perhaps shrunk; `width` and `height` are those it was sent with."""

    image: Image.Image
    width: int
    height: int
    is_lossless: bool


def header_check(data: bytes) -> ImageHeader:
    """Refuse by size, type, pixels and shape before any decoder runs."""
    if len(data) > settings.IMAGE_MAX_BYTES:
        limit = settings.IMAGE_MAX_BYTES / 2**20
        raise ImageTooLarge(
            f"That file has {len(data) / 2**20:.1f} MB. Send a {ALLOWED} of up to {limit:.0f} MB."
        )
    header = header_read(data)
    width, height = header.width, header.height
    if width * height > settings.IMAGE_MAX_PIXELS:
        limit = settings.IMAGE_MAX_PIXELS / 1e6
        raise ImageTooLarge(
            f"That picture has {width} x {height} pixels ({width * height / 1e6:.0f} megapixels). "
            f"Send one of up to {limit:.0f} megapixels."
        )
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(
            f"That picture has {width} x {height} pixels. No side may have more than {MAX_SIDE:,}."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(f"That picture has {width} x {height} pixels. At most {MAX_ASPECT} to 1 is accepted.")
    return header


def decode_for_input(data: bytes, *, input_size: int, crop: Crop | None) -> Decoded:
    """Decode what a model input of `input_size` needs; a big JPEG takes the decoder's reduced-size path."""
    with _opened(data) as (header, image, orientation):
        if header.format is ImageFormat.JPEG:
            target = draft_target(input_size, crop or WHOLE, turned=orientation in _SIDEWAYS)
            image.draft(None, target)
        upright = _turned(_flattened(image), orientation)
        if crop is not None:
            upright = cut(upright, crop)
        elif header.is_lossless:
            # The stored copy of a big lossless picture was shrunk first; with the query too, the codes agree.
            upright = shrink(upright, settings.IMAGE_STORED_SIDE)
        return _decoded(header, _in_srgb(upright, image), orientation)


def decode_for_storing(data: bytes, *, side: int) -> Decoded:
    """Decode to at most `side` pixels on the longer side."""
    with _opened(data) as (header, image, orientation):
        if header.format is ImageFormat.JPEG:
            scale = side / max(header.width, header.height)
            image.draft(None, (max(1, round(header.width * scale)), max(1, round(header.height * scale))))
        upright = shrink(_turned(_flattened(image), orientation), side)
        return _decoded(header, _in_srgb(upright, image), orientation)


def decode_stored(data: bytes, *, input_size: int) -> Image.Image:
    """A file that `intake` wrote, decoded as a query is. RGB and upright already, so nothing else is looked at."""
    decoder = PngImageFile if data.startswith(PNG_SIGNATURE) else JpegImageFile
    with decoder(io.BytesIO(data)) as image:
        image.draft(None, draft_target(input_size))
        image.load()
        return image


def shrink(image: Image.Image, side: int, *, reducing_gap: float = 2.0) -> Image.Image:
    """Never enlarged; at least one pixel a side. reducing_gap: 1 is fast and a little softer, 2 hardly differs."""
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=reducing_gap)


@contextmanager
def _opened(data: bytes) -> Iterator[tuple[ImageHeader, ImageFile, int]]:
    header = header_check(data)
    try:
        with _DECODERS[header.format](io.BytesIO(data)) as image:
            if image.size != (header.width, header.height):
                raise damaged(f"its header says {header.width} x {header.height}, its content {image.size}")
            yield header, image, _orientation(image)
    except BadImage:
        raise
    except _BROKEN as error:
        raise damaged(_first_words(error)) from error


def _first_words(error: BaseException) -> str:
    words = " ".join(str(error).split())[:120]
    return "it is cut short or garbled" + (f" ({words})" if words else "")


def _decoded(header: ImageHeader, image: Image.Image, orientation: int) -> Decoded:
    width, height = header.width, header.height
    if orientation in _SIDEWAYS:
        width, height = height, width
    image.info = {}  # Pillow writes a comment or profile it finds here into the next file
    return Decoded(image=image, width=width, height=height, is_lossless=header.is_lossless)


def _orientation(image: ImageFile) -> int:
    """1 to 8; a damaged EXIF block says nothing, and the picture is taken as it lies."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _BROKEN:
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _flattened(image: ImageFile) -> Image.Image:
    """RGB of any mode: 16 bits scaled, not clipped; transparency composed on white; CMYK by its polarity.

    A CMYK picture with its own colour profile stays CMYK: `_in_srgb` converts it through that profile.
    """
    image.load()
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float32) / 257.0
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "CMYK":
        upright = (
            image if "adobe" in image.info else _inverted(image)
        )  # the decoder took Adobe's polarity for granted
        return upright if image.info.get("icc_profile") else upright.convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        layered = image.convert("RGBA")
        flat = Image.new("RGB", image.size, _WHITE)
        flat.paste(layered, mask=layered.getchannel("A"))
        return flat
    return image if image.mode == "RGB" else image.convert("RGB")


def _inverted(image: Image.Image) -> Image.Image:
    return Image.merge("CMYK", [band.point(lambda value: 255 - value) for band in image.split()])


def _in_srgb(image: Image.Image, source: ImageFile) -> Image.Image:
    """Through the embedded profile to sRGB; a broken or unfitting profile is ignored, as viewers do."""
    profile = source.info.get("icc_profile")
    if profile:
        try:
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            is_srgb = ImageCms.getProfileDescription(embedded).startswith("sRGB")
            if not is_srgb or image.mode == "CMYK":
                converted = ImageCms.profileToProfile(
                    image, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB"
                )
                image = converted if converted is not None else image
        except (*_BROKEN, ImageCms.PyCMSError):
            pass
    return image if image.mode == "RGB" else image.convert("RGB")
