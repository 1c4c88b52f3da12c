"""Does the version in use still answer as well as was promised when it was put in use? Measured again on schedule.

The promise is the cell of the matrix that a deployment began with (Deployment.measured). It is broken when the upper
bound of the same cell, measured now with the same queries, lies under the promised value. Then the operators are told,
once per deployment; and where the setting says so the version before serves again, if it is shown to answer the same
queries better now and if this deployment did not itself begin by going back: so never twice in a row. The result:

    {"version": "2.0", "deployment": 7, "measured": {"map": 0.71, "map_low": …, "map_high": …, "n": 400, …},
     "promised": {…} | null, "has_fallen": false, "same_queries": true, "words": "…",
     "went_back_to": "1.0" | null, "stayed_because": "" | "…", "seconds": 12.3}
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from searchapp.exceptions import Conflict
from searchapp.models import FINISHED_STATES, AuditEvent, Deployment, EvaluationQuery, Job, JobState
from searchapp.services import alerting, deploying, verdicts, versions
from searchapp.services.audit import event_record
from searchapp.services.database_clock import database_now
from searchapp.services.jobs import JobRun, job_create
from searchapp.services.operator_settings import setting_value
from searchapp.services.quality_change import change_now

KIND = "watch_quality"
HISTORY = 90  # measurements
STEPS = 2


@dataclass(frozen=True, slots=True)
class Look:
    """The newest measurement of the deployment in use; without one, `result` is empty."""

    at: datetime | None
    result: Mapping[str, Any]
    is_under_way: bool
    error: str  # why the newest one failed, if it did
    due_at: datetime | None  # of the next one; None when none is planned

    @property
    def has_fallen(self) -> bool:
        return bool(self.result.get("has_fallen"))


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement, for a curve."""

    at: datetime
    version: str
    value: float
    low: float
    high: float
    promised: float | None
    has_fallen: bool


def watch_start(user: AbstractBaseUser | None = None) -> Job:
    """A job that measures the version in use now; one that still waits is given again. Raises Conflict while there is
    nothing to ask."""
    if not EvaluationQuery.objects.exists():
        raise Conflict("There are no held-out photos to ask: nothing can be measured.")
    live = versions.champion()
    subject = f"Measure {live.version.name} again"
    return job_create(kind=KIND, payload={"deployment": live.pk}, user=user, subject=subject, coalesce=True)


@transaction.atomic
def watch_if_due() -> Job | None:
    """For the sweeper: measure again when the last time, or the beginning of the deployment, was long enough ago."""
    live = versions.champion_live()
    if live is None or Job.objects.filter(kind=KIND).exclude(state__in=FINISHED_STATES).exists():
        return None
    due = _due_at(live)
    if due is None or database_now() < due or not EvaluationQuery.objects.exists():
        return None
    return watch_start()


def watch_run(run: JobRun) -> dict[str, Any]:
    """Handler of "watch_quality". A retry goes on behind the measurement, and tells nobody twice."""
    result = run.checkpoint or _measured(run)
    if result["has_fallen"] and not result["stayed_because"]:
        result |= _gone_back(run, result)
    return result


def latest() -> Look:
    """For the pages."""
    live = versions.champion_live()
    jobs = Job.objects.filter(kind=KIND).order_by("-created_at")
    newest = jobs.first()
    done = None if live is None else jobs.filter(state=JobState.DONE, payload__deployment=live.pk).first()
    has_failed = newest is not None and newest.state == JobState.FAILED
    return Look(
        at=done.finished_at if done else None,
        result=(done.result if done else None) or {},
        is_under_way=newest is not None and not newest.is_finished,
        error=newest.error if newest is not None and has_failed else "",
        due_at=None if live is None else _due_at(live),
    )


def history() -> list[Point]:
    """The newest HISTORY measurements, oldest first."""
    jobs = Job.objects.filter(kind=KIND, state=JobState.DONE, result__measured__map__isnull=False)
    points = []
    for job in jobs.order_by("-finished_at")[:HISTORY]:
        result = job.result or {}
        measured, promised = result["measured"], result["promised"] or {}
        if job.finished_at is not None:
            points.append(
                Point(
                    job.finished_at,
                    result["version"],
                    measured["map"],
                    measured["map_low"],
                    measured["map_high"],
                    promised.get("map"),
                    result["has_fallen"],
                )
            )
    return points[::-1]


def promise_of(live: Deployment) -> dict[str, Any]:
    """The cell it was put in use with. An increment, which promises nothing, keeps the promise of its encoder."""
    at: Deployment | None = live
    while at is not None and at.version.major == live.version.major:
        if at.measured:
            return dict(at.measured)
        at = at.previous
    return {}


