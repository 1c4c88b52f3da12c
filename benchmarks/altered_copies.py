"""Copies of photos as they come back: resized, encoded anew, cut, brighter, and worse."""

import io
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

Alter = Callable[[Image.Image], Image.Image]


def cut(left: float, top: float, right: float, bottom: float) -> Alter:
    """Without these shares of the picture at its edges."""

    def alter(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        return image.crop((round(box[0]), round(box[1]), round(box[2]), round(box[3])))

    return alter


def resized(scale: float) -> Alter:
    return lambda image: image.resize((round(scale * image.width), round(scale * image.height)))


def stamped(image: Image.Image) -> Image.Image:
    image = image.copy()
    box = (0.6 * image.width, 0.85 * image.height, 0.97 * image.width, 0.95 * image.height)
    ImageDraw.Draw(image).rectangle(box, fill="white")
    return image


def warmer(image: Image.Image) -> Image.Image:
    bands = [
        band.point([min(255, round(factor * value)) for value in range(256)])
        for band, factor in zip(image.split(), (1.1, 1.0, 0.9), strict=True)
    ]
    return Image.merge("RGB", bands)


# Name -> (what is done, JPEG quality of the copy; None = WebP at 60). First what a supplier, a shop system or a
# screenshot does to a photo on its way, then what changes more of what it shows.
SLIGHT: dict[str, tuple[Alter, int | None]] = {
    "half size": (resized(0.5), 90),
    "double size": (resized(2), 90),
    "JPEG quality 30": (lambda image: image, 30),
    "WebP quality 60": (lambda image: image, None),
    "25 % brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.25), 90),
    "20 % darker": (lambda image: ImageEnhance.Brightness(image).enhance(0.8), 90),
    "20 % more contrast": (lambda image: ImageEnhance.Contrast(image).enhance(1.2), 90),
    "5 % cut evenly": (cut(0.025, 0.025, 0.025, 0.025), 90),
    "10 % cut evenly": (cut(0.05, 0.05, 0.05, 0.05), 90),
    "10 % cut at the left": (cut(0.1, 0, 0, 0), 90),
    "8 % cut at the right": (cut(0, 0, 0.08, 0), 90),
    "5 % cut at the bottom": (cut(0, 0, 0, 0.05), 90),
    "5 % cut at two edges": (cut(0.05, 0.05, 0, 0), 90),
}
STRONG: dict[str, tuple[Alter, int | None]] = {
    "cut unevenly at four": (cut(0.07, 0.02, 0.01, 0.06), 90),
    "white frame of 4 %": (lambda image: ImageOps.expand(image, round(0.04 * image.width), "white"), 90),
    "turned by 2 degrees": (lambda image: image.rotate(2, Image.Resampling.BICUBIC, fillcolor="white"), 90),
    "warmer colours": (warmer, 90),
    "stamped in a corner": (stamped, 90),
    "black and white": (lambda image: ImageOps.grayscale(image).convert("RGB"), 90),
    "mirrored": (ImageOps.mirror, 90),
}
ALTERATIONS = {**SLIGHT, **STRONG}


def altered(data: bytes, alter: Alter, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    image = alter(Image.open(io.BytesIO(data)).convert("RGB"))
    if quality is None:
        image.save(buffer, "WEBP", quality=60)
    else:
        image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
