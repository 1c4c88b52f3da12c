"""What this process answers from: one immutable reference, replaced whole when the gallery or the pointer moved.

It has one arm, the champion, or a candidate beside it (services.arms), which answers the queries of its portion. A
follower thread reads the change counter and the live deployments every GALLERY_FOLLOW_SECONDS. Zero means that no
thread runs and whoever asks follows first: commands and tests.
"""

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db import close_old_connections, connection
from django.utils.crypto import salted_hmac

from searchapp.exceptions import Unavailable
from searchapp.models import Deployment
from searchapp.services import versions
from searchapp.services.announcing import announced
from searchapp.services.arms import UNDEPLOYED, Arm, arm_followed, arm_loaded, arm_opened
from searchapp.services.gallery_views import counter_value
from searchapp.services.search_options import SearchOptions

__all__ = [
    "Arm",
    "GalleryReference",
    "arm_for",
    "current",
    "divides_visitors",
    "follow_once",
    "forget",
    "prepare",
    "shadow_arm",
    "start_follower",
    "stop_follower",
    "visitor_hash",
]

RETRY_SECONDS = 2.0
CANDIDATE_RETRY_SECONDS = 30.0
VISITOR_HASH = 16  # letters

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GalleryReference:
    """Immutable; a request takes it once and keeps it. The champion comes first; a candidate second."""

    arms: tuple[Arm, ...]
    sequence: int

    @property
    def champion(self) -> Arm:
        return self.arms[0]

    @property
    def candidate(self) -> Arm | None:
        return self.arms[1] if len(self.arms) > 1 else None


class _Follower:
    """This process's reference and the thread that replaces it."""

    def __init__(self) -> None:
        self.reference: GalleryReference | None = None
        self.following = threading.Lock()
        self.starting = threading.Lock()
        self.thread: threading.Thread | None = None
        self.stopping = threading.Event()
        self.prepared: tuple[Arm, int] | None = None  # for a move that was announced, at that change
        self.resting: dict[int, float] = {}  # candidates that could not be loaded, and when to try again


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


def arm_for(visitor: str = "", options: SearchOptions | None = None) -> Arm:
    """The arm that answers a query of `visitor` with these filters, for the whole of one request.

    The same visitor meets the same arm as long as a canary runs; who is not known meets the champion.
    """
    reference = current()
    candidate = reference.candidate
    if candidate is not None and candidate.portion is not None and candidate.portion.takes(visitor, options):
        return candidate
    return reference.champion


def shadow_arm(options: SearchOptions | None = None) -> Arm | None:
    """The candidate that answers queries with these filters in the shadow, if there is one. Reads nothing."""
    candidate = _candidate_now()
    if candidate is None or candidate.portion is None or not candidate.portion.is_shadow:
        return None
    return candidate if candidate.portion.covers(options) else None


def divides_visitors() -> bool:
    """Whether a canary answers some visitors and not others, so that they have to be told apart. Reads nothing."""
    return _dividing() is not None


def visitor_hash(visitor: str, options: SearchOptions | None = None) -> str:
    """How the log of a trial that divides visitors tells this one apart; "" outside of it, and for nobody known.

    Keyed by the secret of the installation and by the deployment: of no use in another trial. Reads nothing.
    """
    candidate = _dividing()
    if not visitor or candidate is None or candidate.portion is None or not candidate.portion.covers(options):
        return ""
    salt = f"searchapp.visitor.{candidate.deployment_id}"
    return salted_hmac(salt, visitor, algorithm="sha256").hexdigest()[:VISITOR_HASH]


def _dividing() -> Arm | None:
    candidate = _candidate_now()
    if candidate is None or candidate.portion is None or not candidate.portion.divides_visitors:
        return None
    return candidate


def _candidate_now() -> Arm | None:
    return _follower.reference.candidate if _follower.reference is not None else None


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


def prepare() -> None:
    """Load what an announced move will put in use beside what serves, so that following it takes no time."""
    told = announced()
    if told is None:
        _follower.prepared = None
        return
    seen = [] if _follower.reference is None else [*_follower.reference.arms]
    if _follower.prepared is not None:
        seen.append(_follower.prepared[0])
    if told not in [(arm.version, arm.corrector_digest) for arm in seen]:
        _follower.prepared = arm_opened(*told)


def forget() -> None:
    """Drop the reference: the next question loads it afresh."""
    _follower.reference = _follower.prepared = None
    _follower.resting.clear()


def _live_deployments() -> list[Deployment]:
    """Champion first. An installation that has no version yet gets the one it was shipped with."""
    rows = Deployment.objects.filter(ended_at__isnull=True).select_related("version", "view", "previous")
    live = sorted(rows, key=lambda row: row.arm != Deployment.Arm.CHAMPION)
    if live and live[0].arm == Deployment.Arm.CHAMPION:
        return [row for row in live if _follower.resting.get(row.pk, 0.0) <= time.monotonic()]
    if live or not settings.DEFAULT_BUNDLE.exists():
        raise Unavailable("No model version is in use yet; it is being set up.")
    versions.default_version_ensure()
    return [versions.champion()]


def _ids(reference: GalleryReference) -> list[int]:
    return [arm.deployment_id for arm in reference.arms]


def _loaded(live: list[Deployment], before: GalleryReference | None, counter: int) -> GalleryReference:
    """A reference for these deployments; arms that stay are carried over, new ones are loaded and tried beside them."""
    known = [*(_followed(before, counter).arms if before else ()), *_prepared(counter)]
    kept = {arm.deployment_id: arm for arm in known if arm.deployment_id != UNDEPLOYED}
    arms = [kept.get(row.pk) or _arm_loaded(row, counter, known) for row in live]
    return GalleryReference(tuple(arm for arm in arms if arm is not None), counter)


def _arm_loaded(deployment: Deployment, counter: int, known: Sequence[Arm]) -> Arm | None:
    """None for a candidate that cannot be used: the champion answers alone until it is tried again."""
    try:
        return arm_loaded(deployment, counter, beside=known)
    except (ValueError, OSError):
        if deployment.arm == Deployment.Arm.CHAMPION:
            raise
        logger.exception("%s cannot be used; the champion answers alone", deployment)
        _follower.resting[deployment.pk] = time.monotonic() + CANDIDATE_RETRY_SECONDS
        return None


def _prepared(counter: int) -> list[Arm]:
    if _follower.prepared is None or _follower.prepared[1] > counter:
        return []
    arm, sequence = _follower.prepared
    return [arm_followed(arm, sequence, counter)]


def _followed(before: GalleryReference, counter: int) -> GalleryReference:
    return GalleryReference(
        tuple(arm_followed(arm, before.sequence, counter) for arm in before.arms), counter
    )


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
        prepare()
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
