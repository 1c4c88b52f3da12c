"""The heat map of a match: equal to its slow twin, honest when nothing matters, and right about real photos."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml.artifacts import load_bundle
from ml.data.preprocessing import to_input
from ml.protocol import Calibration, Encoded, Encoder, Pixels
from ml.retrieval.occlusion import COVERS, GRID, LEAST_PEAK, PATCH, OcclusionMap, occlusion_map
from tests.ml.photos import few_photos

CALIBRATION = Calibration(
    intercept=-2.0, code_weight=3.0, embedding_weight=5.0, strong=0.9, weak=0.5, pool_size=10
)
SIDE = 48
GREEN, GREY = (40, 160, 60), (120, 120, 120)


class Looking:
    """An encoder that is told where to look: both outputs say how green that part of the picture is."""

    input_size, code_bits, dimension = SIDE, 16, 2

    def __init__(self, part: tuple[slice, slice]) -> None:
        self.part = part
        self.batches: list[int] = []

    def encode(self, pixels: Pixels) -> Encoded:
        self.batches.append(len(pixels))
        seen = pixels[:, *self.part].astype(np.float32)
        is_green = (np.abs(seen - np.array(GREEN, np.float32)).max(axis=-1) < 2).mean(axis=(1, 2))
        angles = (1 - is_green) * np.pi / 2
        bits = np.arange(16) < np.rint(16 * (1 - is_green))[:, None]
        embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        return Encoded(np.packbits(bits, axis=1), embeddings)


def picture(*green: tuple[slice, slice]) -> NDArray[np.uint8]:
    pixels = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    for part in green:
        pixels[part] = GREEN
    return pixels


def map_of(encoder: Encoder, pixels: Pixels) -> OcclusionMap:
    code, embedding = np.zeros(2, np.uint8), np.array([1, 0], np.float32)
    return occlusion_map(encoder, pixels, packed_code=code, embedding=embedding, calibration=CALIBRATION)


CORNER = (slice(0, 16), slice(0, 16))


def test_an_encoder_that_looks_at_one_corner_lights_up_that_corner_alone() -> None:
    found = map_of(Looking(CORNER), picture(CORNER))

    assert not found.is_flat
    assert found.heat.shape == (GRID, GRID)
    assert found.heat[0, 0] == found.heat.max() == 1.0
    # A patch reaches PATCH - 1 cells past the corner's four, and not one further.
    reach = 4 + PATCH - 1
    assert (found.drops[:4, :4] > 1).all()
    assert (found.drops[reach:] == 0).all()
    assert (found.drops[:, reach:] == 0).all()
    # By hand: the patch that is the whole corner turns every bit and the embedding by a right angle.
    assert found.drops[0, 0] == pytest.approx(2 * 3.0 + 5.0)
    assert found.log_odds == pytest.approx(-2.0 + 3.0 + 5.0)


def test_the_rows_of_the_map_run_from_the_top_and_the_columns_from_the_left() -> None:
    upper_right = (slice(0, 16), slice(32, 48))

    heat = map_of(Looking(upper_right), picture(upper_right)).heat

    assert heat[0, GRID - 1] == 1.0
    assert heat[0, 0] == heat[GRID - 1, 0] == heat[GRID - 1, GRID - 1] == 0.0


def test_a_match_that_hangs_on_no_part_is_flat_and_not_scaled_up() -> None:
    nothing = map_of(Looking(CORNER), picture())  # one colour: covering it changes no pixel
    little = OcclusionMap(np.full((GRID, GRID), 0.99 * LEAST_PEAK), log_odds=0.0)
    enough = OcclusionMap(np.full((GRID, GRID), LEAST_PEAK), log_odds=0.0)

    assert (nothing.drops == 0).all()
    for flat in (nothing, little):
        assert flat.is_flat
        assert (flat.heat == 0).all()
    assert not enough.is_flat
    assert (enough.heat == 1).all()


def test_where_covering_helps_the_map_says_so_with_a_sign_and_shows_no_heat() -> None:
    without_green, turned_away = np.full(2, 255, np.uint8), np.array([0, 1], np.float32)

    found = occlusion_map(
        Looking(CORNER),
        picture(CORNER),
        packed_code=without_green,
        embedding=turned_away,
        calibration=CALIBRATION,
    )

    assert found.drops[0, 0] == pytest.approx(-11.0)
    assert found.is_flat
    assert (found.heat == 0).all()


def test_it_costs_the_covers_it_says_in_small_batches() -> None:
    encoder = Looking(CORNER)

    map_of(encoder, picture())

    assert sum(encoder.batches) == COVERS + 1 == 82
    assert max(encoder.batches) == 16


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pixels": np.zeros((SIDE, SIDE), np.uint8)}, "expected uint8"),
        ({"packed_code": np.zeros(3, np.uint8)}, r"the code is uint8 \(3,\), expected uint8 \(2,\)"),
        ({"embedding": np.zeros(3, np.float32)}, r"the embedding is \(3,\), expected \(2,\)"),
    ],
)
def test_other_shapes_are_refused_by_name(change: dict[str, NDArray[np.generic]], said: str) -> None:
    given = {"pixels": picture(), "packed_code": np.zeros(2, np.uint8), "embedding": np.ones(2, np.float32)}

    with pytest.raises(ValueError, match=said):
        occlusion_map(Looking(CORNER), calibration=CALIBRATION, **{**given, **change})  # type: ignore[arg-type]


# --- the shipped encoder on real photos


@pytest.fixture(scope="module")
def encoder(bundle_path: Path) -> Encoder:
    return load_bundle(bundle_path).encoder()


@pytest.fixture(scope="module")
def calibration(bundle_path: Path) -> Calibration:
    return load_bundle(bundle_path).calibration


@pytest.fixture(scope="module")
def pictures(data_packs: Path, encoder: Encoder) -> NDArray[np.uint8]:
    """(10, 3, S, S, 3): three photos of each of ten classes."""
    photos = few_photos(data_packs, per_class=3, size=encoder.input_size).pixels.numpy()
    return np.ascontiguousarray(np.moveaxis(photos, 1, -1)).reshape(10, 3, *photos.shape[2:], 3)


def explain(
    encoder: Encoder, calibration: Calibration, query: NDArray[np.uint8], entry: NDArray[np.uint8]
) -> OcclusionMap:
    stored = encoder.encode(entry[None])
    code, embedding = stored.packed_codes[0], stored.embeddings[0]
    return occlusion_map(encoder, query, packed_code=code, embedding=embedding, calibration=calibration)


def naive_drops(
    encoder: Encoder, calibration: Calibration, query: NDArray[np.uint8], entry: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """One cover at a time, pixel by pixel, and the odds written out: shares no line with what it checks."""
    stored = encoder.encode(entry[None])
    bits = np.unpackbits(stored.packed_codes[0])

    def odds(picture: NDArray[np.uint8]) -> float:
        seen = encoder.encode(picture[None])
        agreeing = float((np.unpackbits(seen.packed_codes[0]) == bits).mean())
        cosine = float(seen.embeddings[0] @ stored.embeddings[0])
        return (
            calibration.intercept
            + calibration.code_weight * (2 * agreeing - 1)
            + calibration.embedding_weight * cosine
        )

    side = query.shape[0] // GRID
    lost: dict[tuple[int, int], list[float]] = {cell: [] for cell in np.ndindex(GRID, GRID)}
    for top in range(GRID - PATCH + 1):
        for left in range(GRID - PATCH + 1):
            covered = query.copy()
            rows, columns = slice(top * side, (top + PATCH) * side), slice(left * side, (left + PATCH) * side)
            covered[rows, columns] = np.rint(query.reshape(-1, 3).mean(axis=0))
            loss = odds(query) - odds(covered)
            for row in range(top, top + PATCH):
                for column in range(left, left + PATCH):
                    lost[row, column].append(loss)
    return np.array([[np.mean(lost[row, column]) for column in range(GRID)] for row in range(GRID)])


def test_the_map_equals_its_slow_twin_and_comes_out_the_same_each_time(
    encoder: Encoder, calibration: Calibration, pictures: NDArray[np.uint8]
) -> None:
    query, entry = pictures[0, :2]

    found = explain(encoder, calibration, query, entry)

    assert found.drops == pytest.approx(naive_drops(encoder, calibration, query, entry), abs=1e-5)
    assert np.array_equal(explain(encoder, calibration, query, entry).drops, found.drops)


Half = Callable[[NDArray[np.float64]], NDArray[np.float64]]
HALVES: dict[str, Half] = {
    "left": lambda grid: grid[:, : GRID // 2],
    "right": lambda grid: grid[:, GRID // 2 :],
    "top": lambda grid: grid[: GRID // 2],
    "bottom": lambda grid: grid[GRID // 2 :],
}


def composite(
    product: NDArray[np.uint8], other: NDArray[np.uint8], place: str, side: int
) -> NDArray[np.uint8]:
    """The product squeezed into one half of the square, something else into the other."""
    whole = Image.fromarray(np.zeros((side, side, 3), np.uint8))
    size = (side // 2, side) if place in ("left", "right") else (side, side // 2)
    first, second = Image.fromarray(product).resize(size), Image.fromarray(other).resize(size)
    far = (side - size[0], side - size[1])
    for part, at in (
        ((first, (0, 0)), (second, far)) if place in ("left", "top") else ((second, (0, 0)), (first, far))
    ):
        whole.paste(part, at)
    return to_input(whole, side)


def test_of_half_a_product_and_half_something_else_most_of_the_heat_lies_on_the_product(
    encoder: Encoder, calibration: Calibration, pictures: NDArray[np.uint8]
) -> None:
    shares = []
    for number, (place, half) in enumerate([*HALVES.items()] * 3):
        product, other = pictures[number % 10, number % 3], pictures[(number + 5) % 10, 0]
        query = composite(product, other, place, encoder.input_size)
        heat = explain(encoder, calibration, query, product).heat
        shares.append(half(heat).sum() / heat.sum())

    assert np.mean(shares) > 0.7  # 0.5 by chance
    assert sum(share > 0.5 for share in shares) >= 10  # of 12
