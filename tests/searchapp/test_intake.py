"""What comes out of the door for pictures: upright, RGB, stripped, the same for query and catalogue."""

import hashlib
import io
import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from ml.artifacts import load_bundle
from ml.protocol import Encoder
from searchapp.exceptions import InvalidInput
from searchapp.services import intake
from searchapp.services.image_decoding import decode_for_input, decode_for_storing
from tests.conftest import missing
from tests.searchapp.pictures import ORIENTATIONS, encoded, gradient, icc_profile, oriented, png_chunk

SIZE = 64
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'


@pytest.fixture(scope="module")
def encoder(bundle_path: Path) -> Encoder:
    if not (bundle_path / "manifest.json").exists():
        missing(f"the shipped bundle in {bundle_path}")
    return load_bundle(bundle_path).encoder()


def code_of(encoder: Encoder, data: bytes) -> NDArray[np.uint8]:
    pixels = intake.query_image(data, input_size=encoder.input_size).pixels
    return np.unpackbits(encoder.encode(pixels[None]).packed_codes[0])


def test_a_query_is_a_square_of_the_encoders_size_and_tells_the_size_of_the_upload() -> None:
    query = intake.query_image(encoded(gradient(90, 60), "PNG"), input_size=SIZE, filename="x.jpg")

    assert query.pixels.shape == (SIZE, SIZE, 3)
    assert query.pixels.dtype == np.uint8
    assert (query.width, query.height) == (90, 60)


def test_a_lossless_picture_gives_the_same_code_to_the_bit_in_every_orientation(
    encoder: Encoder, photos: list[bytes]
) -> None:
    upright = Image.open(io.BytesIO(photos[0])).convert("RGB")

    codes = [code_of(encoder, oriented(upright, orientation, "PNG")) for orientation in ORIENTATIONS]

    assert [int((code != codes[0]).sum()) for code in codes] == [0] * 8


def test_a_jpeg_gives_a_code_within_three_bits_in_every_orientation(
    encoder: Encoder, photos: list[bytes]
) -> None:
    upright = Image.open(io.BytesIO(photos[0])).convert("RGB")

    codes = [code_of(encoder, oriented(upright, o, "JPEG", quality=95, subsampling=0)) for o in ORIENTATIONS]

    assert max(int((code != codes[0]).sum()) for code in codes) <= 3


def test_a_sideways_upload_is_measured_upright() -> None:
    query = intake.query_image(oriented(gradient(90, 60), 6, "JPEG"), input_size=SIZE)
    assert (query.width, query.height) == (90, 60)


def test_a_stored_file_keeps_no_metadata_and_no_appended_bytes(data_dir: Path) -> None:
    marker = b"<script>appended()</script>"
    data = oriented(gradient(), 6, "JPEG", comment=b"a comment", xmp=XMP, icc_profile=icc_profile())

    stored = intake.image_store(data + marker, filename="../../etc/passwd\x00.jpg")

    files = sorted(
        str(path.relative_to(data_dir / "media")) for path in data_dir.rglob("*") if path.is_file()
    )
    assert files == sorted(stored.files)
    content = (data_dir / "media" / stored.path).read_bytes()
    assert hashlib.sha256(content).hexdigest() == stored.image_sha256
    assert content.endswith(b"\xff\xd9")
    assert marker not in content
    assert (stored.width, stored.height, stored.extension) == (90, 60, "jpg")
    opened = Image.open(io.BytesIO(content))
    assert dict(opened.getexif()) == {}
    assert {"comment", "xmp", "icc_profile", "exif", "photoshop"} & set(opened.info) == set()


def test_exiftool_finds_nothing_personal_in_a_stored_file(data_dir: Path) -> None:
    if shutil.which("exiftool") is None:
        missing("exiftool")
    data = (
        oriented(gradient(), 6, "JPEG", comment=b"a comment", xmp=XMP, icc_profile=icc_profile())
        + b"tail" * 100
    )
    stored = intake.image_store(data)

    for name in stored.files:
        command = ["exiftool", "-json", "-G0", "-a", str(data_dir / "media" / name)]
        tags = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[0]
        groups = {tag.partition(":")[0] for tag in tags if ":" in tag}
        assert groups <= {"SourceFile", "ExifTool", "File", "JFIF", "Composite"}
        assert not [tag for tag in tags if "Comment" in tag or "Trailer" in tag or "Warning" in tag]


