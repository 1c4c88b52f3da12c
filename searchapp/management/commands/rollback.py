"""`manage.py rollback`: undo the last deployment of any kind; the version before it serves again."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import SearchAppError
from searchapp.models import JobState
from searchapp.services import deploying
from searchapp.services.jobs import job_run_here


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = (
        "End a trial, else go back to the version before the one in use; asked again, to the one before that."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--deployment", type=int, metavar="ID", help="only if this one is still live")
        parser.add_argument("--wait", action="store_true", help="wait for its end, as it always does")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            asked = deploying.version_rollback(user=None, expected_deployment=options["deployment"])
            job = job_run_here(asked)
        except SearchAppError as error:
            raise CommandError(error.message) from error
        if job.state != JobState.DONE:
            raise CommandError(job.error or f"the job is {job.state}")
        result = job.result or {}
        again = "answers all queries" if "ended" in result else "is in use again"
        told = f"{result['serving']} {again}, {result['previous']} none"
        if result["photos_to_encode"]:
            told += f"; {result['photos_to_encode']:,} photos that came since are being encoded by it"
        self.stdout.write(json.dumps(result) if options["json"] else told)
