"""Failpoints kill where a test asks for it, as often as it asks, and never under production settings."""

import os
import subprocess
import sys
from pathlib import Path

from tests.system import PRODUCTION

ROOT = Path(__file__).resolve().parent.parent.parent
PASS_THREE_TIMES = """
import django; django.setup()
from searchapp.failpoints import failpoint
for n in range(3):
    failpoint("here")
    print(n, flush=True)
"""


def run(tmp_path: Path, **environment: str) -> tuple[int, str]:
    finished = subprocess.run(
        [sys.executable, "-c", PASS_THREE_TIMES],
        env={
            **os.environ,
            "DATA_DIR": str(tmp_path),
            "DJANGO_SETTINGS_MODULE": "searchapp.settings.dev",
            **environment,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return finished.returncode, finished.stdout


def test_a_failpoint_kills_the_process_the_nth_time_it_is_passed(tmp_path: Path) -> None:
    assert run(tmp_path, PERENNIAL_FAILPOINT="here") == (-9, "")
    assert run(tmp_path, PERENNIAL_FAILPOINT="here:3") == (-9, "0\n1\n")
    assert run(tmp_path, PERENNIAL_FAILPOINT="elsewhere") == (0, "0\n1\n2\n")
    assert run(tmp_path) == (0, "0\n1\n2\n")


def test_with_a_marker_it_kills_once_only(tmp_path: Path) -> None:
    once = {"PERENNIAL_FAILPOINT": "here:2", "PERENNIAL_FAILPOINT_MARKER": str(tmp_path / "killed")}
    assert run(tmp_path, **once) == (-9, "0\n")
    assert run(tmp_path, **once) == (0, "0\n1\n2\n")


def test_production_settings_ignore_every_failpoint(tmp_path: Path) -> None:
    production = {
        **PRODUCTION,
        "DATABASE_URL": f"sqlite:///{tmp_path}/unused",
        "CELERY_BROKER_URL": "redis://unused/0",
        "CACHE_URL": "rediscache://unused/1",
        "PERENNIAL_FAILPOINT": "here",
    }
    assert run(tmp_path, **production) == (0, "0\n1\n2\n")
