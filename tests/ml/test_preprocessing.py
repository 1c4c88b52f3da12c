"""The one decode-and-resize path: deterministic, upright, cropped, reduced when the picture is large."""

import io
import time

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from ml.data.preprocessing import WHOLE, cut, decode_to_input, draft_target, to_input


def jpeg(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92, **options)
    return stream.getvalue()


def quarters(width: int, height: int) -> Image.Image:
    """Red, green / blue, white quarters."""
    image = Image.new("RGB", (width, height), "white")
    image.paste("red", (0, 0, width // 2, height // 2))
    image.paste("lime", (width // 2, 0, width, height // 2))
    image.paste("blue", (0, height // 2, width // 2, height))
    return image


def corners(pixels: np.ndarray) -> list[list[int]]:
    last = pixels.shape[0] - 8
    picked = [pixels[8, 8], pixels[8, last], pixels[last, 8], pixels[last, last]]
    return [[round(int(value) / 255) for value in pixel] for pixel in picked]


RED, LIME, BLUE, WHITE = [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]


def test_both_sides_are_squeezed_to_the_size() -> None:
    pixels = to_input(quarters(200, 80), 96)

    assert pixels.shape == (96, 96, 3)
    assert pixels.dtype == np.uint8
    assert corners(pixels) == [RED, LIME, BLUE, WHITE]


def test_a_picture_of_another_mode_or_an_empty_size_is_refused() -> None:
    with pytest.raises(ValueError, match="image mode is L, expected RGB"):
        to_input(Image.new("L", (8, 8)), 96)
    with pytest.raises(ValueError, match="input size is 0"):
        to_input(Image.new("RGB", (8, 8)), 0)


def test_a_photo_turned_by_its_camera_is_set_upright() -> None:
    upright = quarters(200, 120)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    turned = jpeg(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)

    assert corners(decode_to_input(turned, 96)) == [RED, LIME, BLUE, WHITE]


def test_a_crop_takes_its_part_of_the_upright_picture() -> None:
    pixels = decode_to_input(jpeg(quarters(200, 120)), 96, (0.5, 0.0, 0.5, 0.5))

    assert corners(pixels) == [LIME, LIME, LIME, LIME]


@pytest.mark.parametrize(
    "crop", [(0.0, 0.0, 1.1, 1.0), (-0.1, 0.0, 0.5, 0.5), (0.0, 0.0, 0.0, 0.5), (0.6, 0.0, 0.5, 0.5),
             (float("nan"), 0.0, 0.5, 0.5)]
)  # fmt: skip
def test_a_crop_outside_the_picture_is_refused(crop: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="it must lie inside 0-1 with sides > 0"):
        cut(quarters(20, 20), crop)


def test_a_hair_thin_crop_still_has_a_pixel() -> None:
    assert cut(quarters(20, 20), (0.999, 0.999, 0.001, 0.001)).size == (1, 1)


def test_the_draft_target_grows_with_the_crop_and_turns_with_the_picture() -> None:
    assert draft_target(96) == (192, 192)
    assert draft_target(96, (0.0, 0.0, 0.5, 1.0)) == (384, 192)
    assert draft_target(96, (0.0, 0.0, 0.5, 1.0), turned=True) == (192, 384)


def test_a_twelve_megapixel_jpeg_takes_the_reduced_path(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (188, 250, 3), dtype=np.uint8)
    photo = jpeg(Image.fromarray(noise).resize((4000, 3008), Image.Resampling.BICUBIC))
    decoded: list[tuple[int, int]] = []
    load = JpegImagePlugin.JpegImageFile.load

    def recording_load(image: JpegImagePlugin.JpegImageFile) -> object:
        decoded.append(image.size)
        return load(image)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", recording_load)
    started = time.perf_counter()
    reduced = decode_to_input(photo, 96)
    reduced_seconds = time.perf_counter() - started
    assert decoded[-1] == (500, 376)  # an eighth of each side is still two pixels per input pixel

    started = time.perf_counter()
    with Image.open(io.BytesIO(photo)) as image:
        full = to_input(image.convert("RGB"), 96)
    full_seconds = time.perf_counter() - started
    error = float(np.square(reduced.astype(float) - full).mean())
    assert 10 * np.log10(255**2 / error) > 30  # dB
    assert reduced_seconds < full_seconds


def test_the_same_bytes_give_the_same_pixels(photos: list[bytes]) -> None:
    for photo in photos:
        assert np.array_equal(decode_to_input(photo, 96), decode_to_input(photo, 96, WHOLE))


def test_bytes_that_are_no_picture_are_refused() -> None:
    with pytest.raises(OSError, match="cannot identify image file"):
        decode_to_input(b"not a picture", 96)
