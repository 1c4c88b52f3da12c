"""Whether small updates still do: new photos, moved labels and crowded codes, measured in the background and kept.

The measuring is services.drift_measuring; the result of the newest finished job is what the operator's page reads:

    {"version": "1.1", "lineage": "…", "gallery": 812, "seconds": 2.1,
     "shift": {"statistic": 0.04, "high": 0.09, "has_fired": false, "photos": 212, "items": 180, "held_out": 500},
     "shift_untold": "",                            # why nobody can tell; then "shift" is null
     "labels": {"entries": 4752, "moved": 12, "lost": 0.0004}, "space": {"smallest": 0.41, "mean": 1.02,
     "nearest": 20, "categories": 81},              # null where nothing is counted
     "limits": {…}, "remedy": "none" | "partial" | "full", "due": ["shift"], "reasons": ["…"],
     "usual": [{"photo": 5031, "at": "2026-03-01T10:00:00+00:00", "categories": [1, 2]}, …]}

`usual` says until when photos of a category count as those it is known by: to the look that first saw it known. Later
ones are new. A version of another lineage has another trunk, so there the looks begin anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from searchapp.exceptions import Conflict
from searchapp.models import FINISHED_STATES, Deployment, GalleryEntry, Job, JobState, ModelVersion
from searchapp.services import importing
from searchapp.services.database_clock import DatabaseNow
from searchapp.services.encoding import KIND as ENCODING
from searchapp.services.gallery_views import counter_value
from searchapp.services.jobs import job_create

KIND = "watch_drift"
PAUSE_SECONDS = 600.0  # between two looks that nobody asked for


@dataclass(frozen=True, slots=True)
class Look:
    """What the newest finished look at the version in use found; without one, `result` is empty."""

    at: datetime | None
    result: Mapping[str, Any]
    is_under_way: bool
    error: str  # why the newest look failed, if it did

    @property
    def remedy(self) -> str:
        return str(self.result.get("remedy", "none"))


def watch_start(user: AbstractBaseUser | None = None) -> Job:
    """A job that looks now; one that still waits is given again. Raises Conflict while there is nothing to look at."""
    if not GalleryEntry.objects.exists():
        raise Conflict("There is nothing to look at yet: no photo of the catalogue is encoded.")
    return job_create(
        kind=KIND, payload={}, user=user, subject="Look for shifted photos and moved labels", coalesce=True
    )


@transaction.atomic
def watch_if_due() -> Job | None:
    """Look again when the gallery has changed since the last look, nothing is being added, and that was a while ago."""
    looks = Job.objects.filter(kind=KIND)
    adding = Job.objects.filter(kind__in=(importing.KIND, ENCODING)).exclude(state__in=FINISHED_STATES)
    is_early = looks.filter(created_at__gt=DatabaseNow(-PAUSE_SECONDS)).exists()
    if is_early or adding.exists() or looks.exclude(state__in=FINISHED_STATES).exists():
        return None
    live = Deployment.objects.filter(arm=Deployment.Arm.CHAMPION, ended_at__isnull=True)
    version = ModelVersion.objects.filter(pk__in=live.values("version")).first()
    if version is None or not GalleryEntry.objects.exists():
        return None
    if result_of(version).get("gallery") == counter_value():
        return None
    return watch_start()


def look_at(version: ModelVersion) -> Look:
    """For the operator's page: the newest look there is, and whether another one is under way."""
    newest = Job.objects.filter(kind=KIND).order_by("-created_at").first()
    done = _done(version)
    has_failed = newest is not None and newest.state == JobState.FAILED
    return Look(
        at=done.finished_at if done else None,
        result=(done.result if done else None) or {},
        is_under_way=newest is not None and not newest.is_finished,
        error=newest.error if newest is not None and has_failed else "",
    )


def result_of(version: ModelVersion) -> Mapping[str, Any]:
    """Of the newest finished look at a version of the same lineage."""
    done = _done(version)
    return (done.result if done else None) or {}


def _done(version: ModelVersion) -> Job | None:
    rows = Job.objects.filter(kind=KIND, state=JobState.DONE, result__lineage=str(version.lineage))
    return rows.order_by("-finished_at").first()