def test_a_catalogue_photo_is_encoded_from_its_file_by_the_path_a_query_takes(
    data_dir: Path, photos: list[bytes]
) -> None:
    stored = intake.image_store(photos[0])
    content = (data_dir / "media" / stored.path).read_bytes()

    assert (
        intake.stored_pixels(stored.path, input_size=SIZE)
        == intake.query_image(content, input_size=SIZE).pixels
    ).all()


@pytest.mark.parametrize("size", [(90, 60), (2400, 1800)])
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_lossless_upload_asks_with_exactly_the_pixels_it_is_stored_with(
    data_dir: Path, size: tuple[int, int], form: str
) -> None:
    data = encoded(gradient(*size), form, **({"lossless": True, "method": 0} if form == "WEBP" else {}))

    stored = intake.image_store(data)

    assert stored.extension == "png"
    assert max(stored.width, stored.height) == min(1600, max(size))
    query = intake.query_image(data, input_size=SIZE)
    assert (intake.stored_pixels(stored.path, input_size=SIZE) == query.pixels).all()


def test_a_lossy_webp_is_stored_as_jpeg(data_dir: Path) -> None:
    assert intake.image_store(encoded(gradient(), "WEBP", quality=80)).extension == "jpg"


def test_storing_the_same_upload_twice_gives_the_same_file(data_dir: Path, photos: list[bytes]) -> None:
    assert intake.image_store(photos[0]) == intake.image_store(photos[0])
    assert len([path for path in data_dir.rglob("*") if path.is_file()]) == 2


def test_a_twelve_megapixel_jpeg_is_decoded_at_reduced_size() -> None:
    data = encoded(gradient(4000, 3000), "JPEG", quality=90)

    assert decode_for_input(data, input_size=128, crop=None).image.size == (500, 375)
    assert decode_for_input(data, input_size=128, crop=(0.25, 0.25, 0.5, 0.5)).image.width == 500
    assert decode_for_storing(data, side=1600).image.size == (1600, 1200)


def test_a_sideways_twelve_megapixel_jpeg_is_decoded_at_reduced_size_too() -> None:
    data = oriented(gradient(4000, 3000), 6, "JPEG", quality=90)
    decoded = decode_for_input(data, input_size=128, crop=None)
    assert (decoded.image.size, decoded.width, decoded.height) == ((500, 375), 4000, 3000)


def test_a_crop_asks_with_that_part_of_the_upright_picture() -> None:
    image = gradient(80, 80)
    whole = encoded(image.crop((20, 40, 60, 80)), "PNG")

    for orientation in ORIENTATIONS:
        data = oriented(image, orientation, "PNG")
        cropped = intake.query_image(data, input_size=SIZE, crop=intake.Crop.parse("0.25,0.5,0.5,0.5"))
        assert (cropped.pixels == intake.query_image(whole, input_size=SIZE).pixels).all()


@pytest.mark.parametrize(
    "text",
    ["", "1,2,3", "a,b,c,d", "0,0,0,1", "0.5,0,0.6,1", "-0.1,0,1,1", "nan,0,1,1", "0,0,inf,1", "0,0,1,1,1"],
)
def test_a_crop_outside_the_picture_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidInput, match="must be x,y,w,h inside 0-1") as refused:
        intake.Crop.parse(text)
    assert list(refused.value.fields) == ["crop"]


