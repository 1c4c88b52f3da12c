"""`manage.py import_version PATH`: a version from outside, a zip or a folder, as a candidate."""

import json
from argparse import ArgumentParser, BooleanOptionalAction
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import SearchAppError
from searchapp.management.following import job_followed
from searchapp.models import JobState
from searchapp.services import version_intake


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Check a bundle from outside and register it as a candidate; what serves is not touched."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("path", type=Path, help="a bundle's folder, or a zip of it")
        parser.add_argument(
            "--wait", action=BooleanOptionalAction, default=True, help="--no-wait leaves it to a worker"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            job = version_intake.version_import_start(source=str(options["path"].absolute()), user=None)
            if options["wait"]:
                job = job_followed(job, "taking in the version", self.stderr)
        except SearchAppError as error:
            raise CommandError(error.message) from error
        if not options["wait"]:
            result = {"job": str(job.pk), "state": job.state, "words": f"job {job.pk} is {job.state}"}
        elif job.state == JobState.DONE:
            result = dict(job.result or {})
        else:
            raise CommandError(job.error or f"the job is {job.state}")
        self.stdout.write(json.dumps(result) if options["json"] else result["words"])
