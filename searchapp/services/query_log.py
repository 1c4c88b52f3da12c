"""What was asked, what people opened and what they said of the answers.

Queries, clicks and answers from the shadow are remembered in memory and written in batches, never in a request.
"""

import atexit
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import DatabaseError, InterfaceError, connection

from searchapp.exceptions import InvalidInput, NotFound
from searchapp.models import Click, Feedback, Item, Query
from searchapp.services import intake, query_drift
from searchapp.services.database_clock import database_now
from searchapp.services.media import no_space_as_error
from searchapp.services.search_answers import SearchAnswer

# About a megabyte. When the database is away longer than this lasts, the oldest go, and their number is told.
CAPACITY = 2000
BATCH = 200
FLUSH_SECONDS = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Shadow:
    query_id: UUID
    said: dict[str, Any]


Row = Query | Click | _Shadow


class _Buffer:
    """Rows not yet written, by key, oldest first; recording one twice keeps it once."""

    def __init__(self) -> None:
        self.rows: OrderedDict[Hashable, Row] = OrderedDict()
        self.dropped = 0
        self.lock = threading.Lock()
        self.flushing = threading.Lock()
        self.filled = threading.Event()
        self.thread: threading.Thread | None = None

    def put(self, key: Hashable, row: Row) -> None:
        with self.lock:
            self.rows[key] = row
            while len(self.rows) > CAPACITY:
                self.rows.popitem(last=False)
                self.dropped += 1
        self.filled.set()
        if settings.GALLERY_FOLLOW_SECONDS > 0:
            _flusher_start()

    def taken(self) -> dict[Hashable, Row]:
        """The oldest batch; it stays in the buffer until `written`."""
        with self.lock:
            self.filled.clear()
            return dict(islice(self.rows.items(), BATCH))

    def written(self, batch: Mapping[Hashable, Row]) -> None:
        with self.lock:
            for key in batch:
                self.rows.pop(key, None)


_buffer = _Buffer()


def query_record(answer: SearchAnswer, *, visitor_hash: str = "") -> None:
    """Remember a query for the log. Touches no database and never waits for one; every search calls it by itself.

    visitor_hash: serving.visitor_hash of who asked.
    """
    _buffer.put(
        answer.query_id,
        Query(
            id=answer.query_id,
            kind=answer.kind,
            text=answer.text[:300],
            filters=dict(answer.filters),
            version=answer.model_version,
            arm=answer.arm,
            deployment_id=answer.deployment_id,
            visitor_hash=visitor_hash,
            result_skus=[result.sku for result in answer.results],
            strong_count=answer.strong_count,
            took_ms=_rounded(answer.took_ms),
            asked_at=datetime.now(UTC),
        ),
    )


def failure_record(
    *,
    kind: str,
    text: str,
    filters: Mapping[str, Any],
    version: str,
    arm: str,
    deployment_id: int,
    took_ms: Mapping[str, float],
    visitor_hash: str = "",
) -> None:
    """Remember that an arm could not answer. Like query_record."""
    row = Query(
        id=uuid4(),
        kind=kind,
        text=text[:300],
        filters=dict(filters),
        version=version,
        arm=arm,
        deployment_id=deployment_id,
        visitor_hash=visitor_hash,
        is_failed=True,
        took_ms=_rounded(took_ms),
        asked_at=datetime.now(UTC),
    )
    _buffer.put(row.pk, row)


def shadow_record(query_id: UUID, shadow: Mapping[str, Any]) -> None:
    """Remember what the candidate in the shadow said to a query that was recorded before. Like query_record."""
    _buffer.put(("shadow", query_id), _Shadow(query_id, dict(shadow)))


def click_record(query_id: UUID, *, sku: str) -> None:
    """Remember that somebody opened a result; opened again, it is one click. Like query_record.

    An id that no query has is kept and counts for nothing.
    """
    _buffer.put((query_id, sku), Click(query_id=query_id, sku=sku[:120]))


def flush() -> int:
    """Write all that is remembered; returns how many. A batch that fails stays remembered, and the error is raised."""
    written = 0
    with _buffer.flushing:
        while batch := _buffer.taken():
            _write(list(batch.values()))
            _buffer.written(batch)
            written += len(batch)
        query_drift.sums_write()
    return written


def _write(rows: list[Row]) -> None:
    """Queries before what is said of them."""
    queries = [row for row in rows if isinstance(row, Query)]
    clicks = [row for row in rows if isinstance(row, Click)]
    if queries:
        Query.objects.bulk_create(queries, ignore_conflicts=True)
    if clicks:
        Click.objects.bulk_create(clicks, ignore_conflicts=True)
    for row in rows:
        if isinstance(row, _Shadow):
            Query.objects.filter(pk=row.query_id).update(shadow=row.said)


