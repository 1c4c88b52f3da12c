"""The jobs that move the pointer: one transaction ends a deployment, begins the next, tells the audit log.

All that grows with the gallery (encoding, measuring, loading, reading every code twice) comes before or after it.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import IntegrityError, transaction

from ml.artifacts import BundleError
from searchapp.exceptions import Conflict
from searchapp.failpoints import failpoint
from searchapp.models import Deployment, GalleryView, ModelVersion
from searchapp.services import arms, deploying, encoding, measuring, probing, promotion_steps, versions
from searchapp.services.announcing import announce
from searchapp.services.arm_choice import WHOLE
from searchapp.services.audit import event_record
from searchapp.services.correctors import corrector_of
from searchapp.services.gallery_digest import TimedDigest, digest_timed
from searchapp.services.increments import has_only_learned, is_grown
from searchapp.services.jobs import JobRun
from searchapp.services.learning import MovedMeanwhile
from searchapp.services.pair_calibrating import pairs_calibrate
from searchapp.services.promotion_steps import STEPS

ATTEMPTS = 3  # categories learned meanwhile make a promotion begin anew
DEFAULTS: Mapping[str, Any] = {
    "override_reason": "", "corrector_digest": "", "share": WHOLE, "scope": {}, "shadow": False, "change_note": "",
    "stop_rule": {}, "champion": None,
}  # fmt: skip

logger = logging.getLogger(__name__)


def promote_run(run: JobRun) -> dict[str, Any]:
    """Handler of "promote": encode what came since, calibrate, measure, catch up, try, move. A retry goes on where it
    stopped; what the champion learned meanwhile is caught up with. Raises Conflict when another one serves by now than
    when it was asked for."""
    if "moved" in run.checkpoint:  # killed between the move and the last word
        return _said(run)
    wish = {**DEFAULTS, **run.payload}
    seen = wish["champion"] or versions.champion().pk
    for _ in range(ATTEMPTS):
        live = versions.champion()
        if not has_only_learned(live, seen):
            raise deploying.moved_conflict()
        try:
            _promoted(run, wish, live)
        except MovedMeanwhile as moved:
            logger.warning("job %s begins anew: %s", run.job.pk, moved)
        else:
            return _said(run)
    raise Conflict("The version in use kept changing during the promotion; try again.")


def _promoted(run: JobRun, wish: Mapping[str, Any], live: Deployment) -> None:
    """One attempt. Raises MovedMeanwhile when `live` serves no longer in the end."""
    started = time.monotonic()
    version = versions.version_named(wish["version"])
    checks = {"corrector_digest": wish["corrector_digest"], "is_shadow": wish["shadow"]}
    deploying.version_check(version, wish["override_reason"], **checks)
    failpoint("promote.after_checks")
    before = digest_timed()
    asked = version
    if version != live.version:
        promotion_steps.prepared(run, version, live)
        gates = (
            []
            if wish["shadow"]
            else promotion_steps.gates(run, version, live.version, wish["corrector_digest"])
        )
        deploying.version_check(version, wish["override_reason"], gates, **checks)
        failpoint("promote.after_gates")
        if not wish["shadow"]:
            version = promotion_steps.caught_up(run, version, live)
            if version == live.version:
                raise Conflict(
                    f"{version.name}, which is in use, is {asked.name} with the categories learned since; go back to "
                    f"{asked.name} if it is to serve without them."
                )
    elif wish["corrector_digest"]:
        pairs_calibrate(
            version,
            corrector=corrector_of(wish["corrector_digest"]),
            corrector_digest=wish["corrector_digest"],
        )
    run.progress(4, STEPS, f"trying {version.name}")
    warming = time.monotonic()
    arm = arms.arm_tried(version, wish["corrector_digest"])
    probe = probing.probe_answers(arm)
    announce(run, version, wish["corrector_digest"], load_seconds=time.monotonic() - warming)
    prewarm_seconds = time.monotonic() - warming
    failpoint("promote.before_move")
    view, _ = GalleryView.objects.get_or_create(version=version, corrector_digest=wish["corrector_digest"])
    after = Deployment(
        version=version,
        view=view,
        reason=wish["override_reason"],
        change_note=wish["change_note"],
        measured=promotion_steps.promised(asked, live.version, wish["corrector_digest"]),
    )
    if deploying.is_canary(wish):
        after.arm, after.share, after.scope = Deployment.Arm.CANDIDATE, wish["share"], wish["scope"]
        after.is_shadow, after.stop_rule = wish["shadow"], wish["stop_rule"]
    told = {"probe": probe, "prewarm_seconds": round(prewarm_seconds, 4)}
    _move(run, _Move(live, after, before, started, told))


def rollback_run(run: JobRun) -> dict[str, Any]:
    """Handler of "rollback": the deployment named in the payload is undone."""
    if "moved" in run.checkpoint:
        return _said(run)
    started = time.monotonic()
    last = deploying.last_deployment()
    if last.pk != run.payload["deployment"]:
        raise Conflict(f"{last.version.name} was put in use meanwhile; look again before going back.")
    before = digest_timed()
    if last.arm == Deployment.Arm.CANDIDATE:
        _end_candidate(run, last, before, started)
        return _said(run)
    target = last.previous
    if target is None:
        raise Conflict("There is nothing to go back to: the version in use is the first.")
    run.progress(0, STEPS, f"trying {target.version.name}")
    warming = time.monotonic()
    try:
        arms.arm_tried(target.version, target.view.corrector_digest)
    except (BundleError, OSError) as error:
        wrong = versions.without_folders(str(error), target.version)
        raise Conflict(f"The files of {target.version.name} cannot be used: {wrong}.") from error
    announce(run, target.version, target.view.corrector_digest, load_seconds=time.monotonic() - warming)
    prewarm_seconds = time.monotonic() - warming
    failpoint("rollback.before_move")
    after = Deployment(
        version=target.version,
        view=target.view,
        previous=target.previous,
        reason=f"going back from {last.version.name}",
        measured=target.measured,
    )
    told = {"prewarm_seconds": round(prewarm_seconds, 4)}
    _move(run, _Move(last, after, before, started, told, is_rollback=True))
    return _said(run)


@dataclass(frozen=True, slots=True)
class _Move:
    """From the champion `live` to `after`, and what the job says of it."""

    live: Deployment
    after: Deployment
    digest: TimedDigest
    started: float  # of the job
    told: dict[str, Any] = field(default_factory=dict)
    is_rollback: bool = False

    @property
    def action(self) -> str:
        if self.is_rollback:
            return "version.rollback"
        if self.after.arm == Deployment.Arm.CHAMPION:
            return "version.promote"
        return "version.shadow" if self.after.is_shadow else "version.canary"


def _move(run: JobRun, move: _Move) -> None:
    """Begin `after`, if `live` is still the champion; what it takes the place of ends in the same transaction."""
    started = time.perf_counter()
    live, after = move.live, move.after
    try:
        with transaction.atomic():
            _lock(live)
            _replace(live, after, is_rollback=move.is_rollback)
            after.created_by = run.job.created_by
            after.save(force_insert=True)
            event_record(
                action=move.action,
                actor=run.job.created_by,
                subject=f"version {after.version.name}",
                before={**deploying.deployment_facts(live), "gallery_digest": move.digest.value},
                after=deploying.deployment_facts(after),
                reason=after.reason,
            )
            serving = live if after.arm == Deployment.Arm.CANDIDATE else after
            result = {"serving": serving.version.name, "previous": live.version.name, **move.told}
            if after.arm == Deployment.Arm.CANDIDATE:
                result |= {"candidate": after.version.name, "share": after.share, "scope": after.scope}
                result["shadow"] = after.is_shadow
            _note(run, result | {"deployment": after.pk}, move.digest, (move.started, started))
            failpoint("promote.before_commit")
    except IntegrityError as error:  # somebody's candidate was a moment earlier
        raise Conflict("Another version is being tried since a moment ago; look again.") from error
    failpoint("promote.after_move")


def _replace(live: Deployment, after: Deployment, *, is_rollback: bool) -> None:
    candidate = deploying.candidate_live()
    if after.arm == Deployment.Arm.CANDIDATE:
        if candidate is not None and not _is_same_trial(candidate.version, after.version):
            raise Conflict(
                f"{candidate.version.name} is being tried; end that before {after.version.name} is."
            )
        if candidate is not None:
            deploying.deployment_end(candidate, "it got another part of the queries")
        after.previous = candidate
        return
    if not is_rollback:
        after.previous = live
    words = f"going back to {after.version.name}" if is_rollback else f"{after.version.name} was put in use"
    deploying.deployment_end(live, words)
    if candidate is not None:
        deploying.deployment_end(candidate, words)


def _is_same_trial(before: ModelVersion, after: ModelVersion) -> bool:
    """Whether they differ at most by what was learned."""
    return is_grown(before, after) or is_grown(after, before)


def _end_candidate(run: JobRun, last: Deployment, digest: TimedDigest, started: float) -> None:
    moving = time.perf_counter()
    with transaction.atomic():
        deploying.canary_end(
            user=run.job.created_by, reason="taken back by an operator", expected_deployment=last.pk
        )
        serving = versions.champion()
        result = {"serving": serving.version.name, "previous": last.version.name, "ended": last.pk}
        _note(run, result, digest, (started, moving))
    failpoint("promote.after_move")


def _lock(live: Deployment) -> None:
    held = Deployment.objects.select_for_update().filter(pk=live.pk, ended_at__isnull=True)
    if not held.exists():
        raise MovedMeanwhile(
            f"{live.version.name} is no longer in use: somebody else moved the pointer; look again."
        )


def _note(run: JobRun, result: dict[str, Any], digest: TimedDigest, since: tuple[float, float]) -> None:
    """Commits with the move, so that a retry knows of it. since: start of the job, start of the move."""
    result |= {
        "seconds": round(time.monotonic() - since[0], 3),
        "pointer_seconds": round(time.perf_counter() - since[1], 4),
        "moved_at": round(time.time(), 3),
        "digest_seconds": round(digest.seconds, 3),
        "gallery_digest_before": digest.value,
    }
    run.save({**run.checkpoint, "moved": result, "newest": digest.newest})


def _said(run: JobRun) -> dict[str, Any]:
    """What the move was, and the gallery read once more after it."""
    moved = run.checkpoint["moved"]
    after = digest_timed(run.checkpoint["newest"])
    # A photo that came during the move may have been encoded by the version before alone, unseen by the move.
    missing = measuring.photos_without_entry(versions.champion().version)
    if missing:
        encoding.encode_job_ensure()
    if "checked" not in run.checkpoint:
        with transaction.atomic():
            event_record(
                action="gallery.checked",
                actor=run.job.created_by,
                subject=f"stored codes, after: {run.job.subject}",
                before={"gallery_digest": moved["gallery_digest_before"]},
                after={"gallery_digest": after.value},
            )
            run.save({**run.checkpoint, "checked": True})
    return {
        **moved,
        "digest_seconds": round(moved["digest_seconds"] + after.seconds, 3),
        "gallery_digest_after": after.value,
        "photos_to_encode": missing,
    }
