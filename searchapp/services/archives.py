"""Reading zip archives from strangers: everything is checked by name and number before a byte is unpacked.

Limits are ours, not the interpreter's: Python before 3.11.14 has no overlap check. Bytes are counted as
they come out; what the archive's own table says of them is only a claim.
"""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from searchapp.exceptions import InvalidInput
from searchapp.services.media import no_space_as_error

_END_RECORD = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_ZIP64_LOCATOR = b"PK\x06\x07"
_LOCAL_HEADER_BYTES = 30
_PIECE = 256 * 1024
_IGNORED_NAMES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
_ARCHIVE_SUFFIXES = frozenset({".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".jar", ".lzma"})
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    ValueError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """What an archive may hold. `ratio` binds members above `ratio_from` bytes; small ones do no harm."""

    members: int = 20_000
    unpacked_bytes: int = 1024**3
    member_bytes: int = 256 * 1024**2  # a data pack's shards; a photo has its own limit at intake
    ratio: int = 100
    ratio_from: int = 100_000
    directory_bytes: int = 16 * 1024**2
    name_characters: int = 500


LIMITS = ArchiveLimits()


def archive_check(path: Path, limits: ArchiveLimits = LIMITS) -> list[zipfile.ZipInfo]:
    """The files to unpack. Raises InvalidInput naming the entry and the reason; reads the table of contents
    only."""
    _check_end_record(path, limits)
    try:
        with zipfile.ZipFile(path) as archive:
            members = list(_checked(archive.infolist(), limits))
            _refuse_overlaps(archive.infolist(), archive.start_dir)
    except UnicodeDecodeError:
        raise _refused("a name in it is not valid UTF-8") from None
    except _BROKEN as error:
        raise _refused(f"it is damaged or not a zip ({error})") from error
    if not members:
        raise _refused("it holds no files")
    return members


def archive_unpack(path: Path, destination: Path, limits: ArchiveLimits = LIMITS) -> None:
    """Unpack into `destination`, a folder that must not exist yet. On a refusal some files may lie there:
    remove it.

    Raises InvalidInput naming entry and reason, NoSpace on a full disk.
    """
    members = archive_check(path, limits)
    left = limits.unpacked_bytes
    with no_space_as_error(), zipfile.ZipFile(path) as archive:
        destination.mkdir(parents=True)
        for member in members:
            target = destination.joinpath(*PurePosixPath(member.filename).parts)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                left -= _unpack(archive, member, target, min(left, member.file_size))
            except (FileExistsError, NotADirectoryError):
                raise _refused("it is a file and a folder at once", member) from None
            except _BROKEN as error:
                raise _refused(f"it is damaged ({error})", member) from error


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, allowed: int) -> int:
    written = 0
    with archive.open(member) as source, target.open("xb") as sink:
        while piece := source.read(_PIECE):
            written += len(piece)
            if written > allowed:
                raise _refused(f"it unpacks to more than the {allowed:,} bytes it may have", member)
            sink.write(piece)
    if written != member.file_size:
        raise _refused(f"it unpacks to {written:,} bytes, its header says {member.file_size:,}", member)
    return written


def _check_end_record(path: Path, limits: ArchiveLimits) -> None:
    """Count and size of the table of contents, before the standard library reads all of it into memory."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = max(0, size - _END_RECORD.size - 65_536)
        stream.seek(start)
        tail = stream.read()
    position = tail.rfind(_END_SIGNATURE)
    if position < 0 or len(tail) - position < _END_RECORD.size:
        raise _refused("it is cut short or not a zip: its table of contents is missing")
    _, _, _, _, count, directory_bytes, _, _ = _END_RECORD.unpack_from(tail, position)
    if tail[max(0, position - 20) :].startswith(_ZIP64_LOCATOR) or 0xFFFF in (count, directory_bytes >> 16):
        raise _refused(f"it is a zip64; at most {limits.members:,} files and 1 GB need none. Make it smaller")
    if count > limits.members or directory_bytes > limits.directory_bytes:
        raise _refused(f"it has {count:,} entries, allowed: {limits.members:,}. Split it, or import a folder")


def _checked(members: list[zipfile.ZipInfo], limits: ArchiveLimits) -> Iterator[zipfile.ZipInfo]:
    if len(members) > limits.members:
        raise _refused(f"it has {len(members):,} entries, allowed: {limits.members:,}")
    seen: set[str] = set()
    unpacked = 0
    for member in members:
        if problem := _name_problem(member, limits) or _content_problem(member, limits):
            raise _refused(problem, member)
        if member.filename in seen:
            raise _refused("the name is there twice", member)
        seen.add(member.filename)
        unpacked += member.file_size
        if unpacked > limits.unpacked_bytes:
            raise _refused(
                f"with it the archive unpacks to more than {limits.unpacked_bytes / 1e9:.1f} GB", member
            )
        path = PurePosixPath(member.filename)
        if not member.is_dir() and path.name.lower() not in _IGNORED_NAMES and path.parts[0] != "__MACOSX":
            yield member


def _name_problem(member: zipfile.ZipInfo, limits: ArchiveLimits) -> str:
    name = member.filename
    parts = name.rstrip("/").split("/")
    problems = {
        "the name is empty": not name.strip("/"),
        "the name holds a NUL character": member.orig_filename != name,
        f"the name is longer than {limits.name_characters}": len(name) > limits.name_characters,
        "a part of the name is longer than 255 bytes": any(
            len(part.encode(errors="replace")) > 255 for part in parts
        ),
        "the path is absolute": name.startswith("/"),
        "the path has a drive letter": len(name) > 1 and name[1] == ":",
        "the path holds a backslash": "\\" in name,
        "the path leaves the archive": any(part in {"", ".", ".."} for part in parts),
        "the name holds control characters": any(ord(letter) < 32 or ord(letter) == 127 for letter in name),
    }
    return next((problem for problem, is_so in problems.items() if is_so), "")


def _content_problem(member: zipfile.ZipInfo, limits: ArchiveLimits) -> str:
    kind = stat.S_IFMT(member.external_attr >> 16)
    ratio = member.file_size / max(1, member.compress_size)
    suffix = PurePosixPath(member.filename).suffix.lower()
    problems = {
        "it is encrypted": bool(member.flag_bits & 0x2041),
        "it is a link or a device, not a file": kind not in {0, stat.S_IFREG, stat.S_IFDIR},
        "it is an archive itself": suffix in _ARCHIVE_SUFFIXES,
        "it is compressed in a way that is not accepted (store or deflate are)": member.compress_type
        not in _METHODS,
        f"it has {member.file_size:,} bytes, allowed: {limits.member_bytes:,}": member.file_size
        > limits.member_bytes,
        f"it unpacks to {ratio:,.0f} times its size, allowed: {limits.ratio}": member.file_size
        > limits.ratio_from
        and ratio > limits.ratio,
    }
    return next((problem for problem, is_so in problems.items() if is_so), "")


def _refuse_overlaps(members: list[zipfile.ZipInfo], directory_start: int) -> None:
    """Entries that share bytes unpack to far more than the archive has."""
    ordered = sorted(members, key=lambda member: member.header_offset)
    ends = [*(member.header_offset for member in ordered), directory_start][1:]
    for member, end in zip(ordered, ends, strict=True):
        least = member.header_offset + _LOCAL_HEADER_BYTES + member.compress_size
        if least > end:
            raise _refused("it overlaps another entry", member)


def _refused(reason: str, member: zipfile.ZipInfo | None = None) -> InvalidInput:
    name = f"the entry {member.filename[:120]!r}: " if member else ""
    return InvalidInput(f"The archive was refused: {name}{reason}.", fields={"file": f"{name}{reason}"})
