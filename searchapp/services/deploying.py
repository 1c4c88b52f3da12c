"""Which version answers: put a candidate in use, and go back. Both move one pointer and touch no entry.

Putting a version in use is a job (services.pointer_moves): photos that came since it was encoded get their entries, it
is measured against the version in use if that was not done yet, it is tried, and only then the pointer moves. Every
process follows it within two seconds (services.serving).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from ml.artifacts import BundleError
from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import FINISHED_STATES, Deployment, ItemImage, Job, JobState, ModelVersion
from searchapp.services import measuring, versions
from searchapp.services.jobs import job_create, job_run, owner_name
from searchapp.services.verdict_gates import LEAST_ITEMS

Gate = Mapping[str, Any]
PROMOTE, ROLLBACK = "promote", "rollback"
WHOLE = 100
# So many photos are encoded on the way when a version is put in use; more must be asked for.
CATCH_UP = 500
VERDICT_WORDS = {
    "fail": "loses at least {low:.3f} of mean average precision against {other}, allowed: {threshold:g}",
    "cannot_tell": "may lose up to {high:.3f} of mean average precision against {other}, allowed: {threshold:g}; "
    "the held-out photos are too few to tell",
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a version may not be put in use. An override reason lifts those that can be overridden."""

    name: str  # in_use | bundle | entries | gate
    message: str  # in words, for people
    can_override: bool


def obstacles_of(version: ModelVersion, gates: Sequence[Gate] | None = None) -> list[Obstacle]:
    """What stands between a version and its use; empty when it may be promoted at once.

    `gates` are the verdicts to go by, for who has just measured them; else the stored ones that still hold.
    """
    live = versions.champion().version
    if version == live:
        return [Obstacle("in_use", f"{version.name} is in use already.", can_override=False)]
    found = [
        _bundle_obstacle(version),
        _entries_obstacle(version, live),
        _gate_obstacle(version, live, gates),
    ]
    return [obstacle for obstacle in found if obstacle is not None]


def _bundle_obstacle(version: ModelVersion) -> Obstacle | None:
    try:
        versions.bundle_of(version)
    except (BundleError, OSError) as error:
        wrong = versions.without_folders(str(error), version)
        return Obstacle("bundle", f"The files of {version.name} cannot be used: {wrong}.", can_override=False)
    return None


def _entries_obstacle(version: ModelVersion, live: ModelVersion) -> Obstacle | None:
    """Outside the lineage of the version in use nothing of the old gallery can be searched."""
    missing = measuring.photos_without_entry(version)
    if version.lineage == live.lineage or missing <= CATCH_UP:
        return None
    photos = ItemImage.objects.filter(failure="").count()
    return Obstacle(
        "entries",
        f"{missing:,} of {photos:,} photos have no entry that {version.name} can search; at most {CATCH_UP} are "
        f"encoded on the way. Run `manage.py encode_missing --model-version {version.name}` first.",
        can_override=False,
    )


def _gate_obstacle(
    version: ModelVersion, live: ModelVersion, gates: Sequence[Gate] | None
) -> Obstacle | None:
    """A version that was never measured against the one in use has none yet: the job measures it first."""
    judged = measuring.gates_of(version, live) or () if gates is None else gates
    missed = [gate for gate in judged if gate["verdict"] != "pass"]
    if not missed:
        return None
    gate = missed[0]
    if gate["value"] is None:
        words = "cannot be judged: there is no held-out photo that both versions can answer"
    elif gate.get("items", LEAST_ITEMS) < LEAST_ITEMS:
        words = (
            f"cannot be judged: there are held-out photos of {gate['items']} items, at least "
            f"{LEAST_ITEMS} are needed"
        )
    else:
        words = VERDICT_WORDS[gate["verdict"]].format(other=live.name, **gate)
    return Obstacle("gate", f"{version.name} {words}.", can_override=True)


