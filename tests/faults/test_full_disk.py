"""F9: the disk fills up under an import. The job says so, searches go on, and a retry with space succeeds."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import missing
from tests.photo_folders import photo_folder
from tests.system import System
from tests.system_checks import check_audit, wait_until_settled

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]
RETRY = """
from searchapp.models import Job
from searchapp.services import jobs
print(jobs.job_retry(Job.objects.get(state="failed")).pk)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        missing("root, to mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        missing("the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def free_bytes(folder: Path) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def test_f9_a_full_disk_fails_the_import_with_that_reason_and_a_retry_finishes_it(
    small_disk: Path, data_packs: Path, tmp_path: Path
) -> None:
    first = photo_folder(data_packs, tmp_path / "first", first=0, count=20)
    photo = min(first.rglob("*.jpg")).read_bytes()
    with System(data=small_disk / "data") as system:
        system.run("import_catalogue", str(first), "--no-wait")
        wait_until_settled(system)
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"\0" * (free_bytes(small_disk) - 3 * 1024 * 1024))
        second = photo_folder(data_packs, tmp_path / "second", first=20, count=1500)

        system.run("import_catalogue", str(second), "--no-wait", check=False)
        wait_until_settled(system)
        rows = system.rows("SELECT state, error FROM searchapp_job WHERE state = 'failed'")
        assert len(rows) == 1
        assert rows[0][1].startswith("no space: free some on the disk, then retry")
        answer = httpx.post(f"{system.base_url}/api/v1/search", files={"image": photo}, timeout=20)
        assert answer.status_code == 200
        assert len(answer.json()["results"]) > 0

        ballast.unlink()
        system.python(RETRY)
        wait_until_settled(system)
        assert system.value("SELECT count(*) FROM searchapp_item") == 1520
        assert [path for path in (small_disk / "data" / "media").rglob(".*") if path.is_file()] == []
        check_audit(system, entries=1520)
