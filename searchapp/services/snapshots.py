"""Snapshots of views on disk: a worker writes them from rows, whoever starts loads the newest good one.

A snapshot is only a cache. One that is damaged, or belongs to another database or another past of this one, is set
aside and the view is built from rows instead.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

from django.conf import settings

from ml.retrieval.faiss_index import FaissIndex
from ml.retrieval.snapshot import SnapshotDamaged, open_snapshot, read_manifest, write_snapshot
from ml.retrieval.view import GalleryView
from searchapp.models import GalleryChange, GalleryEntry, ModelVersion
from searchapp.services import versions
from searchapp.services.gallery_views import counter_value, engine_for, view_rebuilt
from searchapp.services.jobs import JobRun, job_create

KIND = "write_snapshot"
KEPT = 3
# Reading rows is quick below this many entries; above it a snapshot is due when this share of them changed.
WORTHWHILE_FROM = 1000
CHANGED_SHARE = 0.1
# Entries compared with their rows before a snapshot is believed: the newest differ when the past differs.
SPOT_CHECKS = 64

logger = logging.getLogger(__name__)


def identity_of(version: ModelVersion, corrector_digest: str = "") -> str:
    """Names a view of one installation: the lineage's UUID is random, so another database never has the same."""
    return f"{version.lineage}:{version.digest}:{corrector_digest}"


def snapshots_of(version: ModelVersion) -> list[Path]:
    """Directories of this view's snapshots, newest first; what they hold is not looked at."""
    return sorted(_folder().glob(f"{version.digest[:16]}-*"), key=_sequence, reverse=True)


def view_loaded(version: ModelVersion) -> tuple[GalleryView, int] | None:
    """The newest good snapshot and the number of the last change it holds; None when there is none."""
    for directory in snapshots_of(version):
        try:
            return _opened(directory, version)
        except SnapshotDamaged as error:
            logger.error("not served: %s", error)  # noqa: TRY400  the reason is the message
            _set_aside(directory)
    return None


def _opened(directory: Path, version: ModelVersion) -> tuple[GalleryView, int]:
    manifest = read_manifest(directory)
    if manifest.identity != identity_of(version) or manifest.sequence > counter_value():
        raise SnapshotDamaged(directory, "manifest.json", "belongs to another gallery")
    view = open_snapshot(directory, engine=engine_for(version))
    if not _agrees_with_rows(view):
        raise SnapshotDamaged(directory, "entries.codes.npy", "does not agree with the rows")
    return view, manifest.sequence


def snapshot_job_ensure_if_due(version: ModelVersion, *, entries: int) -> None:
    """Have a worker write a snapshot when what changed since the last one has become long to replay."""
    if entries < WORTHWHILE_FROM:
        return
    newest = next(iter(snapshots_of(version)), None)
    if newest is not None:
        limit = max(WORTHWHILE_FROM, int(CHANGED_SHARE * entries))
        changes = GalleryChange.objects.filter(sequence__gt=_sequence(newest)).values_list("pk", flat=True)
        if len(changes[: limit + 1]) <= limit:
            return
    job_create(kind=KIND, payload={}, subject="Write a snapshot of the gallery", coalesce=True)


def snapshot_run(run: JobRun) -> dict[str, Any]:
    """Handler of "write_snapshot": the champion's view from rows, then what nobody needs any more is removed."""
    version = versions.champion().version
    run.progress(0, 1, f"view of version {version.name}")
    return {"snapshot": snapshot_write(version).name}


def snapshot_write(version: ModelVersion) -> Path:
    """Write the view of `version` as its rows are now; prune older snapshots and changes no snapshot needs.

    Running it twice on an unchanged gallery gives the same directory.
    """
    view, sequence = view_rebuilt(version, engine=FaissIndex.build)
    directory = _folder() / f"{version.digest[:16]}-{sequence:015d}"
    if not directory.exists():
        write_snapshot(view, directory, identity=identity_of(version), sequence=sequence)
        logger.info("snapshot %s: %d entries", directory.name, len(view))
    _prune(version)
    return directory


def _prune(version: ModelVersion) -> None:
    """Followers that lag behind the oldest kept snapshot rebuild from rows; nobody else needs its past."""
    found = snapshots_of(version)
    for directory in found[KEPT:]:
        shutil.rmtree(directory, ignore_errors=True)
    if len(found) >= KEPT:
        GalleryChange.objects.filter(sequence__lte=_sequence(found[KEPT - 1])).delete()


def _agrees_with_rows(view: GalleryView) -> bool:
    """A few entries that still have their row have the same code there."""
    code_of: dict[int, bytes] = {}
    for pool in view.pools.values():
        newest = pool.rows.base.taken(slice(-SPOT_CHECKS, None))
        code_of |= {pk: code.tobytes() for pk, code in zip(newest.entry_ids.tolist(), newest.codes)}
    rows = GalleryEntry.objects.filter(pk__in=code_of).values_list("pk", "code")
    return all(bytes(code) == code_of[pk] for pk, code in rows)


def _set_aside(directory: Path) -> None:
    """Under a dot name the sweeper takes it away; another process may have been quicker."""
    try:
        directory.rename(directory.with_name(f".damaged-{directory.name}"))
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)


def _sequence(directory: Path) -> int:
    _, _, number = directory.name.rpartition("-")
    return int(number) if number.isdecimal() else -1


def _folder() -> Path:
    folder: Path = settings.SNAPSHOT_DIR
    return folder
