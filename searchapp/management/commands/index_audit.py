"""`manage.py index_audit [--repair]`: is the index equal to the rows, and are the files what they claim to be?"""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import SearchAppError
from searchapp.services import index_audit, index_repair


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Compare index, rows and files without the indexer's own code. Exit 0 only when all is clean."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--repair", action="store_true", help="put right what is found, then look again")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = index_audit.audit()
            found = report.as_dict()
            if options["repair"] and not report.is_clean:
                index_repair.repair(report)
                report = index_audit.audit()
        except SearchAppError as error:
            raise CommandError(error.message) from error
        shown = report.as_dict() | ({"repaired": found} if options["repair"] else {})
        if options["json"]:
            self.stdout.write(json.dumps(shown))
        else:
            self.stdout.write(
                "\n".join(f"{name:<14} {value}" for name, value in shown.items() if name != "details")
            )
            for name, lines in shown["details"].items():
                self.stdout.write("\n".join(f"  {name}: {line}" for line in lines))
        if not report.is_clean:
            raise CommandError("not clean" + ("" if options["repair"] else "; --repair puts it right"))
