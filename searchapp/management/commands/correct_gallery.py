"""`manage.py correct_gallery`: see stored embeddings of older encoders as the version in use would have made them."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import InvalidInput, SearchAppError
from searchapp.management.arguments import WRONG_USAGE
from searchapp.management.following import job_followed
from searchapp.models import JobState
from searchapp.services import correcting, versions


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = (
        "Fit a correction from a sample of photos, judge it, and put it in use if it passes; no row changes."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--fit-items", type=int, metavar="N", help="photos to encode anew for it")
        parser.add_argument(
            "--model-version",
            metavar="M.m",
            default="",
            help="for this candidate, whose promotion it then serves",
        )
        parser.add_argument("--override", metavar="REASON", default="", help="although its gate did not pass")
        parser.add_argument("--wait", action="store_true", help="run it here and wait, unless --queue")
        parser.add_argument("--queue", action="store_true", help="leave it to the workers and print the job")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        named = options["model_version"]
        try:
            job = correcting.correction_start(
                user=None,
                fit_items=options["fit_items"],
                version=versions.version_named(named) if named else None,
                override_reason=options["override"],
            )
            if options["queue"]:
                self.stdout.write(json.dumps({"job": str(job.pk)}) if options["json"] else f"job {job.pk}")
                return
            job = job_followed(job, "correct", self.stderr)
        except InvalidInput as error:
            raise CommandError(error.message, returncode=WRONG_USAGE) from error
        except SearchAppError as error:
            raise CommandError(error.message) from error
        if job.state != JobState.DONE:
            raise CommandError(job.error or f"the job is {job.state}")
        result = job.result or {}
        if options["json"]:
            self.stdout.write(json.dumps(result))
        if result["view"] is None:
            raise CommandError(result["reason"])
        if not options["json"]:
            self.stdout.write(
                f"corrected for {result['version']} from {result['fitted_on']:,} photos in {result['seconds']} s; "
                f"{'it is in use' if result['switched'] else 'its promotion will use it'}"
            )
