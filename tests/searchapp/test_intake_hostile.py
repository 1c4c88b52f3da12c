"""Rows B1 to B4 and B10 of the reliability bar: whatever is sent, a clear refusal or a picture, and soon."""

import io
import json
import random
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from searchapp.exceptions import BadImage, ImageTooLarge, UnsupportedImage
from searchapp.services import image_decoding, intake
from searchapp.services.image_headers import ImageFormat
from tests.searchapp.pictures import (
    broken_pictures,
    encoded,
    gradient,
    jpeg_saying,
    png_chunk,
    png_of,
    webp_saying,
)

SEED = 20_26
SIZE = 64
OURS = (JpegImageFile, PngImageFile, WebPImageFile)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_b1_five_hundred_broken_pictures_are_refused_or_decoded_and_refused_ones_leave_no_file(
    data_dir: Path, photos: list[bytes]
) -> None:
    plain = gradient()
    originals = [
        *photos[:4],
        encoded(plain, "PNG"),
        encoded(plain, "WEBP"),
        encoded(plain, "JPEG", progressive=True),
    ]
    pictures, slowest = 0, 0.0
    refusals: list[tuple[int, bool, int]] = []

    for _, data in broken_pictures(originals, SEED):
        before, started = len(files_in(data_dir)), time.perf_counter()
        pictures += 1
        try:
            intake.query_image(data, input_size=SIZE)
            intake.image_store(data)
        except BadImage as refused:
            refusals.append((refused.status, bool(refused.message), len(files_in(data_dir)) - before))
        slowest = max(slowest, time.perf_counter() - started)

    print(
        json.dumps(
            {"row": "B1", "seed": SEED, "pictures": pictures, "refused": len(refusals), "slowest": slowest}
        )
    )
    assert pictures == 500
    assert len(refusals) >= 200  # nearly all that were cut short or are noise
    assert set(refusals) == {(413, True, 0), (415, True, 0), (422, True, 0)}
    assert slowest <= 5


def _bombs() -> dict[str, bytes]:
    jpeg = encoded(gradient(), "JPEG")
    webp = encoded(gradient(), "WEBP", lossless=True)
    many = png_chunk(b"tEXt", b"a\x00b") * 70_000
    comment = b"\xff\xfe\x00\x04ab"
    scan = jpeg.index(b"\xff\xda")
    return {
        "178 megapixels in half a megabyte": png_of(18_000, 9_900),
        "26 megapixels": png_of(6_500, 4_000),
        "60,000 squared": png_of(60_000, 60_000, body=b""),
        "4 billion squared": png_of(2**32 - 1, 2**32 - 1, body=b""),
        "1 x 65,535": png_of(1, 65_535),
        "65,535 x 1": png_of(65_535, 1),
        "12,001 wide": png_of(12_001, 400),
        "51 to 1": png_of(5_100, 100),
        "jpeg 65,535 squared": jpeg_saying(jpeg, 65_535, 65_535),
        "jpeg 1 x 65,535": jpeg_saying(jpeg, 1, 65_535),
        "jpeg 0 x 60": jpeg_saying(jpeg, 0, 60),
        "webp 16,384 squared": webp_saying(16_384, 16_384),
        "webp canvas 16 million wide": webp_saying(2**24, 2),
        "lossless webp 16,384 squared": webp[:21] + struct.pack("<I", 0x0FFFFFFF) + webp[25:],
        "text chunk of 100 MB": png_of(
            90, 60, png_chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(10**8), 9))
        ),
        "profile of 100 MB": png_of(
            90, 60, png_chunk(b"iCCP", b"k\x00\x00" + zlib.compress(bytes(10**8), 9))
        ),
        "70,000 chunks": png_of(90, 60, many),
        "jpeg of 5,000 comments": jpeg[:2] + comment * 5_000 + jpeg[2:],
        "jpeg of a megabyte of padding": jpeg[:2] + b"\xff" * 10**6 + jpeg[2:],
        "progressive jpeg of 5,000 scans": _endless_scans(),
        "scans behind a false end": _endless_scans(before=b"\xff\xfe\x00\x06\xff\xd9\x00\x00"),
        "a false end in a scan's header": _endless_scans(component=0xFF, table=0xD9),
        "sequential jpeg of 5,000 scans": _endless_sequential_scans(),
        "one byte over the limit": jpeg[:scan] + bytes(20 * 1024 * 1024 + 1 - scan),
    }


