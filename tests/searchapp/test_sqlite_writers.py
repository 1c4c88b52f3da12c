"""D10: SQLite under several writing processes. Only about SQLite, so it is not run again on PostgreSQL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

from searchapp.models import Job

ROOT = Path(__file__).resolve().parent.parent.parent

WRITER = """
import django; django.setup()
from django.db import transaction
from searchapp.models import Job
for _ in range(150):
    with transaction.atomic():
        count = Job.objects.values_list("done_count", flat=True).get(kind="count")
        Job.objects.filter(kind="count").update(done_count=count + 1)
"""


@pytest.mark.django_db(transaction=True)
def test_d10_four_processes_that_read_then_write_never_find_sqlite_locked() -> None:
    Job.objects.create(kind="count")
    environment = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{connection.settings_dict['NAME']}",
        "DJANGO_SETTINGS_MODULE": "searchapp.settings.test",
    }
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    errors = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4, errors
    assert Job.objects.get(kind="count").done_count == 600
