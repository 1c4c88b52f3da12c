"""Tell the operators: by e-mail and by a POST to their webhook, as the settings say, each a job of its own.

A job, so that neither a request nor the sweeper waits for a mail server, and so that what did not arrive is tried again
and can be seen. It is delivered at least once. The webhook gets {"subject", "text", "at", …details} as JSON. Only
http(s) is spoken, no redirect is followed and the answer is not read: operators choose the address, but not what a
stranger's server makes of it.
"""

import json
import smtplib
from collections.abc import Mapping
from datetime import timedelta
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from django.core.mail import EmailMessage
from django.db import transaction

from searchapp.exceptions import Conflict, Unavailable
from searchapp.models import Job, JobState
from searchapp.services.database_clock import database_now
from searchapp.services.jobs import JobRun, job_create, job_retry
from searchapp.services.operator_settings import setting_value, setting_values

KIND = "send_alert"
EMAIL, WEBHOOK = "email", "webhook"
WAYS = {EMAIL: "watch.email", WEBHOOK: "watch.webhook"}
SECONDS = 5.0  # a webhook may take so long
PAUSE = timedelta(minutes=10)  # before an alert that did not arrive is tried again
GIVEN_UP = timedelta(days=1)


def alert(*, subject: str, text: str, details: Mapping[str, Any]) -> list[Job]:
    """A job for each way that is set, in the caller's transaction if there is one; none when nobody wants to know."""
    chosen = setting_values()
    at = database_now().isoformat(timespec="seconds")
    message = {"subject": subject, "text": text, "at": at, **details}
    return [
        job_create(kind=KIND, payload={"way": way, "message": message}, subject=f"Tell: {subject}")
        for way, setting in WAYS.items()
        if chosen[setting]
    ]


def alert_run(run: JobRun) -> dict[str, Any]:
    """Handler of "send_alert": to the address that is set now. Raises Unavailable, which is tried again, when it did
    not arrive."""
    way, message = run.payload["way"], run.payload["message"]
    address = setting_value(WAYS[way])
    run.progress(0, 1, f"sending by {way}")
    if not address:
        return {"way": way, "sent": False}
    if way == EMAIL:
        _mail(address, message)
    else:
        _post(address, message)
    return {"way": way, "sent": True}


@transaction.atomic
def alerts_retry() -> list[Job]:
    """Try again what failed a while ago and less than a day ago; for the sweeper."""
    now = database_now()
    failed = Job.objects.filter(
        kind=KIND,
        state=JobState.FAILED,
        retries__isnull=True,
        finished_at__lt=now - PAUSE,
        created_at__gt=now - GIVEN_UP,
    )
    oldest = (now - GIVEN_UP).isoformat(timespec="seconds")
    return [job_retry(job) for job in failed.order_by("created_at") if job.payload["message"]["at"] > oldest]


def _mail(to: str, message: Mapping[str, Any]) -> None:
    mail = EmailMessage(f"[Perennial] {message['subject']}", message["text"], to=[to])
    try:
        mail.send()
    except (OSError, smtplib.SMTPException) as error:
        raise Unavailable(f"The mail server did not take the message: {error}") from error


def _post(address: str, message: Mapping[str, Any]) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Conflict(f"The webhook's address begins with {parts.scheme!r}; http and https are allowed.")
    connection_of = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection = connection_of(parts.hostname, parts.port, timeout=SECONDS)
        try:
            headers = {"Content-Type": "application/json", "User-Agent": "Perennial"}
            connection.request("POST", path, json.dumps(message).encode(), headers)
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(f"The webhook at {parts.hostname} does not answer: {error}") from error
    if not 200 <= status < 300:
        raise Unavailable(f"The webhook at {parts.hostname} answered {status}; 2xx was expected.")
