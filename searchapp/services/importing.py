"""Importing a catalogue: as a job in chunks that survive a kill, or as a dry run that writes nothing.

Counts are by item: created, updated (a field, a tag or a photo came), unchanged, failed (nothing of it
could be used). An item comes in with its first usable photo; what is wrong with the others stands in the
errors, by row.
"""

import itertools
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError

from searchapp.exceptions import Conflict, InvalidInput, Unavailable
from searchapp.failpoints import failpoint
from searchapp.models import GalleryEntry, Job, ModelVersion
from searchapp.services import versions
from searchapp.services.encoding import encode_job_ensure
from searchapp.services.holding_out import held_out_expected, hold_out
from searchapp.services.import_chunks import ChunkPlan, ImportContext, Unit, units_of
from searchapp.services.import_duplicates import chunk_compare
from searchapp.services.import_planning import chunk_plan
from searchapp.services.import_report import ImportReport
from searchapp.services.import_sources.detection import ImportOptions, source_opened
from searchapp.services.import_uploads import (
    import_leftovers_remove,
    import_source_path,
    import_upload_remove,
    import_upload_store,
)
from searchapp.services.import_writing import RowVanished, Save, chunk_write
from searchapp.services.jobs import JobRun, job_create
from searchapp.services.media import media_remove_unused

__all__ = [
    "ImportOptions",
    "import_leftovers_remove",
    "import_preview",
    "import_run",
    "import_start",
    "import_start_after_trial",
    "import_upload_store",
]

KIND = "import_catalogue"
CHUNK = 64
REPLANS = 5
Progress = Callable[[int, int, str], None]


def import_start(
    *,
    source: str,
    options: ImportOptions | None = None,
    user: AbstractBaseUser | None = None,
    idempotency_key: str = "",
) -> Job:
    """A job that imports `source`: what `import_upload_store` returned, or a path on this machine (commands
    only).

    The same idempotency key gives the job that is there already; the second upload is thrown away.
    """
    options = options or ImportOptions()
    path = import_source_path(source)
    if not path.exists():
        raise InvalidInput(f"There is nothing at {path}.", fields={"path": "nothing is there"})
    source = source if source.startswith("upload:") else str(path.resolve())
    job = job_create(
        kind=KIND,
        payload={"source": source, "options": asdict(options)},
        user=user,
        subject=f"Import of {path.name}",
        idempotency_key=idempotency_key,
    )
    if job.payload["source"] != source:
        import_upload_remove(source)
    return job


def import_start_after_trial(*, trial: Job, user: AbstractBaseUser | None = None) -> Job:
    """The import of what a trial run looked at; asked for twice, it is one. Raises Conflict for other jobs."""
    options = ImportOptions.from_payload(trial.payload.get("options", {}))
    if trial.kind != KIND or not options.dry_run:
        raise Conflict(
            "This job is not a trial run, so there is nothing to confirm; only an import that was started "
            "as a trial run can be confirmed."
        )
    return import_start(
        source=trial.payload["source"],
        options=replace(options, dry_run=False),
        user=user,
        idempotency_key=f"trial:{trial.pk}",
    )


def import_run(run: JobRun) -> dict[str, Any]:
    """Handler of "import_catalogue". A retry goes on behind the last chunk that was committed."""
    source, options = run.payload["source"], ImportOptions.from_payload(run.payload["options"])
    report = ImportReport.from_checkpoint(run.checkpoint)
    workspace = _workspace(run)
    try:
        with source_opened(import_source_path(source), options=options, workspace=workspace) as opened:
            context = ImportContext(
                opened, is_dry=options.dry_run, waits=_waits(run, options), job_id=run.job.pk
            )
            result = _import(context, options, report, progress=run.progress, save=run.save)
    except InvalidInput:
        if run.held().exists():  # an attempt that lost its claim finds its files gone; the new one needs them
            import_upload_remove(source)  # trying again would end the same way
        raise
    if not options.dry_run:  # after a trial run the same upload is imported in earnest
        import_upload_remove(source)
    return result


