"""`manage.py web`: the web server alone, as production runs it; the workers and the sweeper run beside it."""

import os
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from searchapp.services import supervising


class Command(BaseCommand):
    help = "Start the web server in this process."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--workers", type=int, default=2, help="processes")
        parser.add_argument("--threads", type=int, default=2, help="requests at once in each process")

    def handle(self, *args: Any, **options: Any) -> None:
        command = supervising.web_command(
            host=options["host"], port=options["port"], workers=options["workers"], threads=options["threads"]
        )
        os.execv(command[0], command)  # noqa: S606  the same process: its signals go straight to the server