def _rounded(took_ms: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(took, 3) for stage, took in took_ms.items()}


def forget() -> None:
    """Drop what is remembered and not yet written."""
    with _buffer.lock:
        _buffer.rows.clear()


def dropped_count() -> int:
    """How many queries and clicks this process forgot because the buffer was full."""
    return _buffer.dropped


def feedback_record(
    query_id: UUID | str,
    *,
    sku: str,
    verdict: str | None,
    user: AbstractBaseUser | None = None,
    image: bytes | None = None,
) -> None:
    """Keep, change or (verdict None) take back what somebody said of one item in one answer.

    `image` is the query's picture, given only when the shopper agreed that it is kept; it is cleaned like every
    upload and deleted after QUERY_IMAGE_RETENTION_DAYS. Saying the same twice changes nothing.
    """
    query_id = _query_id(query_id)
    if "\x00" in sku:  # PostgreSQL refuses the very question
        raise NotFound(f"There is no item {sku[:120]!r}.", fields={"sku": "unknown"})
    if verdict is None:
        Feedback.objects.filter(query_id=query_id, sku=sku).delete()
        return
    if verdict not in Feedback.Verdict.values:
        message = f"{verdict!r:.40} is not a verdict; allowed: {', '.join(Feedback.Verdict.values)}."
        raise InvalidInput(message, fields={"verdict": message})
    if not Item.objects.filter(sku=sku).exists():
        raise NotFound(f"There is no item {sku[:120]!r}.", fields={"sku": "unknown"})
    values: dict[str, Any] = {"verdict": verdict}
    if user is not None and user.is_authenticated:
        values["user_id"] = user.pk
    if image is not None:
        values["image_sha256"] = _query_image_store(image)
    Feedback.objects.update_or_create(query_id=query_id, sku=sku, defaults=values)


def query_image_path(image_sha256: str) -> Path:
    """Where a kept query picture lies: outside MEDIA_ROOT, so no address leads to it."""
    return query_image_folder() / f"{image_sha256}.img"


def query_image_folder() -> Path:
    folder: Path = settings.DATA_DIR / "query_images"
    return folder


def query_images_expire() -> int:
    """Delete kept query pictures older than the retention, and any file that no feedback names. Returns how many."""
    oldest = database_now() - timedelta(days=settings.QUERY_IMAGE_RETENTION_DAYS)
    Feedback.objects.filter(created_at__lt=oldest).exclude(image_sha256="").update(image_sha256="")
    kept = set(Feedback.objects.exclude(image_sha256="").values_list("image_sha256", flat=True))
    removed = 0
    for path in query_image_folder().glob("*"):  # also the half of one whose writer was killed
        is_being_written = path.stat().st_mtime > datetime.now(UTC).timestamp() - 600
        if path.stem not in kept and not is_being_written:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _query_image_store(data: bytes) -> str:
    clean = intake.image_clean(data)
    target = query_image_path(clean.stored.image_sha256)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with no_space_as_error():
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            temporary.write_bytes(clean.data)
            temporary.chmod(0o600)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return clean.stored.image_sha256


def _query_id(value: UUID | str) -> UUID:
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except ValueError:
        raise NotFound(f"There is no query {value[:60]!r}.") from None


def _flusher_start() -> None:
    if _buffer.thread is not None and _buffer.thread.is_alive():
        return
    with _buffer.lock:
        if _buffer.thread is None or not _buffer.thread.is_alive():
            _buffer.thread = threading.Thread(target=_flush_for_ever, name="query-log", daemon=True)
            _buffer.thread.start()


def _flush_for_ever() -> None:
    """The thread: waits for queries, lets more gather for a moment, writes them; outlives a database that is away."""
    pause = threading.Event()
    while True:
        _buffer.filled.wait()
        pause.wait(FLUSH_SECONDS)
        _flush_quietly()
        connection.close()


def _flush_quietly() -> None:
    try:
        flush()
    except (DatabaseError, InterfaceError) as error:
        logger.warning("the query log waits: %s (%d forgotten so far)", error, _buffer.dropped)
        _buffer.filled.set()


def _flush_at_exit() -> None:
    if _buffer.rows and settings.GALLERY_FOLLOW_SECONDS > 0:
        _flush_quietly()


def _after_fork() -> None:
    """The parent writes what it remembered; the child starts with nothing."""
    global _buffer  # noqa: PLW0603
    _buffer = _Buffer()


atexit.register(_flush_at_exit)
os.register_at_fork(after_in_child=_after_fork)
