"""The relay publishes every committed message, into a real broker folder, each one once in normal times."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from kombu.exceptions import OperationalError as BrokerError

from searchapp.celery import app
from searchapp.enqueue import enqueue
from searchapp.models import Job, OutboxMessage
from searchapp.services import jobs, outbox

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Path]:
    """A filesystem broker of the test's own: the folder its messages lie in."""
    folder = tmp_path / "messages"
    folder.mkdir()
    with broker_in(folder):
        yield folder


@contextmanager
def broker_in(folder: Path) -> Iterator[None]:
    before = app.conf.broker_transport_options
    control = str(folder.with_name("control"))
    places = {"data_folder_in": str(folder), "data_folder_out": str(folder), "control_folder": control}
    app.conf.broker_transport_options = places
    forget_connections()
    yield
    app.conf.broker_transport_options = before
    forget_connections()


def forget_connections() -> None:
    """Celery keeps those made with other options."""
    reset: Callable[[], None] = app._after_fork  # type: ignore[attr-defined]
    reset()


def sent(folder: Path) -> list[tuple[str, str]]:
    """(queue, job id) of every message in the broker, in the order published."""
    messages = [
        json.loads(path.read_text())
        for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    ]
    return [
        (message["properties"]["delivery_info"]["routing_key"], message["headers"]["kwargsrepr"])
        for message in messages
    ]


def make(count: int) -> list[str]:
    return [str(jobs.job_create(kind="encode_images", payload={"n": n}).pk) for n in range(count)]


def test_messages_leave_in_order_with_the_job_id_alone_and_only_once(broker: Path) -> None:
    ids = make(3)
    assert outbox.relay_once() == 3
    assert outbox.relay_once() == 0
    assert sent(broker) == [("default", f"{{'job_id': '{job_id}'}}") for job_id in ids]
    assert not OutboxMessage.objects.filter(published_at__isnull=True).exists()


def test_a_training_job_goes_to_the_training_queue(broker: Path) -> None:
    job = Job.objects.create(kind="encode_images", queue=Job.Queue.TRAINING)
    with transaction.atomic():
        enqueue(job)
    outbox.relay_once()
    assert [queue for queue, _ in sent(broker)] == ["training"]


def test_enqueue_outside_a_transaction_is_refused() -> None:
    job = Job.objects.create(kind="encode_images")
    with pytest.raises(RuntimeError, match="outside a transaction"):
        enqueue(job)
    assert not OutboxMessage.objects.exists()


def test_a_broker_that_is_away_leaves_the_messages_for_the_next_pass(
    broker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(3)
    real, calls = app.send_task, []

    def refuse_the_second(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise BrokerError("connection refused")
        return real(*args, **kwargs)

    monkeypatch.setattr(app, "send_task", refuse_the_second)
    assert outbox.relay_once() == 1
    assert OutboxMessage.objects.filter(published_at__isnull=True).count() == 2
    assert outbox.relay_once() == 2
    assert len(sent(broker)) == 3


def test_a_batch_is_limited_and_relay_all_takes_the_rest(broker: Path) -> None:
    make(5)
    assert outbox.relay_once(limit=2) == 2
    assert outbox.relay_all() == 3
    assert len(sent(broker)) == 5


def test_two_relays_at_once_publish_each_message_once(broker: Path) -> None:
    make(60)
    barrier = threading.Barrier(3)
    counts: list[int] = []

    def relay() -> None:
        try:
            barrier.wait()
            counts.extend(outbox.relay_once(limit=5) for _ in range(20))
        finally:
            connection.close()

    threads = [threading.Thread(target=relay) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(counts) == 60
    messages = sent(broker)
    assert len(messages) == 60
    assert len(set(messages)) == 60


def test_a_message_of_an_open_transaction_is_not_published(broker: Path) -> None:
    """Another connection sees nothing before the commit; on SQLite it does not even wait."""
    seen: list[int] = []

    def relay() -> None:
        try:
            seen.append(outbox.relay_once())
        finally:
            connection.close()

    with transaction.atomic():
        make(1)
        thread = threading.Thread(target=relay)
        thread.start()
        thread.join()
    assert seen == [0]
    assert sent(broker) == []
    assert outbox.relay_once() == 1


def test_one_pass_by_command_publishes_what_waits(broker: Path) -> None:
    make(2)
    call_command("sweep", "--once")
    assert len(sent(broker)) == 2


def test_the_health_check_names_the_part_that_does_not_answer(broker: Path) -> None:
    call_command("sweep", "--check")
    before = app.conf["broker_url"]
    app.conf["broker_url"] = "redis://127.0.0.1:1/0"
    forget_connections()
    try:
        with pytest.raises(CommandError, match="the broker does not answer"):
            call_command("sweep", "--check")
    finally:
        app.conf["broker_url"] = before
        forget_connections()
