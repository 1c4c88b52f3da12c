"""The relay: the only place that publishes. A message leaves at least once, after its job has committed."""

import logging

from django.db import DatabaseError, connection, transaction
from kombu.exceptions import OperationalError as BrokerError

from searchapp.celery import app
from searchapp.failpoints import failpoint
from searchapp.models import OutboxMessage
from searchapp.services.database_clock import DatabaseNow

BATCH = 50  # the rows stay locked while a batch is published

logger = logging.getLogger(__name__)


def relay_once(*, limit: int = BATCH) -> int:
    """Publish waiting messages, oldest first; returns how many left.

    Two relays at once share the work: on PostgreSQL each skips the rows that the other holds, on SQLite the
    second waits for the first and finds its rows published. What a dead broker refuses stays for the next.
    """
    waiting = OutboxMessage.objects.filter(published_at__isnull=True).order_by("id")
    if not waiting.exists():  # no write lock for the usual answer
        return 0
    with transaction.atomic():
        can_skip = connection.features.has_select_for_update_skip_locked
        messages = list(waiting.select_for_update(skip_locked=can_skip)[:limit])
        published = _publish(messages)
        OutboxMessage.objects.filter(pk__in=published).update(published_at=DatabaseNow())
    return len(published)


def relay_all() -> int:
    """Publish until nothing waits or the broker refuses."""
    total = 0
    while published := relay_once():
        total += published
    return total


def problem() -> str:
    """Why no message can leave now; empty when database and broker answer."""
    try:
        OutboxMessage.objects.exists()
    except DatabaseError as error:
        return f"the database does not answer: {error}"
    try:
        with app.connection_for_write(connect_timeout=5) as broker:
            broker.ensure_connection(max_retries=1, timeout=5)
    except (BrokerError, OSError) as error:
        return f"the broker does not answer: {error}"
    return ""


def _publish(messages: list[OutboxMessage]) -> list[int]:
    published: list[int] = []
    for message in messages:
        failpoint("outbox.before_publish")
        try:
            app.send_task(
                message.task_name, kwargs={"job_id": str(message.job_id)}, queue=message.queue, retry=False
            )
        except (BrokerError, OSError) as error:
            waiting = len(messages) - len(published)
            logger.warning("the broker takes no messages (%s); %d wait for it", error, waiting)
            break
        published.append(message.pk)
    return published
