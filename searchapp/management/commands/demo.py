"""`manage.py demo`: from nothing to a searchable sample catalogue and running servers; Ctrl-C stops them."""

import os
from argparse import ArgumentParser
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from searchapp.exceptions import SearchAppError
from searchapp.services import accounts, embedded, sample_catalogue, versions

NO_ANONYMOUS_LIMITS = {"ANON_SEARCH_RATE": "", "ANON_ITEM_BUDGET": "0"}


class Command(BaseCommand):
    help = "Load the sample catalogue, make two accounts, start everything."
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or 8000))
        parser.add_argument("--host", default="127.0.0.1")

    def handle(self, *args: Any, **options: Any) -> None:
        host, port = options["host"], options["port"]
        call_command("migrate", interactive=False, verbosity=0)
        try:
            versions.default_version_ensure()
            self._load_catalogue()
            made = accounts.demo_accounts_ensure()
            for account in made:
                self.stdout.write(f"login {account.name:<8}  password {account.password}  (shown only now)")
            if not made:
                self.stdout.write(
                    "logins staff and operator exist; `manage.py changepassword NAME` sets a new one"
                )
            embedded.embedded_serve(
                host=host,
                port=port,
                environment=NO_ANONYMOUS_LIMITS,
                on_ready=lambda: self._announce(host, port),
            )
        except SearchAppError as error:
            raise CommandError(error.message) from error

    def _load_catalogue(self) -> None:
        with tqdm(desc="sample catalogue", unit=" photos", leave=False, mininterval=0.5) as bar:

            def show(done: int, total: int, message: str) -> None:
                if total != bar.total:  # the next pack
                    bar.reset(total)
                bar.set_postfix_str(message.partition(":")[0][:20], refresh=False)
                bar.update(done - bar.n)

            loaded = sample_catalogue.sample_load(show)
        if loaded["message"]:
            self.stdout.write(loaded["message"])

    def _announce(self, host: str, port: int) -> None:
        self.stdout.write(f"Perennial answers at http://{host}:{port}/ (admin: http://{host}:{port}/admin/)")
        self.stdout.write("Limits for anonymous callers are off in this demo. Ctrl-C stops everything.")