def _sixteen_modes() -> dict[str, tuple[bytes, Image.Image, float]]:
    """File, the picture it shows, and how far the mean pixel may lie off it."""
    plain = gradient()
    opaque = Image.new("L", plain.size, 255)
    grey = plain.convert("L")
    grey16 = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257)
    cmyk = encoded(plain.convert("CMYK"), "JPEG", quality=95)
    adobe = cmyk.index(b"\xff\xee\x00\x0eAdobe")
    rgba, grey_alpha = plain.copy(), grey.copy()
    rgba.putalpha(opaque)
    grey_alpha.putalpha(opaque)
    palette = plain.quantize(256)
    holed = palette.convert("RGB")
    holed.paste((255, 255, 255), mask=palette.point(lambda index: 255 * (index == 3), "L"))
    black_white = plain.convert("1")
    rotated = plain.transpose(Image.Transpose.ROTATE_180)
    grey_rgb = grey.convert("RGB")
    return {
        "1": (encoded(black_white, "PNG"), black_white.convert("RGB"), 0),
        "L": (encoded(grey, "PNG"), grey_rgb, 0),
        "LA": (encoded(grey_alpha, "PNG"), grey_rgb, 0),
        "P": (encoded(palette, "PNG"), palette.convert("RGB"), 0),
        "P+alpha": (encoded(palette, "PNG", transparency=3), holed, 0),
        "PA": (encoded(rgba.quantize(200), "PNG"), rgba.quantize(200).convert("RGB"), 0),
        "RGB": (encoded(plain, "PNG"), plain, 0),
        "RGBA": (encoded(rgba, "PNG"), plain, 0),
        "CMYK without Adobe": (_inverted_cmyk(plain, adobe), plain, 3),
        "CMYK Adobe": (cmyk, plain, 3),
        "YCCK": (_ycck(plain, adobe), plain, 3),
        "16-bit grey": (encoded(grey16, "PNG"), grey_rgb, 0),
        "16-bit RGB": (_png16(plain), plain, 0),
        "progressive": (encoded(plain, "JPEG", quality=95, progressive=True), plain, 3),
        "MPO": (encoded(plain, "MPO", save_all=True, append_images=[rotated], quality=95), plain, 3),
        "broken ICC": (encoded(plain, "PNG", icc_profile=b"not a profile" * 20), plain, 0),
    }


def _ycck(image: Image.Image, adobe: int) -> bytes:
    """Adobe's other way of writing CMYK: the inks as luminance and colour difference."""
    luminance, blue, red = (
        band.point(lambda value: 255 - value) for band in ImageOps.invert(image).convert("YCbCr").split()
    )
    bands = Image.merge("CMYK", [luminance, blue, red, Image.new("L", image.size, 0)])
    data = encoded(bands, "JPEG", quality=95)
    return data[: adobe + 15] + b"\x02" + data[adobe + 16 :]


def _inverted_cmyk(image: Image.Image, adobe: int) -> bytes:
    """The same picture in the polarity of a CMYK file that Adobe did not write, without Adobe's marker."""
    inverted = Image.merge(
        "CMYK", [band.point(lambda value: 255 - value) for band in image.convert("CMYK").split()]
    )
    data = encoded(inverted, "JPEG", quality=95)
    return data[:adobe] + data[adobe + 16 :]


def _png16(image: Image.Image) -> bytes:
    rows = (np.asarray(image, dtype=np.uint16) * 257).astype(">u2")
    body = zlib.compress(b"".join(b"\x00" + row.tobytes() for row in rows))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", image.width, image.height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", _sixteen_modes())
def test_every_mode_a_camera_or_a_shop_writes_becomes_the_same_rgb_picture(mode: str) -> None:
    data, shown, allowed = _sixteen_modes()[mode]

    image = decode_for_input(data, input_size=SIZE, crop=None).image

    assert (image.mode, image.size) == ("RGB", (90, 60))
    difference = np.abs(np.asarray(image, dtype=float) - np.asarray(shown, dtype=float)).mean()
    assert difference <= allowed


def test_what_is_transparent_is_shown_on_white(data_dir: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert intake.image_store(encoded(clear, "PNG")).colour == "#ffffff"
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert decode_for_storing(encoded(half, "PNG"), side=8).image.getpixel((0, 0)) == (127, 127, 127)


def test_an_embedded_profile_is_applied_and_a_broken_one_ignored() -> None:
    plain = gradient()
    swapped = encoded(plain, "PNG", icc_profile=_rgb_profile_with_red_and_blue_swapped())
    broken = encoded(plain, "PNG", icc_profile=b"\x00" * 300)

    assert np.asarray(decode_for_storing(broken, side=90).image).tolist() == np.asarray(plain).tolist()
    turned = np.asarray(decode_for_storing(swapped, side=90).image, dtype=int)
    assert np.abs(turned - np.asarray(plain, dtype=int)[:, :, ::-1]).mean() < 2


def _rgb_profile_with_red_and_blue_swapped() -> bytes:
    """sRGB with the tags of two primaries exchanged: a profile that nobody has special-cased."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    name = profile.index("sRGB".encode("utf-16-be"))
    profile[name : name + 8] = "BGRs".encode("utf-16-be")
    return bytes(profile)
