"""`manage.py train_base`: a version from the catalogue's own photos, measured beside the one in use."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import InvalidInput, SearchAppError
from searchapp.management.arguments import WRONG_USAGE, config_read, result_of
from searchapp.management.following import job_followed
from searchapp.models import Job
from searchapp.services import base_training
from searchapp.services.jobs import job_run_here


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Train a base version from the catalogue. Run in the background unless --wait; it ends as a candidate."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--config", type=Path, help="JSON with the recipe values to change")
        parser.add_argument(
            "--label-fraction", type=float, default=1.0, help="share of the labels to learn from, up to 1"
        )
        parser.add_argument(
            "--architecture", default="parity", help=f"{' or '.join(base_training.ARCHITECTURES)}"
        )
        parser.add_argument(
            "--from-scratch", action="store_true", help="not from the weights of the version in use"
        )
        parser.add_argument("--promote", action="store_true", help="put it in use if its gate passes")
        parser.add_argument("--wait", action="store_true", help="train here, with a progress bar")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            job = base_training.base_training_start(
                user=None,
                config=config_read(options["config"]),
                label_fraction=options["label_fraction"],
                architecture=options["architecture"],
                from_scratch=options["from_scratch"],
                promote=options["promote"],
            )
            if not options["wait"]:
                waiting = {"job": str(job.pk), "state": job.state}
                self.stdout.write(json.dumps(waiting) if options["json"] else f"job {job.pk} is {job.state}")
                return
            result = result_of(job_followed(job, "training", self.stderr))
            if result["promotion_job"]:
                result["promotion"] = result_of(job_run_here(Job.objects.get(pk=result["promotion_job"])))
        except InvalidInput as error:
            raise CommandError(error.message, returncode=WRONG_USAGE) from error
        except SearchAppError as error:
            raise CommandError(error.message) from error
        self.stdout.write(json.dumps(result) if options["json"] else _in_words(result))


def _in_words(result: dict[str, Any]) -> str:
    own, other = result["metrics"], result["against"]
    seen = f"{result['photos']:,} photos of {result['categories']:,} categories"
    lines = [
        f"version {result['version']}: {seen}, {result['encoded']:,} encoded, {result['seconds']:,.0f} s"
    ]
    for name, words in (("map", "mean average precision"), ("recall_at_1", "right at first place")):
        if name in own and name in other["metrics"]:
            lines.append(f"{words}: {own[name]:.3f}, {other['version']} has {other['metrics'][name]:.3f}")
    lines += [f"gate {gate['name']}: {gate['verdict'].replace('_', ' ')}" for gate in result["gates"]]
    serving = result.get("promotion", {}).get("serving")
    lines.append(
        f"{serving} is in use" if serving else "it is a candidate; `manage.py promote` puts it in use"
    )
    return "\n".join(lines)
