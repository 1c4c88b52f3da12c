"""Puts right what the audit found: rows are the truth, so the index follows them and lost files are owned up to."""

import shutil
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import F

from searchapp.models import EvaluationQuery, GalleryCounter, ItemImage
from searchapp.services import audit, encoding, intake, snapshots, versions
from searchapp.services.file_audit import FILE_LOST, FileFindings
from searchapp.services.index_audit import AuditReport
from searchapp.services.jobs import job_run_here
from searchapp.services.media import media_path, media_read, media_remove_unused, media_write


def repair(report: AuditReport, *, user: AbstractBaseUser | None = None) -> None:
    """Files first, then entries, then the index over them. What cannot be brought back (a lost picture) is marked on
    its photo for staff to see, and every repair is in the audit log."""
    _files_repair(report.files)
    if report.index.unencoded:
        with transaction.atomic():
            job = encoding.encode_job_ensure(user)
        job_run_here(job)
    if not report.index.is_index_clean:
        _index_rebuild()
    found: dict[str, Any] = report.as_dict()
    audit.event_record(action="index_audit.repair", actor=user, subject="gallery", before=found)


def _files_repair(files: FileFindings) -> None:
    for name in files.bad_sha:
        media_path(name).unlink(missing_ok=True)
    lost = {Path(name).stem for name in (*files.bad_sha, *files.missing) if name.startswith("images/")}
    ItemImage.objects.filter(image_sha256__in=lost).update(failure=FILE_LOST)
    EvaluationQuery.objects.filter(image_sha256__in=lost).delete()
    for name in files.missing:
        if name.startswith("thumbs/") and Path(name).stem not in lost:
            _thumbnail_restore(name)
    orphans = [(Path(name).stem, (name,)) for name in files.orphans]
    media_remove_unused(orphans)


def _thumbnail_restore(name: str) -> None:
    media_path(name).unlink(missing_ok=True)  # an empty one
    sha256 = Path(name).stem
    row = (
        ItemImage.objects.filter(image_sha256=sha256).first()
        or EvaluationQuery.objects.filter(image_sha256=sha256).first()
    )
    if row is not None:
        picture = media_read(f"images/{sha256[:2]}/{sha256}.{row.extension}")
        media_write(name, intake.image_clean(picture).thumbnail)


def _index_rebuild() -> None:
    """Snapshots go, the counter takes a step without a change, and one new snapshot is written from rows.

    The step is what makes every running process build from rows as well: a number without its change reads as a gap.
    """
    version = versions.champion().version
    for directory in Path(settings.SNAPSHOT_DIR).glob(f"{version.digest[:16]}-*"):
        shutil.rmtree(directory, ignore_errors=True)
    GalleryCounter.objects.filter(pk=1).update(value=F("value") + 1)
    snapshots.snapshot_write(version)