def _workspace(run: JobRun) -> Path:
    """A folder of this claim's own: an earlier attempt that still runs must not clear away what this one reads."""
    folder = Path(settings.IMPORT_DIR)
    for left in folder.glob(f"{run.job.pk}.*"):
        if int(left.suffix[1:]) < run.job.fence:
            shutil.rmtree(left, ignore_errors=True)
    return folder / f"{run.job.pk}.{run.job.fence}"


def import_preview(*, path: Path, options: ImportOptions, progress: Progress) -> dict[str, Any]:
    """What an import would do: the same checks and the same report, and nothing written."""
    workspace = Path(settings.IMPORT_DIR) / f"preview-{uuid.uuid4().hex}"
    with source_opened(path, options=options, workspace=workspace) as opened:
        context = ImportContext(opened, is_dry=options.dry_run)
        return _import(context, options, ImportReport(), progress=progress, save=_keep_nothing)


def _waits(run: JobRun, options: ImportOptions) -> bool:
    """Whether new categories wait to be learned: when the gallery was in use before this import began."""
    earlier = GalleryEntry.objects.filter(created_at__lt=run.job.created_at)
    return not options.is_stock and earlier.exists()


def _keep_nothing(checkpoint: dict[str, Any]) -> None:
    """A dry run has no job to keep its checkpoint in."""
    raise RuntimeError(f"a dry run was about to write {checkpoint}")


def _import(
    context: ImportContext, options: ImportOptions, report: ImportReport, *, progress: Progress, save: Save
) -> dict[str, Any]:
    started, start, source = time.monotonic(), report.position, context.source
    total = max(source.photo_count(), report.position)
    paths: set[str] = set()

    def heard(done: int) -> None:
        rate = (done - start) / max(time.monotonic() - started, 0.001)
        progress(done, max(total, done), f"{rate:,.0f} photos/s")

    for chunk in _chunks(units_of(source), report.position, paths):
        report = _import_chunk(context, report, chunk, heard, save)
        heard(report.position)
        failpoint("import.after_chunk_commit")
    if not source.has_splits:
        report.evaluation_queries = (
            held_out_expected(context.photos_of) if options.dry_run else hold_out(paths)
        )
    seconds = round(time.monotonic() - started, 3)
    return {**report.as_result(), "dry_run": options.dry_run, "notes": list(source.notes), "seconds": seconds}


def _chunks(units: Iterator[Unit], position: int, paths: set[str]) -> Iterator[list[Unit]]:
    """Units behind `position`, in chunks; the category of every record goes to `paths`, also of those
    passed over."""

    def noted() -> Iterator[Unit]:
        for unit in units:
            if unit.record:
                paths.add(unit.record.category)
            yield unit

    left = itertools.islice(noted(), position, None)
    while chunk := list(itertools.islice(left, CHUNK)):
        yield chunk


def _import_chunk(
    context: ImportContext, report: ImportReport, units: list[Unit], heard: Callable[[int], None], save: Save
) -> ImportReport:
    """Plan and write; plan again when somebody else changed the same rows meanwhile."""
    for _ in range(REPLANS):
        plan = ChunkPlan(report.copy())
        context.version = _version_in_use(context)
        context.encoder = versions.photo_encoder_of(context.version) if context.version else None
        try:
            chunk_plan(context, plan, units, heard)
            compared = chunk_compare(context, plan)
            if not context.is_dry:
                chunk_write(context, plan, save)
        except (IntegrityError, RowVanished):
            context.categories.clear()
            continue
        except BaseException:  # also a cancel or a shutdown: their chunk comes to nothing
            context.categories.clear()
            media_remove_unused([(stored.image_sha256, stored.files) for stored in plan.stored])
            raise
        context.duplicates.met(compared, context.version)
        if not context.is_dry and versions.champion().version != context.version:
            encode_job_ensure()  # another version was put in use meanwhile and cannot find these photos
        return plan.report
    raise Conflict("Other changes to the same items kept getting in the way; try the import again.")


def _version_in_use(context: ImportContext) -> ModelVersion | None:
    """What encodes a chunk's photos. A dry run writes nothing, not even the row of the first version."""
    if not context.is_dry:
        return versions.default_version_ensure()
    try:
        return versions.champion().version
    except Unavailable:
        return context.version or versions.shipped_version()
