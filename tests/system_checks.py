"""What system and fault tests do with a running system, and what must be true of it afterwards."""

import json
from pathlib import Path

from tests.conftest import missing
from tests.servers import postgresql_folder, redis_program
from tests.system import Mode, System

MODES: list[Mode] = ["embedded", "production"]


def system_in(mode: Mode, failpoint: str = "", **environment: str) -> System:
    if mode == "production" and postgresql_folder() is None:
        missing("PostgreSQL")
    if mode == "production" and redis_program() is None:
        missing("Redis")
    return System(mode=mode, failpoint=failpoint, environment=environment)


def start_job(system: System) -> str:
    code = (
        "from searchapp.services import jobs; print(jobs.job_create(kind='encode_images', payload={}).pk.hex)"
    )
    return system.python(code).strip()


def is_done(system: System, job_id: str) -> bool:
    row = f"FROM searchapp_job WHERE replace(CAST(id AS text), '-', '') = '{job_id}'"
    return bool(system.value(f"SELECT state {row}") == "done")


def import_and_check(system: System, photos: Path, *, images: int) -> None:
    """Import `photos` through a worker; afterwards every photo is there once, and the audit finds nothing."""
    system.run("import_catalogue", str(photos), "--no-wait")
    wait_until_settled(system)
    check_import(system, images=images)


def wait_until_settled(system: System, *, seconds: float = 60) -> float:
    unfinished = "SELECT count(*) FROM searchapp_job WHERE state IN ('queued', 'running')"
    return system.wait_until(lambda: system.value(unfinished) == 0, "every job to end", seconds=seconds)


def check_import(system: System, *, images: int) -> None:
    """The only import so far said that it made `images` items of one photo each, and so it is."""
    state, error, result = system.rows(
        "SELECT state, error, result FROM searchapp_job WHERE kind = 'import_catalogue'"
    )[0]
    assert (state, error) == ("done", "")
    reported = json.loads(result) if isinstance(result, str) else result
    assert (reported["created"], reported["failed"]) == (images, 0)
    for table in ("item", "itemimage", "galleryentry"):
        assert system.value(f"SELECT count(*) FROM searchapp_{table}") == images
    distinct = "SELECT count(DISTINCT image_id), count(DISTINCT image_sha256) FROM searchapp_galleryentry"
    assert system.rows(distinct) == [(images, images)]
    check_audit(system, entries=images)


def check_audit(system: System, *, entries: int | None = None) -> None:
    """`index_audit` exits 0 only when rows, files and snapshots agree."""
    audit = system.run_json("index_audit")
    assert entries is None or audit["db_rows"] == entries, audit
