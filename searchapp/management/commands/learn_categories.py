"""`manage.py learn_categories`: categories that came to a gallery in use are learned, and no stored code changes."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import InvalidInput, SearchAppError
from searchapp.management.arguments import WRONG_USAGE
from searchapp.management.following import job_followed
from searchapp.models import JobState
from searchapp.services import learning


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Learn the categories that wait for it. Run in the background unless --wait."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--category", action="append", default=[], metavar="SLUG", help="this one; may be given again"
        )
        parser.add_argument("--wait", action="store_true", help="learn here, with a progress bar")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            job = learning.learn_start(user=None, categories=options["category"])
        except InvalidInput as error:
            raise CommandError(error.message, returncode=WRONG_USAGE) from error
        except SearchAppError as error:
            raise CommandError(error.message) from error
        if not options["wait"]:
            waiting = {"job": str(job.pk), "state": job.state}
            self.stdout.write(json.dumps(waiting) if options["json"] else f"job {job.pk} is {job.state}")
            return
        job = job_followed(job, "learning", self.stderr)
        if job.state != JobState.DONE:
            raise CommandError(f"the job is {job.state}: {job.error or job.message or 'no reason given'}")
        result = dict(job.result or {})
        self.stdout.write(json.dumps(result) if options["json"] else _in_words(result))


def _in_words(result: dict[str, Any]) -> str:
    if not result["categories"]:
        return "nothing was left to learn: another job was first"
    learned, seconds = ", ".join(result["categories"]), f"{result['seconds']:,.0f} s"
    training, photos = f"{result['training_seconds']:,.1f} of them training", f"{result['photos']:,} photos"
    checked, changed = result["old_codes_checked"], result["old_codes_changed"]
    digests = f"{result['old_digest_before'][:12]} = {result['old_digest_after'][:12]}"
    lines = [
        f"version {result['version']} is in use: learned {learned} from {photos} in {seconds}, {training}",
        f"{checked:,} old codes checked, {changed:,} changed: {digests}",
    ]
    for which in ("old", "new"):
        before, after = result[f"{which}_query_map_before"], result[f"{which}_query_map_after"]
        if before is not None and after is not None:
            lines.append(f"mean average precision of {which} queries: {before:.3f} before, {after:.3f} now")
    return "\n".join(
        lines + [f"gate {gate['name']}: {gate['verdict'].replace('_', ' ')}" for gate in result["gates"]]
    )