def version_promote(
    *,
    version: ModelVersion,
    user: AbstractBaseUser | None,
    override_reason: str = "",
    share: int = WHOLE,
    idempotency_key: str = "",
) -> Job:
    """A job of kind "promote" that checks the version, then moves the champion pointer to it.

    The job's result: {serving, previous, seconds, gallery_digest_before, gallery_digest_after, …}. Raises Conflict when
    obstacles_of() has one that no override lifts, or one that can be lifted and there is no reason; InvalidInput for
    a share other than 100. While a promotion of this version waits or runs, that one is given: two clicks are one.
    """
    if share != WHOLE:
        message = f"it is {share}, allowed: {WHOLE}; parts of the traffic cannot be given to a version yet"
        raise InvalidInput(f"share: {message}", fields={"share": message})
    reason = override_reason.strip()[:500]
    if (asked := _promotion_asked(version, reason, idempotency_key)) is not None:
        return asked
    version_check(version, reason)
    with transaction.atomic():
        Deployment.objects.select_for_update().get(
            pk=versions.champion().pk
        )  # two clicks, one after the other
        return _promotion_asked(version, reason, idempotency_key) or job_create(
            kind=PROMOTE,
            user=user,
            subject=f"Put {version.name} in use",
            payload={"version": version.name, "override_reason": reason},
            idempotency_key=idempotency_key,
        )


def _promotion_asked(version: ModelVersion, reason: str, idempotency_key: str) -> Job | None:
    """The job of this key, or one on its way that does the same; a reason is not given to one that has none."""
    promotions = Job.objects.filter(kind=PROMOTE)
    if idempotency_key and (asked := promotions.filter(idempotency_key=idempotency_key).first()) is not None:
        return asked
    going = promotions.exclude(state__in=FINISHED_STATES).filter(
        payload__version=version.name, cancel_requested=False
    )
    if reason:
        going = going.exclude(payload__override_reason="")
    return going.order_by("created_at").first()


def version_check(version: ModelVersion, override_reason: str, gates: Sequence[Gate] | None = None) -> None:
    """Raise Conflict, in words, unless `version` may be put in use, with this reason if one is needed."""
    for obstacle in obstacles_of(version, gates):
        if not obstacle.can_override:
            raise Conflict(obstacle.message)
        if not override_reason:
            raise Conflict(f"{obstacle.message} An override with a reason puts it in use all the same.")


def version_rollback(*, user: AbstractBaseUser | None, expected_deployment: int | None = None) -> Job:
    """A job of kind "rollback", already run when this returns: the deployment before the live one serves again.

    Its result has the shape of version_promote's. It does not wait behind other work: who goes back is in a hurry.
    Raises Conflict when there is nothing to go back to, when the files of that version cannot be used, and when
    `expected_deployment`, the live one as who asks saw it, is live no longer.
    """
    live = versions.champion()
    if expected_deployment not in (None, live.pk):
        raise Conflict(f"{live.version.name} was put in use meanwhile; look again before going back.")
    if live.previous is None:
        raise Conflict("There is nothing to go back to: the version in use is the first.")
    target = live.previous.version
    if (obstacle := _bundle_obstacle(target)) is not None:
        raise Conflict(f"{obstacle.message} {live.version.name} stays in use.")
    # The deployment is named, so that two clicks at the same moment go back one step, not two.
    payload = {"deployment": live.pk}
    job = job_create(kind=ROLLBACK, user=user, subject=f"Go back to {target.name}", payload=payload)
    job_run(job.pk, owner_name())
    job.refresh_from_db()
    if job.state == JobState.FAILED:
        raise Conflict(job.error)
    if job.state == JobState.CANCELLED:
        raise Conflict(f"Going back to {target.name} was cancelled.")
    return job


def rollback_target() -> ModelVersion | None:
    """The version that version_rollback would put in use; None when there is nothing to go back to."""
    live = Deployment.objects.filter(arm=Deployment.Arm.CHAMPION, ended_at__isnull=True)
    row = live.select_related("previous__version").first()
    return row.previous.version if row is not None and row.previous is not None else None
