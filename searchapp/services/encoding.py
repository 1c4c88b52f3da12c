"""Photos without an entry get one: stored file -> encoder -> rows, in bounded chunks that survive a kill."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from ml.onnx_encoder import FeatureEncoder
from searchapp.failpoints import failpoint
from searchapp.models import ItemImage, Job, ModelVersion
from searchapp.services import intake, versions
from searchapp.services.duplicate_pairs import duplicates_note
from searchapp.services.gallery import NewEntry, entries_add, gallery_transaction
from searchapp.services.intake import UNREADABLE
from searchapp.services.jobs import JobRun, job_create
from searchapp.services.near_duplicates import DuplicateSearch
from searchapp.services.photo_features import feature_bytes

CHUNK = 32
KIND = "encode_images"

logger = logging.getLogger(__name__)


def encode_job_ensure(user: Any = None, *, version: ModelVersion | None = None) -> Job:
    """A waiting job that will see every photo committed with or before the caller's transaction.

    Called for each new photo, it makes one job for all of them; one that already runs may have read past this photo,
    so only a waiting one counts. The job encodes by the version in use at the time, or by `version`.
    """
    payload = {} if version is None else {"version": version.name}
    subject = "Encode new photos" if version is None else f"Encode the photos by {version.name}"
    return job_create(kind=KIND, payload=payload, user=user, subject=subject, coalesce=True)


def encode_images(*, version: ModelVersion, image_ids: Iterable[int]) -> list[NewEntry]:
    """Encode stored photos by `version`; one that cannot be read is marked failed, with the reason, and left out.

    Writes no entries: the caller adds them in its own gallery transaction, so that its checkpoint commits with them.
    """
    encoder = versions.photo_encoder_of(version)
    images = ItemImage.objects.filter(pk__in=list(image_ids)).order_by("pk")
    return [entry for image in images if (entry := _encoded(encoder, image)) is not None]


def _encoded(encoder: FeatureEncoder, image: ItemImage) -> NewEntry | None:
    """One photo a call: a batch would round differently, and a catalogue photo used as a query must find itself."""
    try:
        pixels = intake.stored_pixels(image.path, input_size=encoder.input_size)
    except UNREADABLE as error:
        photo_mark_failed(image.pk, image.image_sha256, unreadable_reason(error))
        return None
    encoded, features = encoder.encode_with_features(pixels[None])
    return NewEntry(
        image_id=image.pk,
        image_sha256=image.image_sha256,
        code=encoded.packed_codes[0].tobytes(),
        embedding=encoded.embeddings[0].astype("<f2").tobytes(),
        feature=feature_bytes(features[0]),
    )


def unreadable_reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "The stored file is missing; upload the photo again."
    return f"The stored file cannot be read ({error}); upload the photo again."


def photo_mark_failed(image_id: int, image_sha256: str, reason: str) -> None:
    """Keep why a stored photo cannot be read; nothing tries it again before somebody asks for it."""
    logger.warning("photo %s cannot be used: %s", image_id, reason)
    ItemImage.objects.filter(pk=image_id, image_sha256=image_sha256).update(failure=reason[:500])


def encode_missing_run(run: JobRun) -> dict[str, Any]:
    """Handler of "encode_images": photos that the version in use cannot find yet get an entry by it.

    With a `version` in the payload, those without an entry that this version can be compared with, by it. The
    checkpoint holds the last photo done, so a killed run goes on behind it; photos are read in order of their id, so
    those added while it runs come along.
    """
    started = time.monotonic()
    state = {"after": 0, "encoded": 0, "failed": 0, **run.checkpoint}
    version, search = _producer(run), DuplicateSearch()
    done = state["encoded"] + state["failed"]
    missing = ItemImage.objects.missing_entry(version.lineage)
    total = done + missing.filter(pk__gt=state["after"]).count()
    while image_ids := _missing(version, after=state["after"]):
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
        duplicates_note(search, entries, version)
        failpoint("encoding.after_chunk_commit")
        done = state["encoded"] + state["failed"]
        if version != (
            now := _producer(run)
        ):  # another one was put in use: it may not see what was just encoded
            version, state = now, {**state, "after": 0}
    run.progress(done, done)
    seconds = round(time.monotonic() - started, 3)
    return {"encoded": state["encoded"], "failed": state["failed"], "seconds": seconds}


def entries_fill(
    version: ModelVersion, *, heard: Callable[[int], None], commit: Callable[[int], None] = lambda _done: None
) -> int:
    """Give every readable photo an entry by `version`, those added meanwhile included; returns how many.

    `heard` is told before each chunk how many are done; `commit` is called inside each chunk's transaction. What is
    there already is kept, so after a kill it is simply called again.
    """
    done = after = 0
    while image_ids := _missing(version, after=after) or _missing(version, after=0):
        heard(done)
        entries = encode_images(version=version, image_ids=image_ids)
        with gallery_transaction() as changes:
            done += entries_add(changes, version=version, entries=entries)
            commit(done)
        failpoint("encoding.after_chunk_commit")
        after = image_ids[-1]
    return done


def _producer(run: JobRun) -> ModelVersion:
    name = run.payload.get("version")
    return versions.version_named(name) if name else versions.default_version_ensure()


def _missing(version: ModelVersion, *, after: int) -> list[int]:
    missing = ItemImage.objects.missing_entry(version.lineage).filter(pk__gt=after).order_by("pk")
    return list(missing.values_list("pk", flat=True)[:CHUNK])