def _endless_scans(before: bytes = b"", component: int = 0, table: int = 0) -> bytes:
    data = encoded(gradient(), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xc4", first)
    scan = data[first:second]
    if component:  # the first component of the scan, right behind marker, length and count
        data = data[:first] + scan[:5] + bytes([component, table]) + scan[7:] + data[second:]
    return data[:second] + before + scan * 5_000 + data[second:]


def _endless_sequential_scans() -> bytes:
    """A baseline file whose components come one by one makes a decoder read on to the end of the file."""
    data = encoded(gradient(), "JPEG")
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    return data[: data.index(b"\xff\xda")] + scan * 5_000 + b"\xff\xd9"


@pytest.mark.parametrize("name", _bombs())
def test_b2_a_bomb_is_refused_by_its_header_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    data = _bombs()[name]
    is_in_content = "100 MB" in name
    if not is_in_content:  # no decoder may even be asked
        asked = dict.fromkeys(ImageFormat, lambda _: pytest.fail("a decoder was asked"))
        monkeypatch.setattr(image_decoding, "_DECODERS", asked)

    started = time.process_time()
    with pytest.raises(BadImage) as refused:
        intake.query_image(data, input_size=SIZE)
    with pytest.raises(BadImage):
        intake.image_store(data)

    assert time.process_time() - started <= 0.6  # for both
    assert refused.value.status in {413, 422}
    assert files_in(data_dir) == []


def test_b2_the_message_says_what_was_got_and_what_is_allowed() -> None:
    with pytest.raises(
        ImageTooLarge, match=r"6500 x 4000 pixels \(26 megapixels\). Send one of up to 25 megapixels"
    ):
        intake.query_image(png_of(6_500, 4_000), input_size=SIZE)
    with pytest.raises(ImageTooLarge, match=r"has 20.0 MB. Send a JPEG, PNG or WebP of up to 20 MB"):
        intake.query_image(b"\xff\xd8\xff" + bytes(20 * 1024 * 1024), input_size=SIZE)
    with pytest.raises(
        UnsupportedImage, match=r"^That file is a PDF. Send a JPEG, PNG or WebP of up to 20 MB.$"
    ):
        intake.query_image(b"%PDF-1.7 ...", input_size=SIZE)
    with pytest.raises(BadImage, match="That file is empty"):
        intake.query_image(b"", input_size=SIZE)


def test_the_largest_picture_that_is_allowed_is_accepted() -> None:
    assert intake.query_image(png_of(5_000, 5_000), input_size=SIZE).width == 5_000


def _foreign() -> dict[str, tuple[bytes, str]]:
    plain = gradient()
    drawn = {
        "gif": ("GIF", "a GIF"),
        "tif": ("TIFF", "a TIFF"),
        "bmp": ("BMP", "a BMP"),
        "ico": ("ICO", "an icon file"),
        "icns": ("ICNS", "an icon file"),
        "eps": ("EPS", "a PostScript file"),
        "pdf": ("PDF", "a PDF"),
        "jp2": ("JPEG2000", "a JPEG 2000"),
        "avif": ("AVIF", "an AVIF"),
        "ppm": ("PPM", "of a type"),
        "tga": ("TGA", "of a type"),
        "pcx": ("PCX", "of a type"),
        "sgi": ("SGI", "of a type"),
        "dds": ("DDS", "of a type"),
        "xbm": ("XBM", "of a type"),
    }
    written = {
        "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        "ps": (b"%!PS-Adobe-3.0\n", "a PostScript file"),
        "psd": (b"8BPS\x00\x01" + bytes(40), "a Photoshop file"),
        "fits": (b"SIMPLE  =                    T", "a FITS file"),
        "mp4": (b"\x00\x00\x00\x18ftypisom" + bytes(30), "an MP4 video"),
        "heic": (b"\x00\x00\x00\x18ftypheic" + bytes(30), "a HEIC"),
        "html": (b"<!DOCTYPE html><script>", "a web page"),
        "zip": (b"PK\x03\x04" + bytes(40), "a zip archive"),
        "exe": (b"MZ" + bytes(40), "a program"),
        "txt": (b"just words", "of a type"),
    }
    made = {
        suffix: (encoded(plain.convert("1") if form == "XBM" else plain, form), name)
        for suffix, (form, name) in drawn.items()
        if form in _writable()
    }
    return {**made, **written}


def _writable() -> set[str]:
    Image.init()
    return set(Image.SAVE)


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of foreign decoders that were entered. Every one that Pillow has is watched."""
    Image.init()
    names: list[str] = []

    def watch(kind: type[ImageFile.ImageFile]) -> None:
        def spy(self: Any, *args: Any) -> None:
            names.append(kind.__name__)
            raise SyntaxError("watched")

        monkeypatch.setattr(kind, "_open", spy)

    def beneath(kind: type[ImageFile.ImageFile]) -> Iterator[type[ImageFile.ImageFile]]:
        for child in kind.__subclasses__():
            yield child
            yield from beneath(child)

    base: Any = ImageFile.ImageFile
    others = [kind for kind in beneath(base) if kind not in OURS and "_open" in vars(kind)]
    assert len(others) >= 30
    for kind in others:
        watch(kind)
    return names


def test_b3_twenty_four_unlisted_types_are_refused_whatever_their_name_and_no_other_decoder_is_entered(
    entered: list[str], data_dir: Path
) -> None:
    foreign = _foreign()
    for suffix, (data, words) in foreign.items():
        for name in (f"picture.{suffix}", "picture.jpg"):
            for take in _both_doors():
                with pytest.raises(UnsupportedImage, match=words) as refused:
                    take(data, name)
                assert refused.value.status == 415

    assert len(foreign) >= 24
    assert entered == []
    assert files_in(data_dir) == []


def _both_doors() -> list[Callable[[bytes, str], object]]:
    return [
        lambda data, name: intake.query_image(data, filename=name, input_size=SIZE),
        lambda data, name: intake.image_store(data, filename=name),
    ]


def test_b3_a_png_called_jpg_is_a_png(data_dir: Path) -> None:
    assert intake.image_store(encoded(gradient(), "PNG"), filename="photo.jpg").extension == "png"


def _frames(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (24, 24), (number % 256, 40, 90)) for number in range(count)]


@pytest.mark.parametrize("form", ["WEBP", "PNG"])
def test_b4_of_two_thousand_frames_the_first_one_counts_within_a_second(form: str) -> None:
    first, *rest = _frames(2_000)
    data = encoded(
        first, form, save_all=True, append_images=rest, **({"lossless": True} if form == "WEBP" else {})
    )

    started = time.process_time()
    query = intake.query_image(data, input_size=8)

    assert time.process_time() - started <= 1
    assert query.pixels[4, 4].tolist() == [0, 40, 90]


def test_b4_an_animated_gif_is_an_unsupported_type() -> None:
    first, *rest = _frames(20)
    with pytest.raises(UnsupportedImage, match="a GIF"):
        intake.query_image(encoded(first, "GIF", save_all=True, append_images=rest), input_size=SIZE)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=400),
    form=st.sampled_from(["JPEG", "PNG", "WEBP", ""]),
    seed=st.integers(0, 2**32),
)
def test_b10_nothing_but_a_refusal_ever_leaves_the_intake(data: bytes, form: str, seed: int) -> None:
    """Noise, and real files with noise spliced in anywhere."""
    if form:
        whole = encoded(gradient(40, 30), form)
        chance = random.Random(seed)
        position = chance.randrange(len(whole))
        data = whole[:position] + data + whole[position + chance.randrange(len(data) + 1) :]
    try:
        assert intake.query_image(data, input_size=16).pixels.shape == (16, 16, 3)
        assert intake.image_clean(data).stored.width >= 1
    except BadImage as refused:
        assert refused.message  # noqa: PT017


def test_a_polyglot_loses_its_other_half(data_dir: Path) -> None:
    marker = b"<html><script>alert(1)</script></html>"
    picture = gradient()
    for data in (
        encoded(picture, "JPEG", comment=marker),
        encoded(picture, "JPEG") + b"PK\x03\x04" + marker,
        encoded(picture, "PNG") + marker,
        encoded(picture, "WEBP") + marker,
    ):
        stored = intake.image_store(data)
        for name in stored.files:
            assert marker not in (data_dir / "media" / name).read_bytes()
        assert Image.open(io.BytesIO((data_dir / "media" / stored.path).read_bytes())).size == picture.size
