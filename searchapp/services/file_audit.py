"""Do the picture files equal their names and the rows? One pass over MEDIA_ROOT, hashing everything."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

from searchapp.models import EvaluationQuery, ItemImage, stored_path, thumbnail_path

# Set by a repair on a photo whose file is gone for good: staff sees it and uploads the photo again.
FILE_LOST = "The stored file was lost or damaged; upload the photo again."


@dataclass(slots=True)
class FileFindings:
    """Paths relative to MEDIA_ROOT."""

    missing: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    bad_sha: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.missing or self.orphans or self.bad_sha)


def files_check() -> FileFindings:
    """Every row's picture and thumbnail must be there, every picture have the SHA-256 it is named by, nothing else lie
    beside them. A photo already marked FILE_LOST is not asked for again."""
    findings = FileFindings()
    root = Path(settings.MEDIA_ROOT)
    pictures = dict(_referenced())
    wanted = {thumbnail_path(sha256): "" for sha256 in pictures.values()} | pictures
    present = {str(path.relative_to(root)): path for path in _files(root)}
    for name, sha256 in wanted.items():
        path = present.get(name)
        if path is None or (not sha256 and path.stat().st_size == 0):
            findings.missing.append(name)
        elif sha256 and _sha256(path) != sha256:
            findings.bad_sha.append(name)
    lost = set(ItemImage.objects.filter(failure=FILE_LOST).values_list("image_sha256", flat=True))
    findings.orphans = [name for name in present if name not in wanted and Path(name).stem not in lost]
    for found in (findings.missing, findings.orphans, findings.bad_sha):
        found.sort()
    return findings


def _referenced() -> Iterator[tuple[str, str]]:
    photos = ItemImage.objects.exclude(failure=FILE_LOST).values_list("image_sha256", "extension")
    held_out = EvaluationQuery.objects.values_list("image_sha256", "extension")
    for rows in (photos, held_out):
        for sha256, extension in rows.iterator(chunk_size=5000):
            yield stored_path(sha256, extension), sha256


def _files(root: Path) -> Iterator[Path]:
    """Finished files; a dot name is a writer's temporary one, and the sweeper's business."""
    for folder in ("images", "thumbs"):
        for path in (root / folder).rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                yield path


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
