"""The jobs that move the champion pointer: one transaction ends a deployment, begins the next, tells the audit log."""

import time
from typing import Any

from django.db import transaction

from ml.artifacts import BundleError
from searchapp.exceptions import Conflict
from searchapp.failpoints import failpoint
from searchapp.models import Deployment, GalleryEntry, GalleryView, ModelVersion
from searchapp.services import arms, deploying, encoding, measuring, versions
from searchapp.services.audit import event_record
from searchapp.services.code_digest import CODE_FIELDS, codes_digest
from searchapp.services.database_clock import DatabaseNow
from searchapp.services.jobs import JobRun

STEPS = 4


def promote_run(run: JobRun) -> dict[str, Any]:
    """Handler of "promote": catch up, measure if that was not done, try, move. A retry goes on where it stopped."""
    if "moved" in run.checkpoint:  # killed between the move and the last word
        return _said(run)
    started = time.monotonic()
    version, reason = versions.version_named(run.payload["version"]), run.payload["override_reason"]
    live = versions.champion()
    deploying.version_check(version, reason)
    before = _Digest()
    run.progress(0, STEPS, "encoding photos that came since")
    if version.lineage != live.version.lineage:
        encoding.entries_fill(
            version,
            heard=lambda _done: run.progress(0, STEPS, "encoding photos that came since"),
            commit=lambda _done: run.guard(),
        )
    run.progress(1, STEPS, "measuring on held-out photos")
    gates = measuring.gates_of(version, live.version)
    if gates is None:
        gates = _measured(run, version, live.version).gates
    deploying.version_check(version, reason, gates)
    run.progress(2, STEPS, f"trying {version.name}")
    arms.arm_tried(version)
    run.progress(3, STEPS, f"putting {version.name} in use")
    failpoint("promote.before_move")
    view, _ = GalleryView.objects.get_or_create(version=version, corrector_digest="")
    with transaction.atomic():
        _moved(
            run, live, Deployment(version=version, view=view, previous=live, reason=reason), "version.promote"
        )
        _note(run, version, live.version, before, started)
    return _said(run)


def rollback_run(run: JobRun) -> dict[str, Any]:
    """Handler of "rollback": the deployment before the one named in the payload serves again, as it was."""
    if "moved" in run.checkpoint:
        return _said(run)
    started = time.monotonic()
    live = versions.champion()
    if live.pk != run.payload["deployment"] or live.previous is None:
        raise Conflict(f"{live.version.name} was put in use meanwhile; look again before going back.")
    target = live.previous
    before = _Digest()
    run.progress(0, STEPS, f"trying {target.version.name}")
    try:
        arms.arm_tried(target.version)
    except (BundleError, OSError) as error:
        wrong = versions.without_folders(str(error), target.version)
        raise Conflict(f"The files of {target.version.name} cannot be used: {wrong}.") from error
    after = Deployment(
        version=target.version,
        view=target.view,
        previous=target.previous,
        reason=f"going back from {live.version.name}",
    )
    with transaction.atomic():
        _moved(run, live, after, "version.rollback")
        _note(run, target.version, live.version, before, started)
    return _said(run)


def _moved(run: JobRun, live: Deployment, after: Deployment, action: str) -> None:
    """End the live deployment and begin `after`, if it is still the live one; photos it cannot find get encoded."""
    ended = Deployment.objects.filter(pk=live.pk, ended_at__isnull=True).update(ended_at=DatabaseNow())
    if not ended:
        raise Conflict(
            f"{live.version.name} is no longer in use: somebody else moved the pointer; look again."
        )
    user = run.job.created_by
    after.created_by = user
    after.save(force_insert=True)
    event_record(
        action=action,
        actor=user,
        subject=f"version {after.version.name}",
        before={"version": live.version.name, "deployment": live.pk},
        after={"version": after.version.name, "deployment": after.pk},
        reason=after.reason,
    )
    if measuring.photos_without_entry(after.version):
        encoding.encode_job_ensure()


def _note(
    run: JobRun, version: ModelVersion, previous: ModelVersion, before: "_Digest", started: float
) -> None:
    """Commits with the move, so that a retry knows of it."""
    result = {
        "serving": version.name,
        "previous": previous.name,
        "seconds": round(time.monotonic() - started, 3),
        "gallery_digest_before": before.value,
    }
    run.save({**run.checkpoint, "moved": result, "newest": before.newest})


def _said(run: JobRun) -> dict[str, Any]:
    """What the move was, and the gallery read once more after it."""
    moved = run.checkpoint["moved"]
    after = _Digest(run.checkpoint["newest"])
    # A photo that came during the move may have been encoded by the version before alone, unseen by the move.
    missing = measuring.photos_without_entry(versions.champion().version)
    if missing:
        encoding.encode_job_ensure()
    return {**moved, "gallery_digest_after": after.value, "photos_to_encode": missing}


def _measured(run: JobRun, version: ModelVersion, live: ModelVersion) -> measuring.Comparison:
    def heard(done: int, total: int) -> None:
        run.progress(1, STEPS, f"measuring on held-out photos, {done:,} of {total:,}")

    comparison = measuring.versions_compare(version, live, heard=heard)
    with transaction.atomic():
        run.guard()
        measuring.comparison_store(version, live, comparison)
    return comparison


class _Digest:
    """The digest of every stored code up to the entry `newest` (design 4.2)."""

    def __init__(self, newest: int | None = None) -> None:
        latest = GalleryEntry.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        self.newest = latest if newest is None else newest
        rows = GalleryEntry.objects.filter(pk__lte=self.newest).order_by("image_sha256")
        self.value = codes_digest(rows.values_list(*CODE_FIELDS).iterator(chunk_size=5000))
