"""Pictures made for the intake tests: plain, odd, broken and hostile ones, the same for the same seed."""

import io
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms

ORIENTATIONS = range(1, 9)
_ORIENTATION = 0x0112
# What was done to an upright picture so that it lies as its EXIF orientation says.
_LAID_DOWN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def gradient(width: int = 90, height: int = 60) -> Image.Image:
    """A smooth picture with a different value everywhere, so that every turn and every clipped bit shows."""
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    red, green = np.meshgrid(x, y)
    blue = (red * 0.5 + green[::-1] * 0.5).round()
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


def oriented(image: Image.Image, orientation: int, form: str, **options: Any) -> bytes:
    """A file that shows `image` upright once its orientation is applied, with GPS data in its EXIF."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    exif[0x010F] = "A camera"
    exif.get_ifd(0x8825)[2] = (59.0, 20.0, 30.0)
    laid = image.transpose(_LAID_DOWN[orientation]) if orientation in _LAID_DOWN else image
    return encoded(laid, form, exif=exif, **options)


def icc_profile() -> bytes:
    """A real profile that is not called sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def broken_pictures(originals: list[bytes], seed: int) -> Iterator[tuple[str, bytes]]:
    """500 of them: cut short, bits flipped, headers spliced, wrongly named, empty or noise."""
    chance = random.Random(seed)
    for number in range(150):
        data = chance.choice(originals)
        yield f"truncated-{number}.jpg", data[: chance.randrange(len(data))]
    for number in range(150):
        flipped = bytearray(chance.choice(originals))
        for _ in range(chance.choice([1, 3, 30])):
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        yield f"flipped-{number}.png", bytes(flipped)
    for number in range(100):
        first, second = chance.choice(originals), chance.choice(originals)
        yield f"spliced-{number}.webp", first[: chance.randrange(4, 400)] + second[chance.randrange(400) :]
    for number in range(50):
        yield f"renamed-{number}.{chance.choice(['png', 'webp', 'pdf', 'exe'])}", chance.choice(originals)
    for number in range(50):
        yield f"noise-{number}.jpg", chance.randbytes(chance.choice([0, 1, 2, 64, 5000]))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, *extra: bytes, depth: int = 1, body: bytes | None = None) -> bytes:
    """A grey PNG whose header says what it is told to; the body is all zero unless given."""
    if body is None:
        body = zlib.compress(bytes((width * depth + 7) // 8 + 1) * height, 9)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    )


def jpeg_saying(data: bytes, width: int, height: int) -> bytes:
    """A JPEG with another size written into its header."""
    position = data.index(b"\xff\xc0")
    return data[: position + 5] + struct.pack(">HH", height, width) + data[position + 9 :]


def webp_saying(width: int, height: int) -> bytes:
    """The extended header of a WebP canvas of this size, followed by a one-pixel picture."""
    body = encoded(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + body
    return b"RIFF" + struct.pack("<I", len(parts)) + parts
