"""Picture files under MEDIA_ROOT, named by their content.

Never half a file under a final name, and never one taken away that a row still needs.
"""

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from searchapp.exceptions import NoSpace
from searchapp.models import EvaluationQuery, ItemImage, PhotoFeature

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def media_path(name: str) -> Path:
    return Path(settings.MEDIA_ROOT) / name


def media_exists(name: str) -> bool:
    return os.path.exists(f"{settings.MEDIA_ROOT}/{name}")  # noqa: PTH110


def media_read(name: str) -> bytes:
    return media_path(name).read_bytes()


def media_write(name: str, data: bytes) -> bool:
    """Write `data` under `name`, which is derived from it; False when it is there already. Raises NoSpace."""
    target = f"{settings.MEDIA_ROOT}/{name}"
    if os.path.exists(target):  # noqa: PTH110  this and below: thousands a minute, and a Path costs more than the call
        return False
    folder, last = os.path.split(target)
    temporary = f"{folder}/.new-{os.getpid()}-{threading.get_ident()}-{last}"
    with no_space_as_error():
        try:
            with open(_created(temporary), "wb") as stream:
                stream.write(data)
            os.rename(temporary, target)  # noqa: PTH104
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    return True


def media_link(existing: str, name: str) -> None:
    """Give a file that is there a second name; a copy where the file system has no links."""
    source, target = f"{settings.MEDIA_ROOT}/{existing}", f"{settings.MEDIA_ROOT}/{name}"
    try:
        _linked(source, target)
    except FileExistsError:
        return
    except OSError:
        media_write(name, media_read(existing))


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)


def _created(temporary: str) -> int:
    """A new file's handle; the folder is made when the first file for it comes."""
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW
    try:
        return os.open(temporary, flags, 0o644)
    except FileNotFoundError:
        Path(temporary).parent.mkdir(parents=True, exist_ok=True)
        return os.open(temporary, flags, 0o644)


def media_remove_unused(pictures: Iterable[tuple[str, tuple[str, ...]]]) -> int:
    """Remove the files of pictures that no row uses. Takes (image_sha256, file names); returns how many went.

    Called after the rows' transaction has committed. A writer stores its file before its row commits and
    looks again afterwards, so: move aside, ask the rows again, put back when one has come meanwhile.
    """
    removed = 0
    for sha256, names in pictures:
        if _is_used(sha256):
            continue
        PhotoFeature.objects.filter(image_sha256=sha256).delete()  # made again, should the picture come back
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
    """Pictures that shoppers let us keep lie elsewhere, and keep no file here."""
    return any(model.objects.filter(image_sha256=sha256).exists() for model in (ItemImage, EvaluationQuery))
