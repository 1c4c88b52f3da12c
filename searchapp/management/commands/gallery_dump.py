"""`manage.py gallery_dump`: every entry as CSV, straight from rows."""

import csv
from typing import Any

from django.core.management.base import BaseCommand

from searchapp.services import gallery_dump


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Print every gallery entry as CSV, sorted: image_sha256, sku, producer, provenance, code_hex."

    def handle(self, *args: Any, **options: Any) -> None:
        writer = csv.writer(self.stdout, lineterminator="\n")
        writer.writerow(gallery_dump.COLUMNS)
        writer.writerows(gallery_dump.rows())
