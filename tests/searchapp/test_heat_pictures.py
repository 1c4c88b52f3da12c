"""A heat map in words and drawn over a photo: both name the same place."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from ml.retrieval.occlusion import GRID, OcclusionMap
from searchapp.services import heat_pictures
from searchapp.services.explanations import FLAT, MOST, SEVERAL, SPREAD, summary_of


def grid(*lit: tuple[slice, slice]) -> OcclusionMap:
    drops = np.zeros((GRID, GRID))
    for part in lit:
        drops[part] = 1.0
    return OcclusionMap(drops, log_odds=0.0)


LOW, HIGH, ALL = slice(0, 6), slice(6, 12), slice(0, 12)


@pytest.mark.parametrize(
    ("lit", "sentence"),
    [
        ([(LOW, LOW)], MOST.format(region="the upper left", whole="photo")),
        ([(HIGH, HIGH)], MOST.format(region="the lower right", whole="photo")),
        ([(slice(3, 9), slice(3, 9))], MOST.format(region="the middle", whole="photo")),
        ([(slice(0, 3), slice(4, 8))], MOST.format(region="the upper middle", whole="photo")),
        ([(slice(4, 8), slice(10, 12))], MOST.format(region="the middle right", whole="photo")),
        ([(LOW, slice(0, 2)), (LOW, slice(10, 12))], MOST.format(region="the upper half", whole="photo")),
        ([(slice(0, 2), LOW), (slice(10, 12), LOW)], MOST.format(region="the left half", whole="photo")),
        ([(LOW, LOW), (HIGH, HIGH)], SEVERAL.format(whole="photo")),
        ([(ALL, ALL)], SPREAD.format(whole="photo")),
        ([], FLAT.format(whole="photo")),
    ],
)
def test_the_words_name_the_smallest_part_that_holds_most_of_the_heat(
    lit: list[tuple[slice, slice]], sentence: str
) -> None:
    assert summary_of(grid(*lit), whole="photo") == sentence


def test_the_line_goes_around_what_is_lit_and_closes_at_the_edge() -> None:
    path = heat_pictures.outline_path(grid((LOW, LOW)).heat)

    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", path), float)
    assert 0 <= points.min() < 1
    assert 48 <= points.max() <= 52  # half of a side, smoothed
    starts, ends = points[::2], points[1::2]
    assert sorted(map(tuple, starts)) != []
    # Closed: every point is the end of two pieces.
    _, counts = np.unique(np.concatenate([starts, ends]).round(1), axis=0, return_counts=True)
    assert (counts % 2 == 0).all()
    assert heat_pictures.outline_path(grid().heat) == ""


def test_the_veil_is_dark_where_nothing_matched_and_clear_at_the_line() -> None:
    url = heat_pictures.veil_url(grid((LOW, ALL)).heat)
    veil = Image.open(io.BytesIO(base64.b64decode(url.removeprefix(heat_pictures.PREFIX))))

    assert (veil.mode, veil.size) == ("RGBA", (heat_pictures.SIDE, heat_pictures.SIDE))
    opacity = np.asarray(veil)[:, :, 3].astype(int)
    assert opacity[-1].min() > 170
    assert opacity[:, 0].min() < 60  # passes through clear on its way
    assert opacity[0].max() < 100
