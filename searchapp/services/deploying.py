"""Which version answers: put a candidate in use, give it a part of the queries, go back. No entry is ever touched.

A deployment = (version, view, share, scope). With all queries it is the champion; with a share or a scope of them, or
in the shadow, a candidate beside the champion, one at most. Each begins as a job (services.pointer_moves): photos that
came since it was encoded get their entries, it is measured against the version in use if that was not done yet, it is
tried, and only then the pointer moves. Every process follows it within two seconds (services.serving).
"""

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import Deployment, Job, JobState, ModelVersion
from searchapp.services import versions
from searchapp.services.arm_choice import WHOLE, scope_checked
from searchapp.services.asked_promotions import PROMOTE, asked_before, refuse_another
from searchapp.services.audit import event_record
from searchapp.services.correctors import newest_corrected_view
from searchapp.services.database_clock import DatabaseNow
from searchapp.services.increments import is_grown
from searchapp.services.jobs import job_create, job_run, owner_name
from searchapp.services.obstacles import Obstacle, bundle_obstacle, obstacles_of, version_check
from searchapp.services.stop_rules import rule_checked

__all__ = [
    "PROMOTE",
    "ROLLBACK",
    "WHOLE",
    "Obstacle",
    "canary_end",
    "candidate_live",
    "corrector_to_serve",
    "last_deployment",
    "obstacles_of",
    "rollback_target",
    "version_check",
    "version_promote",
    "version_rollback",
]

ROLLBACK = "rollback"
NOTE_LENGTH, REASON_LENGTH = 2000, 500


def version_promote(
    *,
    version: ModelVersion,
    user: AbstractBaseUser | None,
    override_reason: str = "",
    share: int = WHOLE,
    scope: Mapping[str, Any] | None = None,
    shadow: bool = False,
    change_note: str = "",
    stop_rule: Mapping[str, Any] | None = None,
    corrector_digest: str | None = None,
    expected_deployment: int | None = None,
    idempotency_key: str = "",
) -> Job:
    """A job of kind "promote" that checks the version, then moves the pointer to it.

    share (percent) and scope ({"category": slug} or {"vertical": name}) make it a canary; `shadow` has it answer
    unseen. change_note: what users are told. stop_rule: when a canary ends by itself (services.stop_rules).
    corrector_digest: the view it serves by; None for corrector_to_serve().

    The job's result: {serving, previous, seconds, gallery_digest_before, gallery_digest_after, …}. Raises Conflict when
    obstacles_of() has one that no override lifts, or one that can be lifted and there is no reason; when another
    candidate is live, another promotion is under way, or `expected_deployment`, the champion as who asks saw it, is
    live no longer; InvalidInput for a share or scope that is not allowed. While the same promotion waits or runs, that
    one is given: two clicks are one.
    """
    digest = corrector_to_serve(version) if corrector_digest is None else corrector_digest
    reason = override_reason.strip()[:REASON_LENGTH]
    payload: dict[str, Any] = {
        "version": version.name,
        "corrector_digest": digest,
        "share": _share_checked(share, is_shadow=shadow),
        "scope": scope_checked(scope),
        "shadow": shadow,
        "change_note": change_note.strip()[:NOTE_LENGTH],
        "stop_rule": rule_checked(stop_rule) if stop_rule else {},
        "override_reason": reason,
    }
    if (asked := asked_before(payload, idempotency_key)) is not None:
        return asked
    version_check(version, reason, corrector_digest=digest, is_shadow=shadow)
    _candidate_check(version, payload)
    try:
        with transaction.atomic():
            payload["champion"] = _champion_locked(expected_deployment).pk
            asked = asked_before(payload, idempotency_key)
            refuse_another(payload)
            return asked or job_create(
                kind=PROMOTE,
                user=user,
                subject=promotion_words(payload),
                payload=payload,
                idempotency_key=idempotency_key,
            )
    except Conflict as refusal:  # two operators at once: what the second one wanted is kept as well
        event_record(
            action="version.promote.refused",
            actor=user,
            subject=f"version {version.name}",
            after=payload,
            reason=refusal.message,
        )
        raise


def promotion_words(payload: Mapping[str, Any]) -> str:
    """What a promotion does, for people: "Give 25 % of the queries to 2.0"."""
    name = payload["version"]
    if payload["shadow"]:
        return f"Let {name} answer in the shadow"
    if not is_canary(payload):
        return f"Put {name} in use"
    where = next((f" in {value}" for value in payload["scope"].values()), "")
    return f"Give {payload['share']} % of the queries{where} to {name}"


def is_canary(payload: Mapping[str, Any]) -> bool:
    """Whether a promotion leaves the champion where it is."""
    return bool(payload["shadow"] or payload["scope"] or payload["share"] < WHOLE)


def candidate_live() -> Deployment | None:
    """The candidate beside the champion, if there is one: a canary, or one in the shadow."""
    live = Deployment.objects.filter(arm=Deployment.Arm.CANDIDATE, ended_at__isnull=True)
    return live.select_related("version", "view").first()


def corrector_to_serve(version: ModelVersion) -> str:
    """Through which corrector `version` would serve if it were promoted now; "" for none.

    The one fitted last, unless the version served since, as it was then chosen.
    """
    newest = newest_corrected_view(version)
    served = (
        Deployment.objects.filter(version=version, arm=Deployment.Arm.CHAMPION).select_related("view").first()
    )
    if newest is None or (served is not None and served.created_at > newest.created_at):
        return served.view.corrector_digest if served is not None else ""
    return newest.corrector_digest


