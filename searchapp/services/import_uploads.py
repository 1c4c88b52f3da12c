"""Uploaded files wait under IMPORT_DIR/<random name>/ until their job has read them."""

import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from django.conf import settings

from searchapp.exceptions import Conflict, InvalidInput, NoSpace
from searchapp.models import FINISHED_STATES, Job
from searchapp.services.archives import archive_check
from searchapp.services.import_sources.csv_source import csv_open
from searchapp.services.media import no_space_as_error

KEPT_SECONDS = 24 * 3600.0  # a failed import can be retried for a day
KINDS = ("import_catalogue", "import_version", "import_evaluation")  # of jobs whose payload names a source
_TOKEN = re.compile(r"upload:([0-9a-f]{32})")
_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def import_upload_store(chunks: Iterable[bytes], name: str) -> str:
    """Keep an uploaded zip or CSV and return the source to import it by. A hostile or unusable one is
    refused here.

    `name` gives a readable name to the catalogue and nothing else; type and place are ours.
    """

    def check(upload: Path) -> None:
        with upload.open("rb") as stream:
            is_zip = stream.read(2) == b"PK"
        final = upload.rename(upload.with_name(f"{stem}{'.zip' if is_zip else '.csv'}"))
        if is_zip:
            archive_check(final)
        else:
            csv_open(final, name=stem)

    stem = _stem(name, "catalogue")
    return _upload_store(chunks, check)


def zip_upload_store(chunks: Iterable[bytes], name: str, *, check: Callable[[Path], object]) -> str:
    """Keep an uploaded zip and return the source that a job may be given. What `check` raises of the file is raised,
    and nothing is kept."""
    return _upload_store(
        chunks, lambda upload: check(upload.rename(upload.with_name(f"{_stem(name, 'upload')}.zip")))
    )


def _stem(name: str, instead: str) -> str:
    return _NAME.sub("-", Path(name.replace("\\", "/")).stem)[:60].strip(".-") or instead


def _upload_store(chunks: Iterable[bytes], check: Callable[[Path], object]) -> str:
    """`check` gets the written file and gives it its name."""
    token = uuid.uuid4().hex
    folder = Path(settings.IMPORT_DIR) / token
    try:
        with no_space_as_error():
            folder.mkdir(parents=True)
            temporary = folder / "upload"
            _write(temporary, chunks)
        check(temporary)
    except (InvalidInput, NoSpace, Conflict):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return f"upload:{token}"


def import_source_path(source: str) -> Path:
    """The path behind a source: an upload's file, or the path itself. Raises InvalidInput when it is gone."""
    found = _TOKEN.fullmatch(source)
    if found is None:
        return Path(source)
    folder = Path(settings.IMPORT_DIR) / found[1]
    files = sorted(folder.glob("*.*")) if folder.is_dir() else []
    if not files:
        raise InvalidInput("The uploaded file is gone; upload it again.")
    return files[0]


def import_upload_remove(source: str) -> None:
    """Forget an upload. A path that was not uploaded is never touched."""
    if found := _TOKEN.fullmatch(source):
        shutil.rmtree(Path(settings.IMPORT_DIR) / found[1], ignore_errors=True)


def import_leftovers_remove() -> int:
    """Remove folders a day old that no unfinished job reads from; returns how many went."""
    folder = Path(settings.IMPORT_DIR)
    if not folder.is_dir():
        return 0
    unfinished = Job.objects.filter(kind__in=KINDS).exclude(state__in=FINISHED_STATES)
    needed = {str(job.pk) for job in unfinished} | {
        str(job.payload.get("source", ""))[7:] for job in unfinished
    }
    old = [
        path
        for path in folder.iterdir()
        if path.name.partition(".")[0] not in needed and time.time() - path.stat().st_mtime > KEPT_SECONDS
    ]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return len(old)


def _write(target: Path, chunks: Iterable[bytes]) -> None:
    size = 0
    with target.open("xb") as stream:
        for chunk in chunks:
            size += len(chunk)
            if size > settings.IMPORT_MAX_BYTES:
                limit = settings.IMPORT_MAX_BYTES >> 20
                raise InvalidInput(
                    f"The file is larger than {limit:,} MB.", fields={"file": f"allowed: {limit} MB"}
                )
            stream.write(chunk)
    if not size:
        raise InvalidInput("The file is empty.", fields={"file": "it is empty"})
