"""`manage.py evaluate VERSION`: the verdict on a version beside the one in use: matrix, gates, flips, categories."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import InvalidInput, SearchAppError
from searchapp.management.arguments import WRONG_USAGE
from searchapp.management.following import job_followed
from searchapp.models import JobState, Verdict
from searchapp.services import evaluating, versions
from searchapp.services.verdicts import report_of


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Judge a version on held-out photos, beside the version in use."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("version_name", metavar="VERSION", help="such as 2.0")
        parser.add_argument("--against", metavar="VERSION", default="", help="beside this one instead")
        parser.add_argument(
            "--set", metavar="NAME", default="", help="the queries of this evaluation set alone"
        )
        parser.add_argument("--wait", action="store_true", help="judge here and wait, unless --queue")
        parser.add_argument("--queue", action="store_true", help="leave it to the workers and print the job")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            against = versions.version_named(options["against"]) if options["against"] else None
            job = evaluating.evaluation_start(
                version=versions.version_named(options["version_name"]),
                against=against,
                user=None,
                set_name=options["set"],
            )
        except InvalidInput as error:
            raise CommandError(error.message, returncode=WRONG_USAGE) from error
        except SearchAppError as error:
            raise CommandError(error.message) from error
        if options["queue"]:
            waiting = {"job": str(job.pk), "state": job.state}
            self.stdout.write(json.dumps(waiting) if options["json"] else f"job {job.pk} is {job.state}")
            return
        job = job_followed(job, "judging", self.stderr)
        if job.state != JobState.DONE or job.result is None:
            raise CommandError(f"the job is {job.state}: {job.error or job.message or 'no reason given'}")
        report = report_of(Verdict.objects.get(pk=job.result["verdict"]))
        self.stdout.write(json.dumps(report) if options["json"] else _in_words(report))


def _in_words(report: dict[str, Any]) -> str:
    lines = [
        (
            f"{report['version']} beside {report['against']}, {report['queries']:,} held-out photos, "
            f"{report['gallery']['entries']:,} entries"
        )
    ]
    for row in report["matrix"]:
        state = row["gallery_state"].replace("_", " ")
        told = f"queries of {row['query_version']}, gallery {state}: "
        lines.append(
            f"{told}{row['map']:.3f} ({row['map_low']:.3f} to {row['map_high']:.3f})"
            if row["n"]
            else f"{told}nothing to find"
        )
    flips = report["flips"]
    lines.append(f"{flips['negative']} answers turned wrong, {flips['positive']} turned right")
    lines += [f"gate {gate['name']}: {gate['verdict'].replace('_', ' ')}" for gate in report["gates"]]
    return "\n".join(lines)
