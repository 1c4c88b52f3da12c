"""The door for model versions from outside: a zip or a folder that may hold a bundle, and nothing else.

Nothing here unpickles, runs a graph or builds an encoder; what is refused here leaves no file behind. The job
(services.version_import) goes on from where this ends.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from django.contrib.auth.models import AbstractBaseUser

from ml.artifacts import (
    GRAPH_FILE,
    MANIFEST_FILE,
    MAX_FILE_BYTES,
    TEXT_FILE,
    WEIGHTS_FILE,
    Bundle,
    BundleError,
    load_bundle,
)
from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import Job, ModelVersion
from searchapp.services.archives import ArchiveLimits, archive_check, archive_unpack
from searchapp.services.import_uploads import zip_upload_store
from searchapp.services.jobs import job_create

KIND = "import_version"
FILES = (MANIFEST_FILE, WEIGHTS_FILE, GRAPH_FILE, TEXT_FILE)
LIMITS = ArchiveLimits(
    members=16, unpacked_bytes=2 * MAX_FILE_BYTES, member_bytes=MAX_FILE_BYTES, name_characters=200
)
_METHOD = re.compile(r"[a-z0-9][a-z0-9 _.-]{0,39}")  # what its row has room for
_UNSTORABLE = re.compile(r"\\u(0000|d[89a-f])", re.IGNORECASE)  # as JSON writes what no database holds


def version_upload(*, chunks: Iterable[bytes], name: str, user: AbstractBaseUser | None) -> Job:
    """Take an uploaded zip of a bundle and start the job that registers it as a candidate.

    Raises InvalidInput with the reason for what is no bundle or a damaged one, Conflict for one that is here already.
    """
    source = zip_upload_store(chunks, name, check=_upload_check)
    return version_import_start(source=source, user=user)


def version_import_start(*, source: str, user: AbstractBaseUser | None) -> Job:
    """The job that registers the bundle at `source`: an upload, or the path of a folder or zip on this machine."""
    return job_create(kind=KIND, payload={"source": source}, user=user, subject="Version from outside")


@contextmanager
def bundle_opened(path: Path, workspace: Path) -> Iterator[Bundle]:
    """The verified bundle in a zip or folder. A zip is unpacked into `workspace`, which is removed at the end.

    Raises InvalidInput with the reason when it is no bundle, a damaged one, or holds anything else.
    """
    try:
        if path.is_dir():
            yield _verified(path)
        elif path.is_file():
            shutil.rmtree(workspace, ignore_errors=True)  # an attempt that was killed left its half
            yield _verified(_unpacked(path, workspace))
        else:
            raise refused("there is no file or folder at this place")
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def check_new(bundle: Bundle) -> None:
    """Raise Conflict when this installation has the bundle already, naming the version it is."""
    known = ModelVersion.objects.filter(digest=bundle.digest).first()
    if known is not None:
        raise Conflict(f"This bundle is here already: it is version {known.name} ({bundle.digest[:12]}…).")


def refused(reason: str) -> InvalidInput:
    return InvalidInput(f"The bundle was refused: {reason}.", fields={"file": f"{reason}."})


def _upload_check(upload: Path) -> None:
    with bundle_opened(upload, upload.with_name("unpacked")) as bundle:
        check_new(bundle)


def _unpacked(path: Path, workspace: Path) -> Path:
    """Names are looked at before anything is unpacked: a bundle has three or four files, alone or in one folder."""
    members = [PurePosixPath(member.filename) for member in archive_check(path, LIMITS)]
    above = {member.parent for member in members}
    for member in members:
        if member.name not in FILES or len(above) > 1 or len(member.parts) > 2:
            raise refused(f"{str(member)[:120]!r} does not belong to a bundle; allowed: {', '.join(FILES)}")
    archive_unpack(path, workspace, LIMITS)
    return workspace / above.pop()


def _verified(folder: Path) -> Bundle:
    try:
        bundle = load_bundle(folder)
    except (BundleError, OSError) as error:
        raise refused(str(error).replace(f"{folder}/", "").replace(str(folder), "the folder")) from error
    manifest = bundle.manifest
    if _METHOD.fullmatch(manifest.method) is None:
        raise refused(f"{MANIFEST_FILE}: method is {manifest.method[:60]!r}, allowed: up to 40 small letters")
    kept = [manifest.metrics, manifest.training, manifest.preprocessing, list(manifest.labels)]
    if _UNSTORABLE.search(json.dumps(kept)):
        raise refused(f"{MANIFEST_FILE} holds a NUL or half a character, allowed: plain text")
    return bundle
