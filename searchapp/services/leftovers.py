"""What killed processes and finished work leave behind, removed when it is certain that nobody needs it."""

import logging
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db.models import Exists, OuterRef

from searchapp.models import FINISHED_STATES, Job, OutboxMessage
from searchapp.services.base_training import training_leftovers_remove
from searchapp.services.database_clock import DatabaseNow
from searchapp.services.evaluation_sets import feedback_expire
from searchapp.services.import_uploads import import_leftovers_remove
from searchapp.services.media import media_remove_unused
from searchapp.services.query_log import query_images_expire

TEMPORARY_KEPT_SECONDS = 600.0  # far longer than any writer takes between its temporary and its final name
OUTBOX_KEPT = timedelta(days=1)

logger = logging.getLogger(__name__)


def leftovers_remove() -> int:
    """Remove what nobody needs: messages, temporary files, import folders, query pictures. How many went."""
    removed = messages_remove() + temporaries_remove() + import_leftovers_remove() + query_images_expire()
    removed += feedback_expire() + training_leftovers_remove()
    if removed:
        logger.info("%d leftovers were removed", removed)
    return removed


def messages_remove() -> int:
    """The sweeper reads the messages of unfinished jobs; those of finished ones only take space."""
    finished = Job.objects.filter(pk=OuterRef("job"), state__in=FINISHED_STATES)
    old = OutboxMessage.objects.filter(published_at__lt=DatabaseNow(-OUTBOX_KEPT.total_seconds()))
    removed, _ = old.filter(Exists(finished)).delete()
    return removed


def temporaries_remove() -> int:
    """Every writer here uses a dot name until its file is whole; an old dot name is a dead writer's."""
    removed = 0
    for path in _old_dot_names(
        Path(settings.MODEL_DIR), Path(settings.SNAPSHOT_DIR), Path(settings.MEDIA_ROOT)
    ):
        if path.name.startswith(".old-"):
            _put_back(path)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed += 1
    return removed


def _old_dot_names(*folders: Path) -> Iterator[Path]:
    newest = time.time() - TEMPORARY_KEPT_SECONDS
    for folder in folders:
        for path in folder.rglob(".*"):
            try:
                if path.stat().st_ctime < newest:  # a rename keeps the modification time
                    yield path
            except FileNotFoundError:
                continue


def _put_back(aside: Path) -> None:
    """`media` moves a picture aside, asks once more whether a row needs it, then removes it: do the rest."""
    target = aside.with_name(aside.name.removeprefix(".old-").partition("-")[2])
    if target.exists():
        aside.unlink(missing_ok=True)
        return
    aside.replace(target)
    media_remove_unused([(target.stem, (str(target.relative_to(settings.MEDIA_ROOT)),))])
