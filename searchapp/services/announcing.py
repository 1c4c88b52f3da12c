"""A move that is about to happen, told to every process: a large gallery is loaded before the pointer moves, not after.

The job that moves the pointer writes it into its checkpoint; followers (services.serving) read it and load what will
serve beside what serves. Who is not ready in time goes on with the old answers until it is.
"""

import time

from django.conf import settings

from searchapp.models import Job, JobState, ModelVersion
from searchapp.services.jobs import JobRun

KINDS = ("promote", "rollback")
# What is loaded sooner than this is loaded soon enough after the move; the job waits a few times its own loading.
LONG_SECONDS, PATIENCE, MOST_SECONDS = 0.5, 2.0, 60.0
_KEY = "announced"


def announce(run: JobRun, version: ModelVersion, corrector_digest: str, *, load_seconds: float) -> None:
    """Tell of a view that took this long to load here, and wait until the others had the time; a short one is not
    worth it."""
    if load_seconds < LONG_SECONDS:
        return
    run.save({**run.checkpoint, _KEY: [version.pk, corrector_digest]})
    ends = time.monotonic() + min(MOST_SECONDS, PATIENCE * load_seconds) + settings.GALLERY_FOLLOW_SECONDS
    while time.monotonic() < ends:
        run.progress(4, 5, f"every process loads {version.name}")
        time.sleep(min(0.25, max(0.0, ends - time.monotonic())))


def announced() -> tuple[ModelVersion, str] | None:
    """Version and corrector of the move that is about to happen, if one was told of."""
    running = Job.objects.filter(kind__in=KINDS, state=JobState.RUNNING, checkpoint__has_key=_KEY)
    told = running.order_by("pk").values_list("checkpoint", flat=True).first()
    if told is None or "moved" in told:
        return None
    version_id, corrector_digest = told[_KEY]
    version = ModelVersion.objects.filter(pk=version_id).first()
    return None if version is None else (version, corrector_digest)
