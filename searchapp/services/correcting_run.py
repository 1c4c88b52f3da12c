"""The job that corrects the gallery: fit, keep, judge on held-out photos, then move the pointer to the corrected view.

Until the pointer moves nothing serves otherwise, and whatever happens no row of the gallery changes. A correction that
does not help, or does not pass, leaves nothing behind but the reason why.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.db import transaction

from searchapp.exceptions import Conflict, JobCancelled
from searchapp.failpoints import failpoint
from searchapp.models import Deployment, GalleryView, ItemImage, ModelVersion, PairCalibration
from searchapp.services import arms, correctors, deploying, versions
from searchapp.services.audit import event_record
from searchapp.services.corrected_views import entries_corrected
from searchapp.services.correcting import CALIBRATED_ON, correction_check
from searchapp.services.correcting_fit import Fit, gallery_fitted
from searchapp.services.gallery_columns import read_entries
from searchapp.services.gallery_digest import gallery_digest, newest_entry
from searchapp.services.held_out import held_out_fingerprint, held_out_queries
from searchapp.services.held_out_answers import gallery_answers, queries_encoded
from searchapp.services.jobs import JobRun
from searchapp.services.measured_intervals import difference_of, metrics_row, turned
from searchapp.services.operator_settings import setting_value
from searchapp.services.pair_calibrating import pairs_calibrate
from searchapp.services.stale_entries import stale_entries
from searchapp.services.verdict_galleries import photos_judged, stored_view
from searchapp.services.verdict_gates import MAP_GATE, gate_row

PARTS = 1000
# Of the bar: until the sample is encoded, the maps are fitted, similarities are read, the gate is measured.
ENCODED, FITTED, CALIBRATED, MEASURED = 400, 450, 650, 950
GATE = "corrected_map_loss"


@dataclass(frozen=True, slots=True)
class Judged:
    """What the held-out photos said: metrics of the served answer before and with the correction, and the gate."""

    before: dict[str, Any]
    after: dict[str, Any]
    gate: dict[str, Any]
    held_out: str


@dataclass(frozen=True, slots=True)
class _Correction:
    """One run: for which version, what served as it began, and what it has found so far."""

    run: JobRun
    version: ModelVersion
    live: Deployment
    state: dict[str, Any]
    started: float

    @property
    def digest(self) -> str:
        return str(self.state["digest"])

    @property
    def through_now(self) -> str:
        """The corrector that the version serves by already; "" for none."""
        return self.live.view.corrector_digest if self.live.version == self.version else ""


def correct_run(run: JobRun) -> dict[str, Any]:
    """Handler of "correct_gallery". A retry after the fit goes on with the maps that were kept, if they still are."""
    if "said" in run.checkpoint:  # killed between the last write and the last word
        return _said(run)
    started = time.monotonic()
    version, live = versions.version_named(run.payload["version"]), versions.champion()
    correction_check(version, live.version)
    this = _Correction(run, version, live, _kept(run) or _fitted(run, version), started)
    if not this.digest:
        return _ended(this, "Nothing was changed: no map helps")
    if this.digest == this.through_now:
        return _ended(this, "Nothing was changed: the gallery is corrected by these very maps already")
    try:
        judged = _judged(this)
        refusal = _refusal(judged.gate, run.payload["override_reason"])
        if refusal:
            _forget(this.digest)
            return _ended(this, f"Nothing was changed: {refusal}")
        run.progress(MEASURED, PARTS, f"trying {version.name} with the corrected gallery")
        arms.arm_tried(version, this.digest)
        failpoint("correct.before_move")
        return _registered(this, judged)
    except (Conflict, JobCancelled):
        _forget(this.digest)
        raise


def _kept(run: JobRun) -> dict[str, Any]:
    """Of an attempt before this one; empty when it fitted nothing yet, or was cancelled and its maps went with it."""
    digest = run.checkpoint.get("digest", "")
    return {} if digest and not correctors.is_kept(digest) else run.checkpoint


def _fitted(run: JobRun, version: ModelVersion) -> dict[str, Any]:
    """Fit and keep the bundle; the state that the checkpoint holds from then on."""

    def heard(done: int, total: int) -> None:
        words = f"encoding photo {done + 1:,} of {total:,}" if done < total else "fitting maps"
        run.progress(ENCODED * done // max(1, total), PARTS, words)

    fit: Fit = gallery_fitted(
        version, stale_entries(version), fit_items=run.payload["fit_items"], heard=heard
    )
    run.progress(FITTED, PARTS, "keeping the maps")
    newest = newest_entry()
    state: dict[str, Any] = {
        "newest": newest,
        "gallery_digest_before": gallery_digest(newest),
        "digest": fit.stored(version).digest if fit.maps else "",
        "fitted_on": fit.opened,
        "producers": fit.trunks,
        "encode_seconds": round(fit.encode_seconds, 3),
        "fit_seconds": round(fit.fit_seconds, 3),
    }
    run.save(state)
    failpoint("correct.after_fit")
    return state


def _judged(this: _Correction) -> Judged:
    """Read similarities to corrected entries, then ask the held-out queries of both galleries as they would serve."""

    def calibrating(done: int, total: int) -> None:
        this.state["calibrated_on"] = done
        this.run.progress(_between(FITTED, CALIBRATED, done, total), PARTS, "reading similarities")

    def asking(done: int, total: int) -> None:
        part = _between(CALIBRATED, MEASURED, done, total)
        this.run.progress(part, PARTS, f"asking held-out photo {done:,} of {total:,}")

    version, digest = this.version, this.digest
    pairs_calibrate(
        version,
        corrector=correctors.corrector_of(digest),
        corrector_digest=digest,
        most=CALIBRATED_ON,
        heard=calibrating,
    )
    failpoint("correct.after_calibration")
    queries = held_out_queries()
    this.state["asked"] = len(queries)
    asked = queries_encoded(version, queries, heard=asking)
    bundle = versions.bundle_of(version)
    photos = photos_judged(read_entries(version), queries)
    raw = stored_view(version, photos)
    values = [
        gallery_answers(
            queries, asked, entries_corrected(raw, version, through),
            versions.calibrations_of(version, bundle, corrector_digest=through), facts=photos.facts,
        ).values
        for through in (this.through_now, digest)
    ]  # fmt: skip
    items = np.array([query.cluster for query in queries], np.int64)
    loss = turned(difference_of(values[1]["map"], values[0]["map"], items))
    judged = Judged(
        before=metrics_row(values[0], items),
        after=metrics_row(values[1], items),
        gate=gate_row(GATE, setting_value(f"gate.{MAP_GATE}"), loss),
        held_out=held_out_fingerprint(queries),
    )
    this.state.update(
        gates=[judged.gate], map_before=judged.before.get("map"), map_after=judged.after.get("map")
    )
    return judged


def _refusal(gate: dict[str, Any], override_reason: str) -> str:
    """Why the correction is not used, in words; "" when it may be."""
    if gate["verdict"] == "pass" or override_reason:
        return ""
    if gate["value"] is None:
        return "there is no held-out photo that could judge it"
    if gate["verdict"] == "fail":
        return (
            f"corrected answers lose at least {gate['low']:.3f} of mean average precision, "
            f"allowed: {gate['threshold']:g}"
        )
    return (
        f"corrected answers may lose up to {gate['high']:.3f} of mean average precision, allowed: "
        f"{gate['threshold']:g}; the held-out photos of {gate['items']} items are too few to tell"
    )


def _registered(this: _Correction, judged: Judged) -> dict[str, Any]:
    """The view becomes known and, if the version serves, takes the place of the one before; undone by a rollback."""
    run, version, live = this.run, this.version, this.live
    words = run.payload["override_reason"] or "corrected answers passed their gate"
    is_switched = live.version == version
    told = _told(this)
    with transaction.atomic():
        run.guard()
        if is_switched:
            deploying.deployment_end(live, "the corrected gallery took its place")
        correction_check(version, live.version)  # again: a trial may have begun meanwhile
        view, _ = GalleryView.objects.get_or_create(version=version, corrector_digest=this.digest)
        after: dict[str, Any] = {
            "version": version.name,
            "digest": version.digest,
            "corrector": this.digest,
        }
        if is_switched:
            deployed = Deployment.objects.create(
                version=version,
                view=view,
                previous=live,
                reason=f"gallery corrected: {words}"[:500],
                measured=judged.after | {"held_out": judged.held_out, "state": "corrected"},
                created_by=run.job.created_by,
            )
            after = deploying.deployment_facts(deployed)
        event_record(
            action="gallery.correct",
            actor=run.job.created_by,
            subject=f"version {version.name}",
            before=deploying.deployment_facts(live) | {"gallery_digest": this.state["gallery_digest_before"]},
            after=after | {"fitted_on": this.state["fitted_on"], "gate": judged.gate["verdict"]},
            reason=words,
        )
        said = told | {"view": this.digest, "switched": is_switched, "reason": words}
        run.save({**this.state, "said": said})
        failpoint("correct.before_commit")
    failpoint("correct.after_move")
    return _said(run)


def _ended(this: _Correction, reason: str) -> dict[str, Any]:
    """Given up: what serves is what served before."""
    said = _told(this) | {"view": None, "switched": False, "reason": reason}
    this.run.save({**this.state, "said": said})
    return _said(this.run)


def _told(this: _Correction) -> dict[str, Any]:
    """What every outcome tells. reencode_seconds: all photos by this version, at the pace of the sample."""
    state = {"gates": [], "map_before": None, "map_after": None, "calibrated_on": 0, "asked": 0} | this.state
    photos = ItemImage.objects.filter(failure="").count()
    pace = state["encode_seconds"] / max(1, state["fitted_on"])
    told = ("fitted_on", "producers", "encode_seconds", "fit_seconds", "gates", "map_before", "map_after")
    return {name: state[name] for name in told} | {
        "version": this.version.name,
        "opened": {
            "fit": state["fitted_on"],
            "calibration": state["calibrated_on"],
            "held_out": state["asked"],
        },
        "photos": photos,
        "reencode_seconds": round(pace * photos, 2),
        "seconds": round(time.monotonic() - this.started, 3),
    }


def _said(run: JobRun) -> dict[str, Any]:
    """The result, with the stored codes read once more."""
    state = run.checkpoint
    said: dict[str, Any] = state["said"]
    return said | {
        "gallery_digest_before": state["gallery_digest_before"],
        "gallery_digest_after": gallery_digest(state["newest"]),
    }


def _forget(digest: str) -> None:
    """Of a correction that no view came to use nothing stays."""
    if not GalleryView.objects.filter(corrector_digest=digest).exists():
        PairCalibration.objects.filter(corrector_digest=digest).delete()
        correctors.corrector_drop(digest)


def _between(start: int, end: int, done: int, total: int) -> int:
    return start + (end - start) * min(done, total) // max(1, total)
