"""`manage.py backfill`: encode photos that older encoders left by the version in use, worst first."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import InvalidInput, SearchAppError
from searchapp.management.arguments import WRONG_USAGE
from searchapp.management.following import job_followed
from searchapp.models import Job, JobState
from searchapp.services import backfilling


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Give photos that only an older encoder has seen an entry by the version in use; stop and go on any time."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--limit", type=int, metavar="N", help="photos at most")
        parser.add_argument("--order", default="error", help=", ".join(backfilling.ORDERS))
        parser.add_argument("--wait", action="store_true", help="run it here and wait, unless --queue")
        parser.add_argument("--queue", action="store_true", help="leave it to the workers and print the job")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            job = backfilling.backfill_start(user=None, limit=options["limit"], order=options["order"])
            if options["queue"]:
                self.stdout.write(json.dumps({"job": str(job.pk)}) if options["json"] else f"job {job.pk}")
                return
            encoded = 0
            while True:
                job = job_followed(job, "encode", self.stderr)
                if job.state != JobState.DONE:
                    raise CommandError(
                        f"the job is {job.state}: {job.error or job.message or 'no reason given'}"
                    )
                result = job.result or {}
                encoded += result["encoded"]
                if not result["continued_by"]:
                    break
                job = Job.objects.get(pk=result["continued_by"])
        except InvalidInput as error:
            raise CommandError(error.message, returncode=WRONG_USAGE) from error
        except SearchAppError as error:
            raise CommandError(error.message) from error
        result |= {"encoded": encoded}
        words = f"{encoded:,} encoded, {result['remaining']:,} left, {result['seconds']} s"
        self.stdout.write(json.dumps(result) if options["json"] else words)
