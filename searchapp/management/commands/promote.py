"""`manage.py promote VERSION`: put a version in use, when all its photos have entries and its gate passes."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import InvalidInput, SearchAppError
from searchapp.models import JobState
from searchapp.services import deploying, versions
from searchapp.services.jobs import job_run_here

WRONG_USAGE = 2


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Move the pointer to a version; every process follows within two seconds."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("version_name", metavar="VERSION", help="such as 2.0")
        parser.add_argument("--override", metavar="REASON", default="", help="although a gate did not pass")
        parser.add_argument("--share", type=int, default=deploying.WHOLE, metavar="PERCENT")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            version = versions.version_named(options["version_name"])
            job = deploying.version_promote(
                version=version, user=None, override_reason=options["override"], share=options["share"]
            )
            job = job_run_here(job)
        except InvalidInput as error:
            raise CommandError(error.message, returncode=WRONG_USAGE) from error
        except SearchAppError as error:
            raise CommandError(error.message) from error
        if job.state != JobState.DONE:
            raise CommandError(job.error or f"the job is {job.state}")
        result = job.result or {}
        told = (
            json.dumps(result)
            if options["json"]
            else f"{result['serving']} is in use, before it {result['previous']}"
        )
        self.stdout.write(told)
