"""What this process answers from: one immutable reference, replaced whole when the gallery or the pointer moved.

A follower thread reads the change counter and the live deployments every GALLERY_FOLLOW_SECONDS. Zero means that no
thread runs and whoever asks follows first: commands and tests.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from django.conf import settings
from django.db import close_old_connections, connection

from ml.protocol import Calibration, Encoder
from ml.retrieval.two_stage import QueryVectors, search
from ml.retrieval.view import GalleryView
from ml.text_encoder import TextWeights
from searchapp.exceptions import Unavailable
from searchapp.models import Deployment, ModelVersion
from searchapp.services import snapshots, versions
from searchapp.services.gallery_views import counter_value, engine_for, view_followed, view_rebuilt

# A view folds its delta into its base when the delta has grown to this share of it (and this many rows).
COMPACT_SHARE = 0.1
COMPACT_FROM_ROWS = 5000
RETRY_SECONDS = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer: a version, how it sees the gallery, and what its similarities mean.

    words: what puts a text into its code space; None while it has learned none.
    """

    name: str
    deployment_id: int
    version: ModelVersion
    encoder: Encoder
    view: GalleryView
    calibrations: Mapping[str, Calibration]
    words: TextWeights | None = None


@dataclass(frozen=True, slots=True)
class GalleryReference:
    """Immutable; a request takes it once and keeps it. The champion comes first; a canary's candidate second."""

    arms: tuple[Arm, ...]
    sequence: int

    @property
    def champion(self) -> Arm:
        return self.arms[0]


class _Follower:
    """This process's reference and the thread that replaces it."""

    def __init__(self) -> None:
        self.reference: GalleryReference | None = None
        self.following = threading.Lock()
        self.starting = threading.Lock()
        self.thread: threading.Thread | None = None
        self.stopping = threading.Event()


_follower = _Follower()


def current() -> GalleryReference:
    """The reference to answer from. Raises Unavailable while it loads (the caller may come again in a moment)."""
    if settings.GALLERY_FOLLOW_SECONDS <= 0:
        return follow_once()
    start_follower()
    reference = _follower.reference
    if reference is None:
        raise Unavailable("The gallery is being loaded; try again in a moment.")
    return reference


def arm_for(visitor: str = "") -> Arm:  # noqa: ARG001  which visitor sees the candidate is the canary's rule
    """The arm that answers `visitor` for the whole of one request."""
    return current().champion


def start_follower() -> None:
    """Start this process's follower thread, once; after a fork the child starts its own."""
    if _follower.thread is not None and _follower.thread.is_alive():
        return
    with _follower.starting:
        if _follower.thread is None or not _follower.thread.is_alive():
            _follower.thread = threading.Thread(target=_follow_for_ever, name="gallery-follower", daemon=True)
            _follower.thread.start()


def stop_follower() -> None:
    """End this process's follower thread and wait for it; the next question starts another."""
    _follower.stopping.set()
    if _follower.thread is not None:
        _follower.thread.join()
    _follower.stopping.clear()


def follow_once() -> GalleryReference:
    """Bring the reference up to the database: the pointer first, then every committed change. Returns it.

    When nothing moved this costs two short reads. Raises Unavailable when there is no version to serve.
    """
    with _follower.following:
        live = _live_deployments()
        counter = counter_value()
        before = _follower.reference
        if before is None or before.sequence > counter or _ids(before) != [row.pk for row in live]:
            after = _loaded(live, before if before and before.sequence <= counter else None, counter)
        elif before.sequence < counter:
            after = _followed(before, counter)
        else:
            return before
        _follower.reference = after  # the one assignment by which every thread sees the new state
        return after


def forget() -> None:
    """Drop the reference: the next question loads it afresh."""
    _follower.reference = None


def _live_deployments() -> list[Deployment]:
    """Champion first. An installation that has no version yet gets the one it was shipped with."""
    rows = Deployment.objects.filter(ended_at__isnull=True).select_related("version", "view")
    live = sorted(rows, key=lambda row: row.arm != Deployment.Arm.CHAMPION)
    if live and live[0].arm == Deployment.Arm.CHAMPION:
        return live
    if live or not settings.DEFAULT_BUNDLE.exists():
        raise Unavailable("No model version is in use yet; it is being set up.")
    versions.default_version_ensure()
    return [versions.champion()]


def _ids(reference: GalleryReference) -> list[int]:
    return [arm.deployment_id for arm in reference.arms]


