"""`manage.py train_candidate`: a better encoder that finds what is stored already, judged beside the one in use."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import InvalidInput, SearchAppError
from searchapp.management.arguments import WRONG_USAGE, config_read, result_of, scope_read
from searchapp.management.following import job_followed
from searchapp.services import candidate_training
from searchapp.services.base_training import ARCHITECTURES


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Train a candidate from the catalogue. Run in the background unless --wait; nothing is put in use."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--method", required=True, choices=candidate_training.METHODS)
        parser.add_argument("--architecture", default="budget", choices=ARCHITECTURES)
        parser.add_argument("--config", type=Path, help="JSON with the recipe values to change")
        parser.add_argument("--epochs", type=int, help="how long; as the catalogue needs when not given")
        parser.add_argument("--scope", default="", help="category=SLUG or vertical=NAME: their photos alone")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument(
            "--no-pilot", action="store_true", help="no short training first to see what to expect"
        )
        parser.add_argument("--wait", action="store_true", help="train here, with a progress bar")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            job = candidate_training.candidate_start(
                user=None,
                method=options["method"],
                architecture=options["architecture"],
                config=config_read(options["config"]),
                epochs=options["epochs"],
                scope=scope_read(options["scope"]),
                seed=options["seed"],
                pilot=not options["no_pilot"],
            )
            if not options["wait"]:
                waiting = {"job": str(job.pk), "state": job.state}
                self.stdout.write(json.dumps(waiting) if options["json"] else f"job {job.pk} is {job.state}")
                return
            result = result_of(job_followed(job, "training", self.stderr))
        except InvalidInput as error:
            raise CommandError(error.message, returncode=WRONG_USAGE) from error
        except SearchAppError as error:
            raise CommandError(error.message) from error
        self.stdout.write(json.dumps(result) if options["json"] else _in_words(result))


def _in_words(result: dict[str, Any]) -> str:
    seen = f"{result['photos']:,} photos of {result['categories']:,} categories"
    lines = [f"version {result['version']}: {seen}, {result['seconds']:,.0f} s"]
    lines += [result["pilot"]["words"]] if result.get("pilot") else []
    if "map" in result["metrics"]:
        lines.append(f"mean average precision {result['metrics']['map']:.3f}")
    lines += [f"gate {gate['name']}: {gate['verdict'].replace('_', ' ')}" for gate in result["gates"]]
    return "\n".join([*lines, "it is a candidate; `manage.py promote` puts it in use"])
