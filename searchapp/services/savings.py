"""What an increment saves: its own time beside what a full retrain and re-encode take on this machine, as measured.

The rates come from work that was done here: the last standard training of a base version, the last encoding of many
photos. Where there was none, a job times a few real steps of that training and a few photos (services.pace_measuring).
What nobody measured is not told. Pages only read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from searchapp.models import FINISHED_STATES, EvaluationQuery, ItemImage, Job, JobState
from searchapp.services.base_training import KIND as TRAINING
from searchapp.services.database_clock import DatabaseNow
from searchapp.services.encoding import KIND as ENCODING
from searchapp.services.jobs import job_create
from searchapp.services.learning import KIND as LEARNING
from searchapp.services.training_plan import GROWTH, SCRATCH_FACTOR

KIND = "measure_pace"
PAUSE_SECONDS = 3600.0  # after a timing that failed
LEAST_ENCODED = 100  # photos; fewer say little of a rate
_LOOKED_AT = 20  # newest jobs of a kind


@dataclass(frozen=True, slots=True)
class TrainingRate:
    """So long takes training anew from so many photos, going on from a version."""

    seconds: float
    photos: int
    how: str


@dataclass(frozen=True, slots=True)
class EncodingRate:
    seconds_each: float
    how: str


@dataclass(frozen=True, slots=True)
class Rates:
    """What is known of this machine, and how many photos a full retrain and re-encode would be about."""

    to_train: int
    to_encode: int
    training: TrainingRate | None
    encoding: EncodingRate | None


@dataclass(frozen=True, slots=True)
class Savings:
    """None where nobody measured it."""

    update_seconds: float
    retrain_seconds: float | None
    encode_seconds: float | None
    how_measured: str
    sentence: str


def savings_of(result: Mapping[str, Any], rates: Rates | None = None) -> Savings:
    """Of an increment's job result; `rates` spares its queries to who asks for several."""
    here = rates_here() if rates is None else rates
    retrain = encode = None
    how = []
    if (training := here.training) is not None:
        retrain = training.seconds * (here.to_train / training.photos) ** GROWTH
        how.append(f"training: {training.how}")
    if (encoding := here.encoding) is not None:
        encode = encoding.seconds_each * here.to_encode
        how.append(f"encoding: {encoding.how}")
    update = float(result["seconds"])
    count = len(result.get("categories", ()))
    learned = f"Learned {count:,} categor{'y' if count == 1 else 'ies'} in {duration_words(update)}"
    return Savings(
        update_seconds=update,
        retrain_seconds=retrain,
        encode_seconds=encode,
        how_measured="; ".join(how),
        sentence=f"{learned}{_beside(retrain, encode, here.to_encode, '; '.join(how))}",
    )


def _beside(retrain: float | None, encode: float | None, photos: int, how: str) -> str:
    if retrain is None and encode is None:
        return ". How long a full retrain would take here was not measured yet."
    if retrain is None or encode is None:
        known = (
            "encoding all photos again alone"
            if retrain is None
            else "a full retrain, without encoding again,"
        )
        return f"; {known} takes about {duration_words(encode or retrain or 0.0)} here ({how})."
    return (
        f"; a full retrain and encoding all {photos:,} photos again take about "
        f"{duration_words(retrain + encode)} here ({how})."
    )


def rates_here() -> Rates:
    """In a fixed number of queries."""
    readable = ItemImage.objects.filter(failure="")
    held_out = EvaluationQuery.objects.values("image_sha256")
    timed = _newest(KIND)
    timing = next((job.result for job in timed if job.result), None) or {}
    return Rates(
        to_train=readable.exclude(image_sha256__in=held_out).count(),
        to_encode=readable.count(),
        training=_last_training() or _timed_training(timing),
        encoding=_last_encoding() or _timed_encoding(timing),
    )


def pace_start(user: AbstractBaseUser | None = None) -> Job:
    """A job that times a few steps and a few photos; one that still waits is given again."""
    return job_create(kind=KIND, payload={}, user=user, subject="Time this machine", coalesce=True)


@transaction.atomic
def pace_if_due() -> Job | None:
    """Once there is an increment to compare, and nothing was measured here that says what it saved."""
    increments = Job.objects.filter(kind=LEARNING, state=JobState.DONE)
    timed = Job.objects.filter(kind=KIND).exclude(state__in=(JobState.FAILED, JobState.CANCELLED))
    recent = Job.objects.filter(kind=KIND, created_at__gt=DatabaseNow(-PAUSE_SECONDS))
    busy = Job.objects.filter(queue=Job.Queue.TRAINING).exclude(state__in=FINISHED_STATES)
    if timed.exists() or recent.exists() or busy.exists() or not increments.exists():
        return None
    if _last_training() is not None and _last_encoding() is not None:
        return None
    return pace_start()


def duration_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _newest(kind: str) -> list[Job]:
    return list(Job.objects.filter(kind=kind, state=JobState.DONE).order_by("-finished_at")[:_LOOKED_AT])


def _last_training() -> TrainingRate | None:
    """Of trainings with the standard settings: others say nothing of them."""
    for job in _newest(TRAINING):
        result, payload = job.result or {}, job.payload
        if result.get("training_seconds") and result.get("photos") and not payload.get("config"):
            seconds, photos = float(result["training_seconds"]), int(result["photos"])
            took = f"{photos:,} photos in {duration_words(seconds)}"
            if payload.get("from_scratch"):
                how = f"half of the last one, which began from random weights, {took}"
                return TrainingRate(seconds / SCRATCH_FACTOR, photos, how)
            return TrainingRate(seconds, photos, f"as the last one did, {took}")
    return None


def _timed_training(timing: Mapping[str, Any]) -> TrainingRate | None:
    if not timing.get("step_seconds"):
        return None
    how = f"estimated from {timing['timed_steps']} timed steps of the {timing['steps']:,} it would take"
    return TrainingRate(timing["step_seconds"] * timing["steps"], timing["photos"], how)


def _last_encoding() -> EncodingRate | None:
    for job in _newest(ENCODING):
        result = job.result or {}
        if result.get("encoded", 0) >= LEAST_ENCODED and result.get("seconds"):
            how = f"as the last {result['encoded']:,} photos took, {duration_words(result['seconds'])}"
            return EncodingRate(result["seconds"] / result["encoded"], how)
    return None


def _timed_encoding(timing: Mapping[str, Any]) -> EncodingRate | None:
    if not timing.get("encoded_photos"):
        return None
    how = f"estimated from {timing['encoded_photos']} timed photos"
    return EncodingRate(timing["encode_seconds"] / timing["encoded_photos"], how)
