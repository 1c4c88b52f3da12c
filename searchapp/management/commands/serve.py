"""`manage.py serve`: web, workers and sweeper of the embedded mode, in the foreground, until Ctrl-C."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import SearchAppError
from searchapp.services import embedded


class Command(BaseCommand):
    help = "Start web and workers together; Ctrl-C stops them all."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to be reachable from other machines")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            embedded.embedded_serve(
                host=options["host"], port=options["port"], on_ready=lambda: self._announce(options)
            )
        except SearchAppError as error:
            raise CommandError(error.message) from error

    def _announce(self, options: dict[str, Any]) -> None:
        self.stdout.write(f"Perennial answers at http://{options['host']}:{options['port']}/")
