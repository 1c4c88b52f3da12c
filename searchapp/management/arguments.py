"""What several commands read from their arguments, and how they end."""

import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from searchapp.exceptions import InvalidInput
from searchapp.models import Job, JobState

WRONG_USAGE = 2  # the exit status


def config_read(path: Path | None) -> dict[str, Any]:
    """The object in a JSON file, empty without one. Raises InvalidInput when it holds no such thing."""
    if path is None:
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"config: {path} cannot be read: {error}", fields={"config": str(error)}
        ) from error
    if not isinstance(values, dict):
        raise InvalidInput(
            f"config: {path} holds a {type(values).__name__}, allowed: an object",
            fields={"config": "allowed: an object"},
        )
    return values


def scope_read(text: str) -> dict[str, str]:
    """`category=fruit` as a scope. Raises InvalidInput when there is no such pair."""
    kind, separator, name = text.partition("=")
    if text and not (separator and name):
        raise InvalidInput(f"scope is {text!r:.60}, allowed: category=… or vertical=…")
    return {kind.strip(): name.strip()} if text else {}


def result_of(job: Job) -> dict[str, Any]:
    """Of a job that is done. Raises CommandError, with the reason, for one that ended otherwise."""
    if job.state != JobState.DONE:
        raise CommandError(f"the job is {job.state}: {job.error or job.message or 'no reason given'}")
    return dict(job.result or {})
