"""Picture files under MEDIA_ROOT, named by their content.

Never half a file under a final name, and never one taken away that a row still needs.
"""

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from searchapp.exceptions import NoSpace
from searchapp.models import EvaluationQuery, Feedback, ItemImage

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def media_path(name: str) -> Path:
    return Path(settings.MEDIA_ROOT) / name


def media_read(name: str) -> bytes:
    return media_path(name).read_bytes()


def media_write(name: str, data: bytes) -> bool:
    """Write `data` under `name`, which is derived from it; False when it is there already. Raises NoSpace."""
    target = media_path(name)
    if target.exists():
        return False
    with no_space_as_error():
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    return True


def media_remove_unused(pictures: Iterable[tuple[str, tuple[str, ...]]]) -> int:
    """Remove the files of pictures that no row uses. Takes (image_sha256, file names); returns how many went.

    Called after the rows' transaction has committed. A writer stores its file before its row commits and
    looks again afterwards, so: move aside, ask the rows again, put back when one has come meanwhile.
    """
    removed = 0
    for sha256, names in pictures:
        if _is_used(sha256):
            continue
        moved = [(media_path(name), _move_aside(media_path(name))) for name in names]
        was_claimed = _is_used(sha256)
        for target, aside in moved:
            if aside is None:
                continue
            if was_claimed:
                aside.replace(target)
            else:
                aside.unlink(missing_ok=True)
                removed += 1
    return removed


@contextmanager
def no_space_as_error() -> Iterator[None]:
    """Turn the system's "disk full" into the product's."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(
                "The disk is full: nothing of this step was kept. Free some space and try again."
            ) from error
        raise


def _move_aside(target: Path) -> Path | None:
    aside = target.with_name(f".old-{os.getpid()}-{target.name}")
    try:
        target.replace(aside)
    except FileNotFoundError:
        return None
    return aside


def _is_used(sha256: str) -> bool:
    return any(
        model.objects.filter(image_sha256=sha256).exists() for model in (ItemImage, EvaluationQuery, Feedback)
    )
