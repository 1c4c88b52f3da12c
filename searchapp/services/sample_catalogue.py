"""The sample catalogue of the demo: four packs of real photos, or, where they are not at hand, drawn ones.

Each pack is one import job under a key made of its content, so a second start loads nothing and a stopped
one goes on.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings

from ml.data.packs import is_pack, open_pack
from searchapp.exceptions import SearchAppError, Unavailable
from searchapp.models import Job, JobState
from searchapp.services.drawn_catalogue import drawn_catalogue_write
from searchapp.services.importing import ImportOptions, import_start
from searchapp.services.jobs import job_retry, job_run_here

PACKS = ("grocery", "clothing", "catalog", "places_indoor")
DRAWN = "drawn"
DRAWN_WARNING = (
    "No sample photos were found in {folder}: a small catalogue of DRAWN pictures is loaded instead. It "
    "shows how Perennial works, not how well. docs/sample-data.md says where real photos come from; "
    "set SAMPLE_DATA to their folder."
)
Progress = Callable[[int, int, str], None]

logger = logging.getLogger(__name__)


def sample_load(progress: Progress) -> dict[str, Any]:
    """Load what is not loaded yet. Returns {source, message, packs: {name: report}}; loaded packs report
    nothing new.

    `source` is "packs" or "drawn"; in the latter case `message` says so loudly and is logged too.
    """
    found = [settings.SAMPLE_DATA / name for name in PACKS if is_pack(settings.SAMPLE_DATA / name)]
    if found:
        reports = {folder.name: _load_pack(folder, progress) for folder in found}
        return {"source": "packs", "message": _missing(reports), "packs": reports}
    message = DRAWN_WARNING.format(folder=settings.SAMPLE_DATA)
    logger.warning(message)
    progress(0, 0, message)
    return {"source": DRAWN, "message": message, "packs": {DRAWN: _load_drawn(progress)}}


def _missing(reports: dict[str, Any]) -> str:
    absent = [name for name in PACKS if name not in reports]
    return f"Not found in {settings.SAMPLE_DATA}: {', '.join(absent)}" if absent else ""


def _load_pack(folder: Path, progress: Progress) -> dict[str, Any]:
    key = f"sample:{folder.name}:{open_pack(folder).fingerprint()}"
    job = import_start(source=str(folder), options=ImportOptions(is_stock=True), idempotency_key=key)
    return _finished(job, folder.name, progress)


def _load_drawn(progress: Progress) -> dict[str, Any]:
    """Drawn at most once, and always in the same place: a killed import finds its pictures again."""
    key = "sample:drawn:1"
    done = Job.objects.filter(idempotency_key=key, state=JobState.DONE).first()
    if done is not None:
        return dict(done.result or {})
    folder = Path(settings.IMPORT_DIR) / DRAWN
    shutil.rmtree(folder, ignore_errors=True)
    drawn_catalogue_write(folder)
    report = _finished(import_start(source=str(folder), idempotency_key=key), DRAWN, progress)
    shutil.rmtree(folder, ignore_errors=True)
    return report


def _finished(job: Job, name: str, progress: Progress) -> dict[str, Any]:
    """The report of a job, run to its end here unless it has ended already. Raises Unavailable when it
    failed."""
    while (later := job.retries.order_by("created_at").last()) is not None:
        job = later
    if job.state in {JobState.FAILED, JobState.CANCELLED}:
        job = job_retry(job)
    if not job.is_finished:
        job = job_run_here(job, lambda done, total, message: progress(done, total, f"{name}: {message}"))
    if job.state != JobState.DONE:
        raise _not_loaded(name, job)
    return dict(job.result or {})


def _not_loaded(name: str, job: Job) -> SearchAppError:
    return Unavailable(f"The sample pack {name} was not loaded: {job.state} {job.error}")
