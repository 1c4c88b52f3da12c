"""`manage.py create_api_key USER --name NAME`: make an API key and show it once."""

import json
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from searchapp.exceptions import SearchAppError
from searchapp.services import api_keys


class Command(BaseCommand):
    help = "Make an API key with the rights of a user. It is shown once; only its hash is kept."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", help="whose rights the key has")
        parser.add_argument("--name", default="made on the command line", help="what the key is for")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        name = options["user"]
        user = get_user_model().objects.filter(username=name).first()
        if user is None:
            raise CommandError(
                f"there is no user {name!r}; `manage.py createsuperuser` or the admin makes one"
            )
        try:
            row, key = api_keys.key_create(user=user, name=options["name"])
        except SearchAppError as error:
            raise CommandError(error.message) from error
        if options["json"]:
            self.stdout.write(json.dumps({"key": key, "prefix": row.prefix, "name": row.name, "user": name}))
            return
        self.stdout.write(key)
        self.stderr.write("Keep it now: it is not shown again. Send it as `Authorization: Key …`.")
