"""Row B7: hostile zips are refused with the entry and the reason, and write nothing outside their folder."""

import io
import os
import shutil
import stat
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from searchapp.exceptions import InvalidInput
from searchapp.services.archives import ArchiveLimits, archive_check, archive_unpack
from searchapp.services.importing import import_upload_store

SMALL = ArchiveLimits(members=50, unpacked_bytes=400_000, member_bytes=300_000)


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def renamed(data: bytes, old: bytes, new: bytes) -> bytes:
    """Another name of the same length, in the local header and the table of contents."""
    assert len(old) == len(new)
    return data.replace(old, new)


def with_field(data: bytes, offset: int, form: str, value: int, *, local_offset: int | None = None) -> bytes:
    """Overwrite a field of the first entry of the table of contents, and its twin in the local header."""
    changed = bytearray(data)
    struct.pack_into(form, changed, data.index(b"PK\x01\x02") + offset, value)
    if local_offset is not None:
        struct.pack_into(form, changed, data.index(b"PK\x03\x04") + local_offset, value)
    return bytes(changed)


def overlapping() -> bytes:
    """Two entries in the table of contents that point at the same bytes."""
    data = bytearray(zipped(("a.jpg", b"x" * 500), ("b.jpg", b"y" * 500), method=zipfile.ZIP_STORED))
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    struct.pack_into("<L", data, second + 42, 0)
    return bytes(data)


def zip64_locator() -> bytes:
    data = zipped(("a.jpg", b"x"))
    end = data.index(b"PK\x05\x06")
    return data[:end] + b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 1) + data[end:]


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "slip": (lambda: zipped(("../../evil.jpg", b"x")), r"'../../evil.jpg': the path leaves the archive"),
    "slip inside": (lambda: zipped(("a/../../evil.jpg", b"x")), "leaves the archive"),
    "absolute": (lambda: zipped(("/tmp/evil.jpg", b"x")), r"'/tmp/evil.jpg': the path is absolute"),
    "backslash": (lambda: zipped(("..\\evil.jpg", b"x")), "holds a backslash"),
    "drive letter": (lambda: zipped(("C:evil.jpg", b"x")), "has a drive letter"),
    "symlink": (
        lambda: zipped((special("link.jpg", stat.S_IFLNK | 0o777), b"/etc/passwd")),
        "'link.jpg': it is a link",
    ),
    "device": (lambda: zipped((special("pipe.jpg", stat.S_IFIFO | 0o644), b"")), "a link or a device"),
    "nested": (
        lambda: zipped(("inner.zip", zipped(("a.jpg", b"x")))),
        "'inner.zip': it is an archive itself",
    ),
    "encrypted": (
        lambda: with_field(zipped(("a.jpg", b"x")), 8, "<H", 1, local_offset=6),
        "'a.jpg': it is encrypted",
    ),
    "overlap": (overlapping, "it overlaps another entry"),
    "ratio": (lambda: zipped(("a.jpg", bytes(299_000))), r"unpacks to [\d,]+ times its size, allowed: 100"),
    "says less than it has": (
        lambda: with_field(zipped(("a.jpg", bytes(90_000))), 24, "<L", 10, local_offset=22),
        "'a.jpg': it",
    ),
    "says more than it has": (
        lambda: with_field(zipped(("a.jpg", os.urandom(900))), 24, "<L", 5_000, local_offset=22),
        "'a.jpg': it",
    ),
    "wrong checksum": (
        lambda: with_field(zipped(("a.jpg", b"x" * 50)), 16, "<L", 1, local_offset=14),
        "damaged",
    ),
    "too many entries": (lambda: zipped(*((f"{n}.jpg", b"") for n in range(51))), "51 entries, allowed: 50"),
    "too much in all": (
        lambda: zipped(("a.jpg", os.urandom(250_000)), ("b.jpg", os.urandom(250_000))),
        "'b.jpg': with it the archive unpacks to more than",
    ),
    "too much in one": (
        lambda: zipped(("a.jpg", os.urandom(300_001))),
        "has 300,001 bytes, allowed: 300,000",
    ),
    "the same name twice": (
        lambda: renamed(zipped(("a.jpg", b"1"), ("b.jpg", b"2")), b"b.jpg", b"a.jpg"),
        "there twice",
    ),
    "bad UTF-8": (lambda: renamed(zipped(("ä.jpg", b"x")), "ä".encode(), b"\xff\xfe"), "not valid UTF-8"),
    "NUL in a name": (lambda: renamed(zipped(("aXb.jpg", b"x")), b"aXb", b"a\x00b"), "NUL"),
    "control characters": (lambda: zipped(("a\r\nb.jpg", b"x")), "control characters"),
    "long name": (lambda: zipped(("a" * 300 + ".jpg", b"x")), "longer than 255 bytes"),
    "another compression": (lambda: zipped(("a.jpg", b"x" * 99), method=zipfile.ZIP_LZMA), "not accepted"),
    "zip64": (zip64_locator, "zip64"),
    "truncated": (lambda: zipped(("a.jpg", b"x" * 99))[:-30], "cut short or not a zip"),
    "not a zip": (lambda: b"PK\x03\x04" + bytes(100), "cut short or not a zip"),
    "empty": (zipped, "holds no files"),
    "file and folder at once": (
        lambda: zipped(("a", b"x"), ("a/b.jpg", b"x")),
        "a file and a folder at once",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_b7_a_hostile_zip_is_refused_with_the_entry_and_the_reason(name: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[name]
    path, folder = tmp_path / "upload.zip", tmp_path / "job"
    path.write_bytes(make())

    started = time.perf_counter()
    with pytest.raises(InvalidInput, match=reason):
        archive_unpack(path, folder, SMALL)

    assert time.perf_counter() - started <= 10
    written = [file for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in written) <= SMALL.unpacked_bytes
    shutil.rmtree(folder, ignore_errors=True)
    assert [file.name for file in tmp_path.rglob("*")] == ["upload.zip"]


def test_b7_a_hundred_thousand_entries_are_refused_before_the_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    path.write_bytes(zipped(*((f"{number}.jpg", b"") for number in range(60_000)), method=zipfile.ZIP_STORED))
    started = time.perf_counter()
    with pytest.raises(InvalidInput, match="60,000 entries, allowed: 20,000"):
        archive_check(path)
    assert time.perf_counter() - started <= 0.5


def test_b7_an_upload_that_is_refused_leaves_no_folder(data_dir: Path) -> None:
    with pytest.raises(InvalidInput, match="leaves the archive"):
        import_upload_store([zipped(("../evil.jpg", b"x"))], "nice.zip")
    assert list((data_dir / "imports").iterdir()) == []


def test_a_proper_zip_is_unpacked_without_what_operating_systems_add(tmp_path: Path) -> None:
    path = tmp_path / "good.zip"
    members = [
        ("Fruit/a.jpg", b"1"),
        ("Fruit/", b""),
        ("__MACOSX/Fruit/._a.jpg", b"2"),
        ("Fruit/.DS_Store", b"3"),
    ]
    path.write_bytes(zipped(*members))

    archive_unpack(path, tmp_path / "out")

    files = [
        str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()
    ]
    assert files == ["Fruit/a.jpg"]
