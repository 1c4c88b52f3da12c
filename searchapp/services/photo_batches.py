"""A batch of photos as people send them: several files and a zip, cleaned before any row is written.

What is wrong with which photo is told all at once. Files are written ahead of the rows' transaction; when that comes to
nothing, they go again.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from searchapp.exceptions import BadImage, InvalidInput, SearchAppError
from searchapp.services import intake
from searchapp.services.archives import ArchiveLimits, archive_unpack
from searchapp.services.media import media_remove_unused, no_space_as_error

MOST_PHOTOS = 200  # as many files as one upload may hold; each is decoded while somebody waits
NAMED_PROBLEMS = 20
PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic",
     ".heif", ".avif"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NamedPhoto:
    """An upload as it came; the name is only for telling people which one is meant."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoBatch:
    """photos: read once, one by one. archive: a zip with more; its folders mean nothing. leave_out_unusable: go on with
    the good ones.
    """

    photos: Iterable[NamedPhoto] = ()
    archive: Path | None = None
    leave_out_unusable: bool = False


def batch_cleaned(batch: PhotoBatch) -> tuple[list[intake.CleanImage], dict[str, str]]:
    """Each different photo once, and what is wrong by field (photos, archive), one line a photo."""
    ready: dict[str, intake.CleanImage] = {}
    problems: dict[str, str] = {}
    sources: tuple[tuple[str, Iterable[NamedPhoto]], ...] = (
        ("photos", batch.photos),
        ("archive", _archived(batch.archive)),
    )
    for field, source in sources:
        try:
            wrong = _clean_each(source, ready)
        except SearchAppError as error:
            problems[field] = "; ".join(error.fields.values()) or error.message
            continue
        if wrong and not (batch.leave_out_unusable and ready):
            problems[field] = _listed(wrong)
    if len(ready) > MOST_PHOTOS:
        problems["photos"] = f"more than {MOST_PHOTOS} at once; add the rest later, or import the catalogue"
    return list(ready.values()), problems


@contextmanager
def files_written(ready: Sequence[intake.CleanImage]) -> Iterator[None]:
    """The files of all photos; when what follows comes to nothing, those that no row uses go again."""
    try:
        for clean in ready:
            intake.image_write(clean)
        yield
    except BaseException:
        media_remove_unused([(clean.stored.image_sha256, clean.stored.files) for clean in ready])
        raise


def _clean_each(source: Iterable[NamedPhoto], ready: dict[str, intake.CleanImage]) -> list[str]:
    """Add the good ones to `ready`; returns what is wrong with the others."""
    wrong: list[str] = []
    for photo in source:
        if len(ready) > MOST_PHOTOS:
            break
        try:
            clean = intake.image_clean(photo.data)
        except BadImage as error:
            wrong.append(f"{Path(photo.name).name[:80]}: {error.message}")
        else:
            ready.setdefault(clean.stored.upload_sha256, clean)
    return wrong


def _archived(archive: Path | None) -> Iterator[NamedPhoto]:
    """Every photo in a zip, by name; other files and folders mean nothing."""
    if archive is None:
        return
    parent = Path(settings.IMPORT_DIR)
    with no_space_as_error():
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            unpacked = Path(folder) / "photos"
            archive_unpack(archive, unpacked, ArchiveLimits(member_bytes=4 * settings.IMAGE_MAX_BYTES))
            files = [path for path in sorted(unpacked.rglob("*")) if path.suffix.lower() in PHOTO_SUFFIXES]
            if not files:
                raise InvalidInput("There is no photo in the zip.", fields={"archive": "no photo is in it"})
            for path in files:
                yield NamedPhoto(path.name, path.read_bytes())


def _listed(wrong: Sequence[str]) -> str:
    more = len(wrong) - NAMED_PROBLEMS
    return "\n".join([*wrong[:NAMED_PROBLEMS], *([f"and {more} more"] if more > 0 else [])])