def version_rollback(*, user: AbstractBaseUser | None, expected_deployment: int | None = None) -> Job:
    """A job of kind "rollback", already run when this returns: the last deployment of any kind is undone.

    A live candidate ends and the champion stays; else the deployment before the champion's serves again. The result
    has the shape of version_promote's. It does not wait behind other work: who goes back is in a hurry. Raises Conflict
    when there is nothing to go back to, when the files of that version cannot be used, and when `expected_deployment`,
    the one to leave as who asks saw it, is not the last one.
    """
    last = last_deployment()
    if expected_deployment not in (None, last.pk):
        raise Conflict(f"{last.version.name} was put in use meanwhile; look again before going back.")
    target = rollback_target()
    if target is None:
        raise Conflict("There is nothing to go back to: the version in use is the first.")
    is_candidate = last.arm == Deployment.Arm.CANDIDATE
    if not is_candidate and (obstacle := bundle_obstacle(target)) is not None:
        raise Conflict(f"{obstacle.message} {last.version.name} stays in use.")
    # The deployment is named, so that two clicks at the same moment go back one step, not two.
    subject = f"End the trial of {last.version.name}" if is_candidate else f"Go back to {target.name}"
    job = job_create(kind=ROLLBACK, user=user, subject=subject, payload={"deployment": last.pk})
    job_run(job.pk, owner_name())
    job.refresh_from_db()
    if job.state == JobState.FAILED:
        raise Conflict(job.error)
    if job.state == JobState.CANCELLED:
        raise Conflict(f"Going back to {target.name} was cancelled.")
    return job


def last_deployment() -> Deployment:
    """The one that version_rollback would undo: a live candidate, else the champion."""
    return candidate_live() or versions.champion()


def rollback_target() -> ModelVersion | None:
    """The version that answers all queries after version_rollback; None when there is nothing to go back to."""
    if candidate_live() is not None:
        return versions.champion().version
    live = Deployment.objects.filter(arm=Deployment.Arm.CHAMPION, ended_at__isnull=True)
    row = live.select_related("previous__version").first()
    return row.previous.version if row is not None and row.previous is not None else None


@transaction.atomic
def canary_end(
    *, user: AbstractBaseUser | None, reason: str, expected_deployment: int | None = None
) -> Deployment:
    """End the live candidate at once, with an audit event; the champion stays. For the button and the stop rule.

    Raises Conflict when there is none, or when it is not `expected_deployment`.
    """
    Deployment.objects.select_for_update().get(pk=versions.champion().pk)  # one after the other
    live = candidate_live()
    if live is None or expected_deployment not in (None, live.pk):
        raise Conflict("That trial has ended already; nothing was changed.")
    deployment_end(live, reason)
    event_record(
        action="version.canary_end",
        actor=user,
        subject=f"version {live.version.name}",
        before=deployment_facts(live),
        after={"serving": versions.champion().version.name},
        reason=reason,
    )
    return live


def deployment_end(deployment: Deployment, reason: str) -> None:
    """Inside the caller's transaction. Raises Conflict when somebody else ended it a moment before."""
    live = Deployment.objects.filter(pk=deployment.pk, ended_at__isnull=True)
    if not live.update(ended_at=DatabaseNow(), end_reason=reason[:REASON_LENGTH]):
        raise Conflict(
            f"{deployment.version.name} is no longer in use: somebody else moved the pointer; look again."
        )


def deployment_facts(deployment: Deployment) -> dict[str, Any]:
    """What the audit log keeps of a deployment."""
    facts: dict[str, Any] = {
        "version": deployment.version.name,
        "digest": deployment.version.digest,
        "deployment": deployment.pk,
    }
    if deployment.view.corrector_digest:
        facts["corrector"] = deployment.view.corrector_digest
    if deployment.arm == Deployment.Arm.CANDIDATE:
        facts |= {"share": deployment.share, "scope": deployment.scope, "shadow": deployment.is_shadow}
        facts |= {"stop_rule": deployment.stop_rule} if deployment.stop_rule else {}
    return facts


def _champion_locked(expected: int | None) -> Deployment:
    """Inside the caller's transaction: two clicks, one after the other. A pointer that moves is waited for."""
    rows = Deployment.objects.select_for_update().filter(pk=versions.champion().pk, ended_at__isnull=True)
    live = rows.first()
    if live is None or expected not in (None, live.pk):
        raise moved_conflict()
    return live


def moved_conflict() -> Conflict:
    """For who asked while another deployment was live."""
    name = versions.champion().version.name
    return Conflict(f"{name} was put in use meanwhile; look again before you change it.")


def _share_checked(share: Any, *, is_shadow: bool) -> int:
    """In the shadow every query is asked, and no answer is shown."""
    is_whole = isinstance(share, int) and not isinstance(share, bool)
    if not is_whole or not 1 <= share <= WHOLE:
        message = f"it is {share!r:.40}, allowed: a whole number of percent, 1 to {WHOLE}"
        raise InvalidInput(f"share: {message}", fields={"share": message})
    return 0 if is_shadow else share


def _candidate_check(version: ModelVersion, payload: Mapping[str, Any]) -> None:
    """One candidate at a time; the one that is tried may get another share, and all queries end any trial.

    One that was given what the champion learned since is tried under that number: of 2.0 it may be 2.1.
    """
    live = candidate_live()
    if live is None or not is_canary(payload):
        return
    if not is_grown(live.version, version):
        raise Conflict(f"{live.version.name} is being tried; end that before {version.name} is.")
    asked = (payload["share"], payload["scope"], payload["shadow"], payload["corrector_digest"])
    has_new_rule = payload["stop_rule"] not in ({}, live.stop_rule)
    if asked == (live.share, live.scope, live.is_shadow, live.view.corrector_digest) and not has_new_rule:
        raise Conflict(f"{live.version.name} is being tried just so already.")
