"""What an untrusted upload says it is, read from its first bytes before any decoder sees it.

Only JPEG, PNG and WebP pass; the claimed name and content type count for nothing. The walk also refuses files
made to keep a decoder busy: too many segments, chunks or scans.
"""

import re
import struct
from dataclasses import dataclass
from enum import Enum

from searchapp.exceptions import BadImage, UnsupportedImage

MAX_JPEG_SEGMENTS = 4096  # an ICC profile takes at most 255, extended XMP of 60 MB about 1,000
MAX_JPEG_SCANS = 64  # cameras and web tools write 10 or so; each one is a pass over the whole picture
MAX_SCAN_PARTS = 4096  # tables, comments and scans between the first scan and the end
MAX_PNG_CHUNKS = 65_536
ALLOWED = "JPEG, PNG or WebP"
MAX_JPEG_PADDING = 65_536  # bytes between segments, which a decoder skips one by one
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SEGMENT = re.compile(rb"[^\xff]*\xff+([^\xff])")
_WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_START_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# (offset, first bytes, name): enough to say in words what was sent instead.
_FOREIGN = (
    (0, b"%PDF", "a PDF"),
    (0, b"GIF8", "a GIF"),
    (0, b"II*\x00", "a TIFF"),
    (0, b"MM\x00*", "a TIFF"),
    (0, b"II+\x00", "a TIFF"),
    (0, b"MM\x00+", "a TIFF"),
    (0, b"BM", "a BMP"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (0, b"\x00\x00\x01\x00", "an icon file"),
    (0, b"icns", "an icon file"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftypavis", "an AVIF"),
    (4, b"ftyphe", "a HEIC"),
    (4, b"ftypmif1", "a HEIC"),
    (4, b"ftypqt", "a QuickTime video"),
    (4, b"ftyp", "an MP4 video"),
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
)


class ImageFormat(Enum):
    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"


@dataclass(frozen=True, slots=True)
class ImageHeader:
    format: ImageFormat
    width: int
    height: int
    is_lossless: bool


def header_read(data: bytes) -> ImageHeader:
    """The format and size by content. Raises UnsupportedImage, or BadImage for a broken header."""
    if not data:
        raise BadImage(f"That file is empty. Send a {ALLOWED}.")
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(PNG_SIGNATURE):
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        raise damaged("it ends inside its header") from None
    raise UnsupportedImage(f"That file is {foreign_name(data)}. Send a {ALLOWED} of up to 20 MB.")


def damaged(how: str) -> BadImage:
    return BadImage(f"That picture is damaged: {how}. Send a {ALLOWED} that opens in a picture viewer.")


def foreign_name(data: bytes) -> str:
    """In words, with its article, what a file is that is none of the allowed types."""
    for offset, magic, name in _FOREIGN:
        if data.startswith(magic, offset):
            return name
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if b"<svg" in start:
        return "an SVG"
    return "of a type that is not accepted"


def _jpeg(data: bytes) -> ImageHeader:
    position, padding, size, components, is_progressive = 2, 0, (0, 0), 0, False
    for _ in range(MAX_JPEG_SEGMENTS):
        found = _SEGMENT.match(data, position)
        if found is None:
            raise damaged("it ends inside its header")
        padding += found.end() - position - 2
        if padding > MAX_JPEG_PADDING:
            raise damaged("its header is mostly padding")
        position, marker = found.end(), found[1][0]
        if marker in _WITHOUT_LENGTH:
            continue
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, position + 3)
            size, is_progressive = (width, height), marker in _PROGRESSIVE
            components = data[position + 7]
        if marker == 0xDA:
            break
        (length,) = struct.unpack_from(">H", data, position)
        position += max(length, 2)
    else:
        raise damaged(f"its header has more than {MAX_JPEG_SEGMENTS:,} parts")
    if is_progressive or data[position + 2] < components:  # else the decoder stops after the first scan
        (length,) = struct.unpack_from(">H", data, position)
        _refuse_endless_scans(data, position + max(length, 2))
    if 0 in size:
        raise damaged("its header gives no width or height")
    return ImageHeader(ImageFormat.JPEG, *size, is_lossless=False)


def _refuse_endless_scans(data: bytes, position: int) -> None:
    """A file of several scans may repeat them without end, each as costly as a whole decode.

    Goes from part to part as a decoder does: what looks like the end inside a comment ends nothing.
    """
    scans = 1
    for _ in range(MAX_SCAN_PARTS):
        found = _NEXT_MARKER.search(data, position)
        if found is None or data[found.start() + 1] == 0xD9:
            return
        marker, position = data[found.start() + 1], found.end()
        if marker in _WITHOUT_LENGTH:
            continue
        scans += marker == 0xDA
        if scans > MAX_JPEG_SCANS:
            raise damaged(f"it has more than {MAX_JPEG_SCANS} scans")
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
    raise damaged(f"it has more than {MAX_SCAN_PARTS:,} parts")


def _png(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from(">II", data, 16)
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_PNG_CHUNKS):
        if position + 8 > len(data) or data[position + 4 : position + 8] == b"IEND":
            break
        (length,) = struct.unpack_from(">I", data, position)
        position += 12 + length
    else:
        raise damaged(f"it has more than {MAX_PNG_CHUNKS:,} chunks")
    if 0 in (width, height):
        raise damaged("its header gives no width or height")
    return ImageHeader(ImageFormat.PNG, width, height, is_lossless=True)


def _webp(data: bytes) -> ImageHeader:
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise damaged(f"its first part is {kind!r}, not a WebP picture")
    return ImageHeader(ImageFormat.WEBP, width, height, is_lossless=_webp_is_lossless(data))


def _webp_is_lossless(data: bytes) -> bool:
    """True when the first picture in the file is stored without loss."""
    position = 12
    for _ in range(64):
        kind = data[position : position + 4]
        if kind in (b"VP8L", b"VP8 ", b""):
            return kind == b"VP8L"
        if kind == b"ANMF":
            position += 8 + 16  # the frame's own parts follow its header
            continue
        (length,) = struct.unpack_from("<I", data, position + 4)
        position += 8 + length + length % 2
    return False
