"""Alerts arrive by mail and at a real HTTP server; what does not arrive is tried again and stops nobody."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone

from searchapp.models import Job, JobState
from searchapp.services import alerting
from searchapp.services.jobs import job_run
from searchapp.services.operator_settings import setting_change

pytestmark = [pytest.mark.django_db, pytest.mark.database]


class _Hook(BaseHTTPRequestHandler):
    status = 204
    got: list[tuple[str, dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, json.loads(body)))
        self.send_response(self.status)
        if self.status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.got.append((self.path, {}))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[HTTPServer]:
    _Hook.got, _Hook.status = [], 204
    server = HTTPServer(("127.0.0.1", 0), _Hook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def choose(name: str, value: str) -> None:
    setting_change(name=name, value=value, user=None)


def told() -> list[Job]:
    return alerting.alert(subject="2.0 fell", text="It was 0.5.", details={"event": "x", "version": "2.0"})


def run_until_finished(job: Job) -> Job:
    while not job.is_finished:
        assert job_run(job.pk, "the test")
        job.refresh_from_db()
    return job


def test_nobody_is_told_who_did_not_ask() -> None:
    assert told() == []


def test_a_mail_says_what_happened() -> None:
    choose("watch.email", "ops@example.org")

    (job,) = told()

    assert run_until_finished(job).result == {"way": "email", "sent": True}
    (sent,) = mail.outbox
    assert (sent.subject, sent.body, sent.to) == ("[Perennial] 2.0 fell", "It was 0.5.", ["ops@example.org"])


def test_the_webhook_gets_it_as_json_and_no_address_is_kept_in_the_job(hook: HTTPServer) -> None:
    choose("watch.webhook", f"http://127.0.0.1:{hook.server_port}/hooks/secret?token=1")

    (job,) = told()

    assert run_until_finished(job).state == JobState.DONE
    ((path, message),) = _Hook.got
    assert path == "/hooks/secret?token=1"
    assert message.pop("at")
    assert message == {"subject": "2.0 fell", "text": "It was 0.5.", "event": "x", "version": "2.0"}
    assert "secret" not in json.dumps([job.payload, job.subject, job.result])


def test_each_way_is_a_job_of_its_own(hook: HTTPServer) -> None:
    choose("watch.email", "ops@example.org")
    choose("watch.webhook", f"http://127.0.0.1:{hook.server_port}/")

    assert [job.payload["way"] for job in told()] == ["email", "webhook"]


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_redirect_is_not_followed_and_counts_as_not_arrived(hook: HTTPServer, status: int) -> None:
    _Hook.status = status
    choose("watch.webhook", f"http://127.0.0.1:{hook.server_port}/")

    (job,) = told()
    run_until_finished(job)

    assert job.state == JobState.FAILED
    assert job.error == f"The webhook at 127.0.0.1 answered {status}; 2xx was expected. (Unavailable)"
    assert [path for path, _ in _Hook.got] == ["/"] * job.max_attempts


def test_what_did_not_arrive_is_tried_again_after_a_while_for_a_day(
    hook: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose("watch.webhook", "http://127.0.0.1:9/")  # nobody listens there
    (job,) = told()
    run_until_finished(job)
    assert job.state == JobState.FAILED
    assert "does not answer" in job.error
    assert alerting.alerts_retry() == []  # too soon

    Job.objects.filter(pk=job.pk).update(finished_at=timezone.now() - timedelta(minutes=11))
    (again,) = alerting.alerts_retry()
    assert alerting.alerts_retry() == []  # once
    choose("watch.webhook", f"http://127.0.0.1:{hook.server_port}/")

    assert run_until_finished(again).state == JobState.DONE
    assert [path for path, _ in _Hook.got] == ["/"]


def test_an_alert_older_than_a_day_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    choose("watch.webhook", "http://127.0.0.1:9/")
    (job,) = told()
    run_until_finished(job)
    job.payload["message"]["at"] = (timezone.now() - timedelta(hours=25)).isoformat(timespec="seconds")
    Job.objects.filter(pk=job.pk).update(
        payload=job.payload, finished_at=timezone.now() - timedelta(minutes=11)
    )

    assert alerting.alerts_retry() == []


def test_who_no_longer_wants_to_know_is_not_told() -> None:
    choose("watch.email", "ops@example.org")
    (job,) = told()
    choose("watch.email", "")

    assert run_until_finished(job).result == {"way": "email", "sent": False}
    assert mail.outbox == []