def _measured(run: JobRun) -> dict[str, Any]:
    started = time.monotonic()
    live = versions.champion()
    if live.pk != run.payload["deployment"]:
        raise Conflict(f"{live.version.name} was put in use meanwhile; that one is measured next.")
    run.progress(0, STEPS, f"measuring {live.version.name} on held-out photos")
    measured = verdicts.cell_measured(live.version, live.view.corrector_digest)
    promised = promise_of(live)
    same_queries = bool(promised) and promised.get("held_out") == measured["held_out"]
    has_fallen = same_queries and measured["n"] > 0 and measured["map_high"] < promised["map"]
    result = {
        "version": live.version.name,
        "deployment": live.pk,
        "measured": measured,
        "promised": promised or None,
        "has_fallen": has_fallen,
        "same_queries": same_queries,
        "went_back_to": None,
        "stayed_because": "" if has_fallen else "quality has not fallen",
        "seconds": round(time.monotonic() - started, 1),
    }
    result["words"] = _words(result)
    if has_fallen:
        result["stayed_because"] = _reason_to_stay(live)
    with transaction.atomic():
        run.save(result)
        if has_fallen and not _was_told(live):
            _tell(result)
    return result


def _words(result: Mapping[str, Any]) -> str:
    version, measured, promised = result["version"], result["measured"], result["promised"]
    if not measured["n"]:
        return f"{version} could not be measured: no held-out photo has a right answer in the gallery."
    now = f"{measured['map']:.3f} ({measured['map_low']:.3f} to {measured['map_high']:.3f})"
    if promised is None:
        return (
            f"{version} has a mean average precision of {now}; nothing was promised when it was put in use."
        )
    if not result["same_queries"]:
        return (
            f"{version} has a mean average precision of {now}. {promised['map']:.3f} was promised, but the held-out "
            "photos have changed since: the two cannot be compared."
        )
    if result["has_fallen"]:
        return (
            f"{version} has fallen: a mean average precision of {promised['map']:.3f} was promised, now it is "
            f"{now}."
        )
    return f"{version} holds what was promised: {promised['map']:.3f}, now {now}."


def _reason_to_stay(live: Deployment) -> str:
    """Why the version before does not serve again by itself; "" when it does."""
    if not setting_value("watch.rollback"):
        return "it does not go back by itself: the setting is off"
    if live.previous is None:
        return "there is nothing to go back to"
    if deploying.candidate_live() is not None:
        return "a candidate is being tried; that comes to its end first"
    newest = Deployment.objects.filter(arm=Deployment.Arm.CHAMPION, pk__lt=live.pk).first()
    if newest != live.previous:
        return "it came into use by going back, and nothing goes back twice by itself"
    gain = change_now(live.previous, live)
    if gain is None or gain.low <= 0:
        by = f" ({gain.value:+.3f}, between {gain.low:+.3f} and {gain.high:+.3f})" if gain is not None else ""
        return f"{live.previous.version.name} is not shown to answer the same photos better now{by}"
    return ""


def _gone_back(run: JobRun, result: Mapping[str, Any]) -> dict[str, Any]:
    live = versions.champion()
    left = Deployment.objects.get(pk=result["deployment"])
    target = left.previous.version.name if left.previous is not None else ""
    if live != left:
        if not _went_back_untold(run, result):  # told before the retry, or somebody was quicker
            return {"went_back_to": live.version.name}
    else:
        run.progress(1, STEPS, f"going back to {target}")
        try:
            deploying.version_rollback(user=None, expected_deployment=live.pk)
        except Conflict as error:
            return {"stayed_because": error.message}
    with transaction.atomic():
        event_record(
            action="quality.rollback",
            actor=None,
            subject=f"version {target}",
            before={name: result[name] for name in ("version", "deployment", "measured")},
            after={"version": target},
            reason=result["words"],
        )
        alerting.alert(
            subject=f"{target} is in use again",
            text=f"{result['words']} {target}, which answers the same photos better now, serves again.",
            details={"event": "quality.rollback", "version": target, "was": result["version"]},
        )
    return {"went_back_to": target}


def _went_back_untold(run: JobRun, result: Mapping[str, Any]) -> bool:
    """Whether a run of this job that was killed went back and could not tell."""
    left = result["deployment"]
    moves = Job.objects.filter(kind=deploying.ROLLBACK, state=JobState.DONE, created_by=None)
    went_back = moves.filter(payload__deployment=left, created_at__gte=run.job.created_at).exists()
    told = AuditEvent.objects.filter(action="quality.rollback", before__deployment=left)
    return went_back and not told.exists()


def _was_told(live: Deployment) -> bool:
    jobs = Job.objects.filter(kind=KIND, state=JobState.DONE, payload__deployment=live.pk)
    return jobs.filter(result__has_fallen=True).exists()


def _tell(result: Mapping[str, Any]) -> None:
    version = result["version"]
    event_record(
        action="quality.fallen",
        actor=None,
        subject=f"version {version}",
        before={"promised": result["promised"]},
        after={"measured": result["measured"]},
        reason=result["words"],
    )
    details = {name: result[name] for name in ("version", "measured", "promised")}
    alerting.alert(
        subject=f"{version} no longer answers as well as promised",
        text=result["words"],
        details={"event": "quality.fallen", **details},
    )


def _due_at(live: Deployment) -> datetime | None:
    hours = setting_value("watch.hours")
    if not hours:
        return None
    newest = Job.objects.filter(kind=KIND, payload__deployment=live.pk).order_by("-created_at").first()
    return (newest.created_at if newest else live.created_at) + timedelta(hours=hours)
