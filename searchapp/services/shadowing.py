"""The candidate in the shadow: asked the same again once the answer stands, its results kept beside and never shown.

One thread per process works off a short queue, so that no request waits for it and a burst costs memory for WAITING
questions at most; what finds no room is dropped and counted. Without followers (commands, tests) who wants the answers
calls work_off().

What is kept of a query (models.Query.shadow):

    {"deployment": 7, "version": "2.0", "skus": ["…"], "overlap": 0.8, "is_first_alike": true, "took_ms": 12.3}
    {"deployment": 7, "version": "2.0", "failed": "RuntimeError"}
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import close_old_connections, connection

from searchapp.exceptions import Unavailable
from searchapp.services import metrics, query_log
from searchapp.services.arms import Arm

WAITING = 8
DEPTH = 10  # how many first results are compared
IDLE_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Question:
    query_id: UUID
    shown: tuple[str, ...]
    arm: Arm
    ask: Callable[[Arm], Sequence[str]]


class _Queue:
    def __init__(self) -> None:
        self.waiting: deque[_Question] = deque()
        self.dropped = 0
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None


_queue = _Queue()


def offer(query_id: UUID, shown: Sequence[str], arm: Arm, ask: Callable[[Arm], Sequence[str]]) -> bool:
    """Have `ask` find the SKUs for a query in the candidate's arm, later; `shown` are those of the answer.

    False when too many wait already.
    """
    with _queue.changed:
        if len(_queue.waiting) >= WAITING:
            _dropped()
            return False
        _queue.waiting.append(_Question(query_id, tuple(shown), arm, ask))
        if settings.GALLERY_FOLLOW_SECONDS > 0:
            if _queue.thread is None or not _queue.thread.is_alive():
                _queue.thread = threading.Thread(target=_work, name="shadow", daemon=True)
                _queue.thread.start()
            _queue.changed.notify()
    return True


def work_off() -> int:
    """Ask all that waits, here and now; returns how many."""
    asked = 0
    while (question := _next()) is not None:
        _ask(question)
        asked += 1
    return asked


def dropped_count() -> int:
    """How many queries this process did not ask in the shadow because too many waited."""
    return _queue.dropped


def forget() -> None:
    """Drop what waits."""
    with _queue.changed:
        _queue.waiting.clear()


def agreement(shown: Sequence[str], found: Sequence[str]) -> dict[str, Any]:
    """The share of the first DEPTH results that are among both, and whether the first is the same."""
    ours, theirs = list(shown[:DEPTH]), list(found[:DEPTH])
    most = max(len(ours), len(theirs))
    overlap = len(set(ours) & set(theirs)) / most if most else 1.0
    return {"overlap": round(overlap, 4), "is_first_alike": ours[:1] == theirs[:1]}


def _next(wait: float = 0.0) -> _Question | None:
    """The oldest question; None when none came within `wait` seconds, and then the thread that waited is let go."""
    with _queue.changed:
        if _queue.changed.wait_for(lambda: _queue.waiting, wait):
            return _queue.waiting.popleft()
        if threading.current_thread() is _queue.thread:
            _queue.thread = None
        return None


def _ask(question: _Question) -> None:
    arm = question.arm
    said: dict[str, Any] = {"deployment": arm.deployment_id, "version": arm.version.name}
    started = time.perf_counter()
    try:
        skus = list(question.ask(arm))
    except Unavailable:  # too many searches at once: no fault of the candidate's
        _dropped()
        return
    except Exception as error:
        logger.exception("%s failed in the shadow", arm.version)
        query_log.shadow_record(question.query_id, {**said, "failed": type(error).__name__})
        metrics.shadow_observe("failed")
        return
    said |= {"took_ms": round(1000 * (time.perf_counter() - started), 3), "skus": skus}
    query_log.shadow_record(question.query_id, {**said, **agreement(question.shown, skus)})
    metrics.shadow_observe("answered")


def _dropped() -> None:
    _queue.dropped += 1
    metrics.shadow_observe("dropped")


def _work() -> None:
    """The thread: ends by itself when nothing was asked for a while; the next question starts another."""
    try:
        while (question := _next(wait=IDLE_SECONDS)) is not None:
            close_old_connections()
            _ask(question)
    finally:
        connection.close()


def _after_fork() -> None:
    """What waits is the parent's to ask; threads and locks do not survive a fork."""
    global _queue  # noqa: PLW0603
    _queue = _Queue()


os.register_at_fork(after_in_child=_after_fork)
