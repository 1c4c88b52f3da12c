"""A small catalogue that needs no data: seeded drawings of things, good for seeing the product work and
nothing else."""

import csv
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

_KINDS = ("mug", "lamp", "cushion", "kite", "clock", "flag")
_COLOURS = {
    "red": (200, 45, 45),
    "blue": (45, 80, 200),
    "green": (40, 150, 70),
    "yellow": (235, 200, 40),
    "purple": (130, 60, 160),
}
_PHOTOS = 4
_SIDE = 160


def drawn_catalogue_write(folder: Path, *, seed: int = 0) -> None:
    """Write items.csv and its pictures into a new folder: 30 items in 6 categories, the same for the same
    seed."""
    chance = random.Random(seed)  # noqa: S311  drawings, not secrets
    (folder / "photos").mkdir(parents=True)
    with (folder / "items.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["sku", "title", "category", "images", "description", "tags", "price", "currency"])
        for kind in _KINDS:
            for colour, rgb in _COLOURS.items():
                names = [f"photos/{kind}-{colour}-{number}.png" for number in range(_PHOTOS)]
                for name in names:
                    _drawn(kind, rgb, chance).save(folder / name)
                table.writerow(
                    [
                        f"drawn:{kind}-{colour}",
                        f"{colour.capitalize()} {kind}",
                        f"Drawn things > {kind.capitalize()}s",
                        "|".join(names),
                        f"A {colour} {kind}, drawn by the computer.",
                        f"{colour}|drawn",
                        f"{chance.randint(4, 60)}.90",
                        "EUR",
                    ]
                )


def _drawn(kind: str, colour: tuple[int, int, int], chance: random.Random) -> Image.Image:
    """One view: place, size, angle, light and background differ from drawing to drawing."""
    light = chance.uniform(0.75, 1.15)
    fill = tuple(min(255, round(part * light)) for part in colour)
    grey = chance.randint(205, 250)
    image = Image.new("RGB", (_SIDE, _SIDE), (grey, grey, chance.randint(205, 250)))
    pen = ImageDraw.Draw(image)
    x, y = (chance.uniform(0.42, 0.58) * _SIDE for _ in range(2))
    _SHAPES[kind](pen, x, y, chance.uniform(0.26, 0.38) * _SIDE, fill)
    return image.rotate(chance.uniform(-12, 12), Image.Resampling.BILINEAR, fillcolor=(grey, grey, grey))


def _mug(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, ...]) -> None:
    pen.ellipse((x + r * 0.3, y - r * 0.5, x + r * 1.2, y + r * 0.5), outline=fill, width=round(r * 0.18))
    pen.rectangle((x - r * 0.8, y - r, x + r * 0.6, y + r), fill=fill)


def _lamp(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, ...]) -> None:
    pen.line((x, y, x, y + r * 1.2), fill=(60, 60, 60), width=round(r * 0.15))
    pen.polygon(
        [(x - r * 0.5, y - r), (x + r * 0.5, y - r), (x + r, y + r * 0.2), (x - r, y + r * 0.2)], fill=fill
    )


def _cushion(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, ...]) -> None:
    pen.rounded_rectangle((x - r, y - r, x + r, y + r), radius=r * 0.35, fill=fill)
    pen.line((x - r, y, x + r, y), fill=(255, 255, 255), width=3)


def _kite(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, ...]) -> None:
    pen.polygon([(x, y - r * 1.2), (x + r * 0.8, y), (x, y + r * 1.2), (x - r * 0.8, y)], fill=fill)
    pen.line((x, y + r * 1.2, x + r * 0.5, y + r * 1.6), fill=(60, 60, 60), width=2)


def _clock(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, ...]) -> None:
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(250, 250, 250), outline=fill, width=round(r * 0.25))
    for angle, length in ((-math.pi / 2, 0.6), (0.4, 0.45)):
        pen.line(
            (x, y, x + r * length * math.cos(angle), y + r * length * math.sin(angle)), fill=fill, width=4
        )


def _flag(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, ...]) -> None:
    pen.line((x - r, y - r * 1.1, x - r, y + r * 1.3), fill=(60, 60, 60), width=5)
    pen.polygon([(x - r, y - r), (x + r, y - r * 0.5), (x - r, y + r * 0.2)], fill=fill)


_SHAPES = {"mug": _mug, "lamp": _lamp, "cushion": _cushion, "kite": _kite, "clock": _clock, "flag": _flag}