def _loaded(live: list[Deployment], before: GalleryReference | None, counter: int) -> GalleryReference:
    """A reference for these deployments; arms that stay are carried over, new ones are loaded and tried beside them."""
    kept = {arm.deployment_id: arm for arm in before.arms} if before else {}
    arms = []
    for row in live:
        arm = kept.get(row.pk)
        arms.append(
            _followed_arm(arm, before.sequence, counter) if arm and before else _arm_loaded(row, counter)
        )
    return GalleryReference(tuple(arms), counter)


def _followed(before: GalleryReference, counter: int) -> GalleryReference:
    return GalleryReference(
        tuple(_followed_arm(arm, before.sequence, counter) for arm in before.arms), counter
    )


def _arm_loaded(deployment: Deployment, counter: int) -> Arm:
    started = time.monotonic()
    version = deployment.version
    bundle = versions.bundle_of(version)
    loaded = snapshots.view_loaded(version)
    source = "rows" if loaded is None else "snapshot"
    view, sequence = loaded or view_rebuilt(version, engine=engine_for(version))
    arm = Arm(
        name=deployment.arm,
        deployment_id=deployment.pk,
        version=version,
        encoder=versions.encoder_of(version),
        view=view,
        calibrations=versions.calibrations_of(version, bundle),
        words=bundle.text_encoder(),
    )
    arm = _followed_arm(arm, sequence, counter)
    _prewarm(arm)
    seconds = time.monotonic() - started
    logger.info("%s %s loaded from %s: %d entries, %.2f s", arm.name, version, source, len(arm.view), seconds)
    snapshots.snapshot_job_ensure_if_due(version, entries=len(arm.view))
    return arm


def _followed_arm(arm: Arm, since: int, until: int) -> Arm:
    """`arm` at `until`; rebuilt from rows when the changes in between are not all there any more."""
    if since >= until:
        return arm
    view = view_followed(arm.view, arm.version, since=since, until=until)
    if view is None:
        view, _ = view_rebuilt(arm.version, engine=engine_for(arm.version))
    elif view.changed_rows > max(COMPACT_FROM_ROWS, COMPACT_SHARE * len(view)):
        view = view.compacted()
        snapshots.snapshot_job_ensure_if_due(arm.version, entries=len(view))
    return replace(arm, view=view)


def version_probe(version: ModelVersion) -> int:
    """Load `version` as it would serve and ask it one query; returns its entries. Raises what would go wrong then.

    A view that is long to build is left as a snapshot, from which every process has it at once.
    """
    bundle = versions.bundle_of(version)
    loaded = snapshots.view_loaded(version)
    view, _ = loaded or view_rebuilt(version, engine=engine_for(version))
    calibrations = versions.calibrations_of(version, bundle)
    encoder, words = versions.encoder_of(version), bundle.text_encoder()
    _prewarm(Arm(Deployment.Arm.CANDIDATE, 0, version, encoder, view, calibrations, words))
    if loaded is None and len(view) >= snapshots.WORTHWHILE_FROM:
        snapshots.snapshot_write(version)
    return len(view)


def _prewarm(arm: Arm) -> None:
    """One whole query, so that the first shopper does not pay for it and a broken arm fails before it serves."""
    grey = np.full((1, arm.encoder.input_size, arm.encoder.input_size, 3), 127, np.uint8)
    encoded = arm.encoder.encode(grey)
    vectors = QueryVectors(encoded.packed_codes[0], encoded.embeddings[0])
    search(arm.view, vectors, k=1, calibrations=arm.calibrations)
    if arm.words is not None:
        arm.words.encode(["grey"])


def _follow_for_ever() -> None:
    """The thread: keeps its own database connection, and outlives whatever goes wrong with it."""
    pause = 0.0
    try:
        while not _follower.stopping.wait(pause):
            close_old_connections()
            pause = _follow_quietly()
    finally:
        connection.close()


def _follow_quietly() -> float:
    """Follow once; returns how long to wait before the next time. On failure the old reference goes on answering."""
    try:
        follow_once()
    except Exception as error:  # noqa: BLE001  whatever it was, the thread must come back and try again
        logger.warning("the gallery could not be followed: %s", error)
        connection.close()
        return RETRY_SECONDS
    return float(settings.GALLERY_FOLLOW_SECONDS)


def _after_fork() -> None:
    """Locks and threads do not survive a fork; the child loads its own reference when first asked."""
    global _follower  # noqa: PLW0603
    _follower = _Follower()


os.register_at_fork(after_in_child=_after_fork)
