"""What a training from this catalogue would learn from, counted without changing anything, and how long it may take.

The photos are those of services.training_photos, which also chooses the evaluation queries that are still missing.
"""

from dataclasses import dataclass
from typing import Any

from django.db.models import Count, QuerySet

from searchapp.models import EvaluationQuery, ItemImage, Job, JobState
from searchapp.services.base_training import KIND, LEAST_CATEGORIES
from searchapp.services.training_photos import LEAST_PHOTOS, left_out, usable_photos

# As in ml.base_version.catalogue, which takes torch and so seconds to load.
GROWTH, SCRATCH_FACTOR = 0.6, 2  # steps grow more slowly than the catalogue; random weights take more of them
CHECKED_ONE_IN, CHECKED_LEAST = 8, 8  # of each category of eight or more, these check the training


@dataclass(frozen=True, slots=True)
class Pace:
    """One finished training, as the measure for the next."""

    seconds: float
    photos: int
    architecture: str
    from_scratch: bool


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    photos: int  # of categories that can be learned; each content once, and none that is held out
    categories: int
    checked: int  # of these photos, those that only tell training when it is at its best
    held_out: int  # evaluation queries: never trained on
    left_out: int  # would be evaluation queries if their category were larger
    unreadable: int
    too_few: tuple[str, ...]  # paths of the categories with fewer than LEAST_PHOTOS photos to train on
    pace: Pace | None

    @property
    def is_possible(self) -> bool:
        return self.categories >= LEAST_CATEGORIES

    def seconds_expected(self) -> float | None:
        """At the pace of the last training, going on from a version; None when none was finished yet."""
        if self.pace is None:
            return None
        seconds = self.pace.seconds / (SCRATCH_FACTOR if self.pace.from_scratch else 1)
        return float(seconds * (self.photos / self.pace.photos) ** GROWTH)


def training_plan() -> TrainingPlan:
    """Counts as of now: what changes between this and the start of the training changes them."""
    usable, is_left_out = usable_photos(), left_out()
    sizes = _sizes(usable.exclude(is_left_out))
    learned = [size for size in sizes.values() if size >= LEAST_PHOTOS]
    present = ItemImage.objects.values_list("item__category__path", flat=True).order_by().distinct()
    return TrainingPlan(
        photos=sum(learned),
        categories=len(learned),
        checked=sum(size // CHECKED_ONE_IN for size in learned if size >= CHECKED_LEAST),
        held_out=EvaluationQuery.objects.count(),
        left_out=usable.filter(is_left_out).count(),
        unreadable=ItemImage.objects.exclude(failure="").count(),
        too_few=tuple(path for path in sorted(present) if sizes.get(path, 0) < LEAST_PHOTOS),
        pace=_last_pace(),
    )


def _sizes(photos: QuerySet[ItemImage]) -> dict[str, int]:
    """How many of them, equal ones once, are in each category, by its path."""
    counted = photos.values_list("item__category__path").order_by()
    return dict(counted.annotate(count=Count("image_sha256", distinct=True)))


def _last_pace() -> Pace | None:
    done = Job.objects.filter(kind=KIND, state=JobState.DONE).order_by("-finished_at").first()
    result: dict[str, Any] = (done.result if done else None) or {}
    if not result.get("seconds") or not result.get("photos"):
        return None
    from_scratch = bool(done and done.payload.get("from_scratch"))
    architecture = str(result.get("architecture", ""))
    return Pace(float(result["seconds"]), int(result["photos"]), architecture, from_scratch)
