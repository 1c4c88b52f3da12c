"""Photos without an entry get one: stored file -> encoder -> rows, in bounded chunks that survive a kill."""

import logging
import time
from collections.abc import Iterable
from typing import Any

from ml.protocol import Encoder
from searchapp.failpoints import failpoint
from searchapp.models import ItemImage, Job, ModelVersion
from searchapp.services import intake, versions
from searchapp.services.gallery import NewEntry, entries_add, gallery_transaction
from searchapp.services.jobs import JobRun, job_create

CHUNK = 32
KIND = "encode_images"
# What Pillow raises on a file that was damaged after it was stored.
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError)

logger = logging.getLogger(__name__)


def encode_job_ensure(user: Any = None) -> Job:
    """A waiting job that will see every photo committed with or before the caller's transaction.

    Called for each new photo, it makes one job for all of them; one that already runs may have read past this photo,
    so only a waiting one counts.
    """
    return job_create(kind=KIND, payload={}, user=user, subject="Encode new photos", coalesce=True)


def encode_images(*, version: ModelVersion, image_ids: Iterable[int]) -> list[NewEntry]:
    """Encode stored photos by `version`; one that cannot be read is marked failed, with the reason, and left out.

    Writes no entries: the caller adds them in its own gallery transaction, so that its checkpoint commits with them.
    """
    encoder = versions.encoder_of(version)
    images = ItemImage.objects.filter(pk__in=list(image_ids)).order_by("pk")
    return [entry for image in images if (entry := _encoded(encoder, image)) is not None]


def _encoded(encoder: Encoder, image: ItemImage) -> NewEntry | None:
    """One photo a call: a batch would round differently, and a catalogue photo used as a query must find itself."""
    try:
        pixels = intake.stored_pixels(image.path, input_size=encoder.input_size)
    except FileNotFoundError:
        _mark_failed(image, "The stored file is missing; upload the photo again.")
        return None
    except _UNREADABLE as error:
        _mark_failed(image, f"The stored file cannot be read ({error}); upload the photo again.")
        return None
    encoded = encoder.encode(pixels[None])
    return NewEntry(
        image_id=image.pk,
        image_sha256=image.image_sha256,
        code=encoded.packed_codes[0].tobytes(),
        embedding=encoded.embeddings[0].astype("<f2").tobytes(),
    )


def _mark_failed(image: ItemImage, reason: str) -> None:
    logger.warning("photo %s could not be encoded: %s", image.pk, reason)
    ItemImage.objects.filter(pk=image.pk, image_sha256=image.image_sha256).update(failure=reason[:500])


def encode_missing_run(run: JobRun) -> dict[str, Any]:
    """Handler of "encode_images": every photo without an entry by any version, encoded by the champion.

    The checkpoint holds the last photo done, so a killed run goes on behind it; photos are read in order of their id,
    so those added while it runs come along.
    """
    started = time.monotonic()
    version = versions.default_version_ensure()
    state = {"after": 0, "encoded": 0, "failed": 0, **run.checkpoint}
    done = state["encoded"] + state["failed"]
    total = done + ItemImage.objects.missing_entry().filter(pk__gt=state["after"]).count()
    while image_ids := _missing(after=state["after"]):
        run.progress(done, max(total, done + len(image_ids)))
        entries = encode_images(version=version, image_ids=image_ids)
        failed = ItemImage.objects.filter(pk__in=image_ids).exclude(failure="").count()
        with gallery_transaction() as changes:
            added = entries_add(changes, version=version, entries=entries)
            state = {
                "after": image_ids[-1],
                "encoded": state["encoded"] + added,
                "failed": state["failed"] + failed,
            }
            run.save(state)
        failpoint("encoding.after_chunk_commit")
        done = state["encoded"] + state["failed"]
    run.progress(done, done)
    seconds = round(time.monotonic() - started, 3)
    return {"encoded": state["encoded"], "failed": state["failed"], "seconds": seconds}


def _missing(*, after: int) -> list[int]:
    missing = ItemImage.objects.missing_entry().filter(pk__gt=after).order_by("pk")
    return list(missing.values_list("pk", flat=True)[:CHUNK])
