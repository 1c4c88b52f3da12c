"""`manage.py promote VERSION`: put a version in use, or give it a part of the queries, when its gates pass."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import InvalidInput, SearchAppError
from searchapp.management.arguments import WRONG_USAGE, scope_read
from searchapp.models import JobState
from searchapp.services import deploying, versions
from searchapp.services.jobs import job_run_here


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Move the pointer to a version; every process follows within two seconds."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("version_name", metavar="VERSION", help="such as 2.0")
        parser.add_argument("--override", metavar="REASON", default="", help="although a gate did not pass")
        parser.add_argument(
            "--share",
            type=int,
            default=deploying.WHOLE,
            metavar="PERCENT",
            help="a canary: this part of the visitors",
        )
        parser.add_argument(
            "--scope", default="", metavar="KIND=NAME", help="a canary: queries in category=… or vertical=…"
        )
        parser.add_argument(
            "--shadow", action="store_true", help="asked beside the version in use, never shown"
        )
        parser.add_argument("--note", default="", help="what users are told of the change")
        parser.add_argument("--wait", action="store_true", help="wait for its end, as it always does")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            version = versions.version_named(options["version_name"])
            job = deploying.version_promote(
                version=version,
                user=None,
                override_reason=options["override"],
                share=options["share"],
                scope=scope_read(options["scope"]),
                shadow=options["shadow"],
                change_note=options["note"],
            )
            job = job_run_here(job)
        except InvalidInput as error:
            raise CommandError(error.message, returncode=WRONG_USAGE) from error
        except SearchAppError as error:
            raise CommandError(error.message) from error
        if job.state != JobState.DONE:
            raise CommandError(job.error or f"the job is {job.state}")
        result = job.result or {}
        self.stdout.write(json.dumps(result) if options["json"] else _told(result))


def _told(result: dict[str, Any]) -> str:
    if "candidate" not in result:
        return f"{result['serving']} is in use, before it {result['previous']}"
    if result["shadow"]:
        return f"{result['candidate']} answers in the shadow of {result['serving']}"
    where = "".join(f" in {kind} {name}" for kind, name in result["scope"].items())
    return f"{result['candidate']} answers {result['share']} % of the queries{where}, {result['serving']} the others"
