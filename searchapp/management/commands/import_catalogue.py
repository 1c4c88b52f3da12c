"""`manage.py import_catalogue PATH`: a CSV, class folders, a data pack, or a zip of one, into the
catalogue."""

import json
from argparse import ArgumentParser, BooleanOptionalAction
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from searchapp.exceptions import InvalidInput, SearchAppError
from searchapp.management.arguments import WRONG_USAGE
from searchapp.models import JobState
from searchapp.services import importing
from searchapp.services.import_sources.detection import ITEM_RULES
from searchapp.services.jobs import job_run_here

SHOWN_ERRORS = 20


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Import a catalogue. Run it again and nothing changes; stop it and it goes on where it was."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "path", help="a .csv with photos beside it, a folder of class folders, a data pack, a .zip"
        )
        parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
        parser.add_argument(
            "--splits", default="", help="splits of a data pack, comma-separated, such as train,test"
        )
        parser.add_argument("--include-reserved", action="store_true", help="also the classes kept for tests")
        parser.add_argument(
            "--stock",
            action="store_true",
            help="new categories count as known; by default they wait to be learned",
        )
        parser.add_argument(
            "--items", choices=ITEM_RULES, default="photos", help="class folders: what an item is"
        )
        parser.add_argument(
            "--wait", action=BooleanOptionalAction, default=True, help="--no-wait leaves it to a worker"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            chosen = importing.ImportOptions(
                splits=tuple(split.strip() for split in options["splits"].split(",") if split.strip()),
                include_reserved=options["include_reserved"],
                dry_run=options["dry_run"],
                items=options["items"],
                is_stock=options["stock"],
            )
            result = self._result(options["path"], chosen, is_waited_for=options["wait"])
        except InvalidInput as error:
            raise CommandError(error.message, returncode=WRONG_USAGE) from error
        except SearchAppError as error:
            raise CommandError(error.message) from error
        self.stdout.write(json.dumps(result) if options["json"] else _in_words(result))
        came_in = result.get("created", 1) + result.get("updated", 0) + result.get("unchanged", 0)
        if result.get("failed") and not came_in:
            raise CommandError("not one row could be imported")

    def _result(self, path: str, options: importing.ImportOptions, *, is_waited_for: bool) -> dict[str, Any]:
        with tqdm(desc="importing", unit=" photos", leave=False) as bar:

            def show(done: int, total: int, message: str) -> None:  # noqa: ARG001  the bar has its own rate and ETA
                bar.total = total
                bar.update(done - bar.n)

            if options.dry_run:
                return importing.import_preview(path=Path(path), options=options, progress=show)
            job = importing.import_start(source=path, options=options)
            if not is_waited_for:
                return {"job": str(job.pk), "state": job.state}
            job = job_run_here(job, show)
        if job.state != JobState.DONE:
            raise CommandError(f"the import {job.state}: {job.error or job.message}")
        return dict(job.result or {})


def _in_words(result: dict[str, Any]) -> str:
    if "job" in result:
        return f"job {result['job']} is {result['state']}"
    names = ("created", "updated", "unchanged", "failed", "images_added", "evaluation_queries")
    lines = ["dry run, nothing was written"] if result["dry_run"] else []
    lines.append(", ".join(f"{result[name]:,} {name.replace('_', ' ')}" for name in names))
    lines += [f"row {e['row']}, {e['field']}: {e['message']}" for e in result["errors"][:SHOWN_ERRORS]]
    hidden = len(result["errors"]) - SHOWN_ERRORS + result["errors_left_out"]
    lines += (
        [f"... and {hidden:,} more errors (--json lists {len(result['errors']):,})"] if hidden > 0 else []
    )
    return "\n".join([*lines, *result["notes"]])
