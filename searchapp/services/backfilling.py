"""Backfill: photos that older trunks encoded get an entry by the version in use, in the background, worst first.

What is left to do is read from rows, so it may be stopped and taken up again at any time. Entries are only added; the
view prefers the new ones by itself, and the statistics of stored codes follow in the same transaction.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from numpy.typing import NDArray

from ml.methods.compatible.forward_order import class_mean_distances
from searchapp.exceptions import Conflict, InvalidInput
from searchapp.failpoints import failpoint
from searchapp.models import FINISHED_STATES, Deployment, Job, JobState, ModelVersion
from searchapp.services import code_statistics, correctors, versions
from searchapp.services.encoding import CHUNK, encode_images
from searchapp.services.gallery import entries_add, gallery_transaction
from searchapp.services.jobs import JobRun, job_cancel, job_create, job_retry
from searchapp.services.stale_entries import StaleEntries, categories_of, stale_entries, stale_photos

KIND = "backfill"
ORDERS: Mapping[str, str] = {
    "error": "worst predicted error first",
    "oldest": "oldest entries first",
    "random": "in random order",
}
SEED = 0
TURN_SECONDS = 30.0  # of work; then whatever waits for the training worker goes first, and the rest after it

logger = logging.getLogger(__name__)


def backfill_start(
    *,
    user: AbstractBaseUser | None,
    limit: int | None = None,
    order: str = "error",
) -> Job:
    """A job of kind "backfill" over at most `limit` photos. While one waits or runs, that one is given.

    Raises InvalidInput for an order or a limit that is not allowed, Conflict when no photo is left to encode or another
    backfill is under way.
    """
    if order not in ORDERS:
        message = f"it is {order!r:.40}, allowed: {', '.join(ORDERS)}"
        raise InvalidInput(f"order: {message}", fields={"order": message})
    if limit is not None and limit < 1:
        message = f"it is {limit}, allowed: 1 or more"
        raise InvalidInput(f"limit: {message}", fields={"limit": message})
    live = versions.champion()
    if not stale_photos(live.version).exists():
        raise Conflict(f"No photo is left to encode: {live.version.name} has encoded all of them itself.")
    payload = {"limit": limit, "order": order}
    with transaction.atomic():
        Deployment.objects.select_for_update().get(pk=live.pk)  # two clicks, one after the other
        going = backfill_going()
        if going is not None and going.payload != payload:
            raise Conflict("Another backfill is under way; wait for it, or pause it first.")
        return going or job_create(
            kind=KIND,
            user=user,
            subject=f"Encode older entries by {live.version.name}, {ORDERS[order]}",
            payload=payload,
        )


def backfill_going() -> Job | None:
    """The one that waits or runs."""
    rows = Job.objects.filter(kind=KIND, cancel_requested=False).exclude(state__in=FINISHED_STATES)
    return rows.order_by("created_at").first()


def backfill_paused() -> Job | None:
    """The last one, if it was stopped before its end and there are photos left."""
    last = Job.objects.filter(kind=KIND).order_by("-created_at").first()
    if last is None or last.state not in {JobState.CANCELLED, JobState.FAILED}:
        return None
    return last if stale_photos(versions.champion().version).exists() else None


def backfill_pause(user: AbstractBaseUser | None) -> Job:
    """Stop the backfill after the photos it works on; what is done stays. Raises Conflict when none is under way."""
    going = backfill_going()
    if going is None:
        raise Conflict("No backfill is under way.")
    return job_cancel(going, user)


def backfill_resume(user: AbstractBaseUser | None) -> Job:
    """Go on where the last one stopped. Raises Conflict when none was stopped."""
    paused = backfill_paused()
    if paused is None:
        raise Conflict("No backfill was stopped before its end.")
    return job_retry(paused, user)


def backfill_run(run: JobRun) -> dict[str, Any]:
    """Handler of "backfill": {encoded, failed, remaining, seconds, version, continued_by}.

    The checkpoint counts what was done, for the limit; which photos are left is asked of the rows. When another trunk
    is put in use meanwhile it ends: what is left is then another question.
    """
    started = time.monotonic()
    state = {"encoded": 0, "failed": 0, "seconds": 0.0, **run.checkpoint}
    live = versions.champion()
    stale = stale_entries(live.version)
    done = state["encoded"] + state["failed"]
    limit = len(stale) if run.payload["limit"] is None else max(0, run.payload["limit"] - done)
    photos = stale.photos[_order(stale, live, run.payload["order"])][:limit].tolist()
    total, spent = done + len(photos), state["seconds"]
    following = state.pop("continued_by", "")
    if following:  # killed between the last chunk and the last word
        photos = []
    for start in range(0, len(photos), CHUNK):
        run.progress(done, total)
        now = versions.champion().version
        if now.major != live.version.major:
            logger.info("the backfill ends: %s is in use, not %s", now, live.version)
            break
        state = _chunk(run, now, photos[start : start + CHUNK], state)
        state["seconds"] = round(spent + time.monotonic() - started, 3)
        done = state["encoded"] + state["failed"]
        failpoint("backfill.after_chunk_commit")
        if done < total and time.monotonic() - started > TURN_SECONDS and _others_wait(run.job):
            following = _continued(run, done)
            break
    run.progress(done, total)
    return {
        "encoded": state["encoded"],
        "failed": state["failed"],
        "remaining": stale_photos(versions.champion().version).count(),
        "seconds": round(spent + time.monotonic() - started, 3),
        "version": live.version.name,
        "continued_by": following,
    }


def _others_wait(job: Job) -> bool:
    """For the worker that runs one training at a time: a category to be learned, say."""
    waiting = Job.objects.filter(queue=job.queue, state=JobState.QUEUED, cancel_requested=False)
    return waiting.exclude(kind=KIND).exists()


def _continued(run: JobRun, done: int) -> str:
    """A job for the rest, behind those that wait."""
    limit = run.payload["limit"]
    with transaction.atomic():
        run.guard()
        job = job_create(
            kind=KIND,
            user=run.job.created_by,
            subject=run.job.subject,
            payload={**run.payload, "limit": None if limit is None else limit - done},
        )
        run.save({**run.checkpoint, "continued_by": str(job.pk)})
    return str(job.pk)


def _chunk(run: JobRun, version: ModelVersion, image_ids: list[int], state: dict[str, Any]) -> dict[str, Any]:
    """Encode, then add the entries and count them in one transaction, the checkpoint with them."""
    entries = encode_images(version=version, image_ids=image_ids)
    with gallery_transaction() as changes:
        added = entries_add(changes, version=version, entries=entries)
        code_statistics.entries_count(version=version, image_ids=[entry.image_id for entry in entries])
        state = state | {
            "encoded": state["encoded"] + added,
            "failed": state["failed"] + len(image_ids) - len(entries),
        }
        run.save(state)
    return state


def _order(stale: StaleEntries, live: Deployment, order: str) -> NDArray[np.intp]:
    """Rows of `stale`, first to be encoded first; of equals the older entry."""
    if order == "random":
        return np.random.default_rng(SEED).permutation(len(stale))
    if order == "oldest":
        return np.argsort(stale.entries, kind="stable")
    worst = np.empty(len(stale))
    maps = correctors.trunk_maps_of(live.view.corrector_digest)
    by_trunk = {int(name.split(".")[0]): one for name, one in maps.items()}
    for major in np.unique(stale.majors).tolist():
        rows = stale.of_trunk(major)
        if major in by_trunk:
            worst[rows] = by_trunk[major].errors.predicted(stale.embeddings[rows])
        else:  # nothing predicts an error: what lies far from its category's mean comes first
            worst[rows] = class_mean_distances(
                stale.embeddings[rows].astype(np.float32), categories_of(stale.items[rows])
            )
    return np.lexsort((stale.entries, -worst))
