"""Before a promotion a candidate catches up with categories that the version in use learned after it was trained.

They are learned as an increment on top of the candidate: 2.0 becomes 2.1 with the same trunk and embedding head. Its
entries stand for their photos in the candidate's gallery alone: where the version in use serves, entries of a newer M
come last, and every such photo has one that comes before.
"""

import shutil
from pathlib import Path

from django.conf import settings

from searchapp.models import Category, Deployment, ModelVersion
from searchapp.services import versions
from searchapp.services.jobs import JobRun
from searchapp.services.learning import has_photos, waiting_categories
from searchapp.services.learning_increment import Increment
from searchapp.services.learning_material import learnable
from searchapp.services.learning_plan import UNITS, Notes, Plan

PART = "catch_up"  # of the promotion's checkpoint
BAR = 4 * UNITS  # the promotion goes on where this ends


def caught_up(run: JobRun, version: ModelVersion, live: Deployment) -> ModelVersion:
    """The version to promote for `version`: itself, unless `live` has learned categories since; else an increment on
    it that knows them, made here if there is none yet.

    Asked again after a kill, it goes on: what was published is found by its row. Raises Conflict when a gate of the
    increment fails, and MovedMeanwhile when `live` serves no longer in the end; then nothing was changed.
    """
    base = _nearest(version, live.version)
    categories = learnable(missing_categories(base, live.version))
    folder = Path(settings.TRAINING_DIR) / str(run.job.pk)
    if categories:
        notes = Notes(run, part=PART, bar=BAR)
        versions.bundle_drop(notes.kept.get("bundle", ""))  # of an attempt killed before it was published
        result = Increment(Plan(base, live, tuple(categories)), notes, folder).run()
        base = versions.version_named(result["version"])
    shutil.rmtree(folder, ignore_errors=True)
    return base


def missing_categories(version: ModelVersion, champion: ModelVersion) -> list[Category]:
    """Categories with photos that `champion` has learned and `version` has not; those that were known from the start
    need no learning. One without photos waits for them in any version.
    """
    learned = frozenset(champion.label_registry)
    waiting = waiting_categories(version).filter(has_photos())
    return [category for category in waiting if category.slug in learned]


def _nearest(version: ModelVersion, champion: ModelVersion) -> ModelVersion:
    """Of `version` and the increments on it, the first that lacks the fewest of the champion's categories."""
    family = {version.pk: version}
    for row in ModelVersion.objects.filter(lineage=version.lineage, major=version.major).order_by("minor"):
        if row.parent_id in family:
            family[row.pk] = row
    return min(family.values(), key=lambda one: (len(missing_categories(one, champion)), one.minor))
