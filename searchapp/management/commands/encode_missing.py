"""`manage.py encode_missing`: photos without an entry get one, by the live version."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from searchapp.exceptions import SearchAppError
from searchapp.models import JobState
from searchapp.services import encoding, versions
from searchapp.services.jobs import job_run_here


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Encode every photo that has no entry yet; failures name the photo and the reason."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--wait", action="store_true", help="run it here and wait (it always does, unless --queue)"
        )
        parser.add_argument(
            "--model-version", metavar="M.m", default="",
            help="by this version, for its own gallery, instead of the one in use",
        )  # fmt: skip
        parser.add_argument("--queue", action="store_true", help="leave it to the workers and print the job")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            named = options["model_version"]
            version = versions.version_named(named) if named else None
            job = encoding.encode_job_ensure(version=version)
            if options["queue"]:
                self.stdout.write(json.dumps({"job": str(job.pk)}) if options["json"] else f"job {job.pk}")
                return
            with tqdm(unit="photo", disable=options["json"], file=self.stderr._out) as bar:  # noqa: SLF001

                def show(done: int, total: int, _: str) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                job = job_run_here(job, on_progress=show)
        except SearchAppError as error:
            raise CommandError(error.message) from error
        if job.state != JobState.DONE:
            raise CommandError(f"the job is {job.state}: {job.error or job.message or 'no reason given'}")
        result = job.result or {}
        if options["json"]:
            self.stdout.write(json.dumps(result))
        else:
            self.stdout.write(
                f"{result['encoded']} encoded, {result['failed']} failed, {result['seconds']} s"
            )
