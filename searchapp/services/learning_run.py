"""The job that learns new categories: which, on what serves, again where that changes meanwhile.

The work itself is services.learning_increment.
"""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from searchapp.exceptions import Conflict
from searchapp.models import Category, ModelVersion
from searchapp.services import versions
from searchapp.services.jobs import JobRun
from searchapp.services.learning import MovedMeanwhile, has_photos, waiting_categories
from searchapp.services.learning_increment import Increment
from searchapp.services.learning_material import learnable
from searchapp.services.learning_plan import UNITS, Notes, Plan

ATTEMPTS = 3  # a version put in use while this one is learned makes it begin anew

logger = logging.getLogger(__name__)


def learning_run(run: JobRun) -> dict[str, Any]:
    """Handler of "learn_categories". Its result has the contract's shape (services.learning)."""
    folder = Path(settings.TRAINING_DIR) / str(run.job.pk)
    result = run.checkpoint.get("published") or _learned(run, folder)
    shutil.rmtree(folder, ignore_errors=True)
    return dict(result)


def _learned(run: JobRun, folder: Path) -> dict[str, Any]:
    for _ in range(ATTEMPTS):
        versions.bundle_drop(run.checkpoint.get("bundle", ""))  # of an attempt killed before it was published
        try:
            return _attempt(run, folder)
        except MovedMeanwhile as moved:
            logger.warning("job %s begins anew: %s", run.job.pk, moved)
    raise Conflict("Version or catalogue kept changing while the new categories were learned; try again.")


def _attempt(run: JobRun, folder: Path) -> dict[str, Any]:
    notes = Notes(run)
    _await_more(notes)
    versions.default_version_ensure()
    live = versions.champion()
    categories = _categories(run, live.version)
    if not categories:  # another job was first: two clicks, or a category that came while that one waited
        run.progress(UNITS, UNITS, "nothing was left to learn")
        return {"categories": []}
    result = Increment(Plan(live.version, live, tuple(categories)), notes, folder).run()
    run.progress(UNITS, UNITS, f"version {result['version']} is in use")
    return result


def _await_more(notes: Notes) -> None:
    """Categories that are added within a short window are learned together."""
    notes.save()
    if notes.run.payload.get("categories"):
        return
    began = time.monotonic()
    while time.monotonic() - began < settings.LEARN_WINDOW_SECONDS * 3:
        newest = waiting_categories(versions.default_version_ensure()).last()
        asked = newest.learn_asked_at if newest is not None else None
        if asked is None or (timezone.now() - asked).total_seconds() >= settings.LEARN_WINDOW_SECONDS:
            return
        notes.progress("waiting", 0, 1, "waiting a moment for more categories")
        time.sleep(0.25)


def _categories(run: JobRun, version: ModelVersion) -> list[Category]:
    """Those to learn; none when nothing waits any more."""
    waiting = waiting_categories(version).filter(has_photos())
    if wanted := run.payload.get("categories"):
        waiting = waiting.filter(slug__in=wanted)
    categories = list(waiting)
    learned = learnable(categories)
    if categories and not learned:
        raise Conflict(
            "There is nothing to learn: no category that waits has a photo that may be trained on. One photo in "
            "eight, by its content, is kept aside as a question for when there are more. Add photos."
        )
    return learned
