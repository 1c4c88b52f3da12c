"""What a training from this catalogue would see: photos, categories, what is kept out, and how long it may take."""

from dataclasses import dataclass
from typing import Any

from django.db.models import Count

from searchapp.models import EvaluationQuery, ItemImage, Job, JobState

TRAINING_KIND = "train_base"
LEAST_PHOTOS = 2  # a single photo has no second one of its category to be told to resemble
LEAST_CATEGORIES = 2


@dataclass(frozen=True, slots=True)
class Pace:
    """One finished training, as the measure for the next."""

    seconds: float
    photos: int
    architecture: str


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    photos: int  # of categories that can be learned; neither held out nor unreadable
    categories: int
    held_out: int  # evaluation queries: never trained on
    unreadable: int
    too_few: tuple[str, ...]  # paths of the categories with fewer than LEAST_PHOTOS photos to train on
    pace: Pace | None

    @property
    def is_possible(self) -> bool:
        return self.categories >= LEAST_CATEGORIES

    def seconds_expected(self) -> float | None:
        """At the pace of the last training; None when none was finished yet."""
        return self.pace.seconds * self.photos / self.pace.photos if self.pace else None


def training_plan() -> TrainingPlan:
    """Counts as of now: what changes between this and the start of the training changes them."""
    held_out = EvaluationQuery.objects.values("image_sha256")
    present = ItemImage.objects.values_list("item__category__path").order_by()
    usable = present.filter(failure="").exclude(image_sha256__in=held_out)
    sizes: dict[str, int] = dict(usable.annotate(count=Count("pk")))
    learned = [size for size in sizes.values() if size >= LEAST_PHOTOS]
    return TrainingPlan(
        photos=sum(learned),
        categories=len(learned),
        held_out=EvaluationQuery.objects.count(),
        unreadable=ItemImage.objects.exclude(failure="").count(),
        too_few=tuple(path for (path,) in sorted(present.distinct()) if sizes.get(path, 0) < LEAST_PHOTOS),
        pace=_last_pace(),
    )


def _last_pace() -> Pace | None:
    done = Job.objects.filter(kind=TRAINING_KIND, state=JobState.DONE).order_by("-finished_at").first()
    result: dict[str, Any] = (done.result if done else None) or {}
    if not result.get("seconds") or not result.get("photos"):
        return None
    return Pace(float(result["seconds"]), int(result["photos"]), str(result.get("architecture", "")))
