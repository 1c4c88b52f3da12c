"""Categories that came to a gallery in use are learned by an increment: the wish, checked and made a job.

The work itself is services.learning_run. The job's checkpoint is what pages follow:

    {"stage": "waiting" | "reading" | "training" | "checking" | "publishing",
     "categories": ["granny-smith"], "photos": 26, "epochs": 15, "history": [{"epoch": 1, "loss": 0.31}, ...],
     "gates": [...]}                                          # once they were measured, also of one that was refused
"""

from collections.abc import Collection, Sequence

from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from searchapp.exceptions import Conflict, InvalidInput, SearchAppError
from searchapp.models import Category, Deployment, ItemImage, Job, ModelVersion
from searchapp.services.jobs import job_create

KIND = "learn_categories"
SHOWN = 3  # categories named in a job's subject


class MovedMeanwhile(SearchAppError):
    """What serves, or what is stored, is not what the increment was learned from: it has to begin anew."""

    code = "conflict"
    status = 409


def learn_start(*, user: AbstractBaseUser | None, categories: Sequence[str] = ()) -> Job:
    """A job that learns categories by their slugs; without any, all that wait and have photos when it starts.

    So one of the latter kind that still waits takes later wishes along. Raises InvalidInput for a category that does
    not exist or is known already, Conflict when there is nothing to learn.
    """
    waiting = waiting_categories(version_in_use())
    if categories:
        _check(categories, set(waiting.values_list("slug", flat=True)))
        waiting = waiting.filter(slug__in=categories)
    names = list(waiting.filter(has_photos()).values_list("name", flat=True))
    if not names:
        raise Conflict("There is nothing to learn: no category with photos waits for it.")
    named = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    payload = {"categories": sorted(set(categories))}
    return job_create(kind=KIND, payload=payload, user=user, subject=f"Learn {named}", coalesce=True)


def waiting_categories(version: ModelVersion | None) -> QuerySet[Category]:
    """Those that came to a gallery in use and that `version` has not learned, first come, first."""
    return Category.objects.filter(pk__in=waiting_ids(version)).order_by("learn_asked_at", "pk")


def waiting_ids(version: ModelVersion | None) -> list[int]:
    """The same by their ids, in one query."""
    asked = Category.objects.filter(learn_asked_at__isnull=False).order_by()
    learned = frozenset(version.label_registry if version is not None else ())
    # Compared here: a registry may name more slugs than a database takes parameters.
    return [pk for pk, slug in asked.values_list("pk", "slug") if slug not in learned]


def learned_slugs() -> frozenset[str]:
    """What the version in use has learned, or knew when it learned the first."""
    version = version_in_use()
    return frozenset(version.label_registry if version is not None else ())


def learn_ask(categories: Collection[Category]) -> None:
    """Mark categories as waiting to be learned; those that wait already keep their place."""
    ids = [category.pk for category in categories]
    Category.objects.filter(pk__in=ids, learn_asked_at__isnull=True).update(learn_asked_at=timezone.now())


def version_in_use() -> ModelVersion | None:
    live = Deployment.objects.filter(arm=Deployment.Arm.CHAMPION, ended_at__isnull=True)
    row = live.select_related("version").first()
    return None if row is None else row.version


def has_photos() -> Exists:
    """Of a category: it holds a readable photo."""
    return Exists(ItemImage.objects.filter(item__category=OuterRef("pk"), failure=""))


def _check(wanted: Sequence[str], waiting: set[str]) -> None:
    present = set(Category.objects.filter(slug__in=wanted).values_list("slug", flat=True))
    missing = sorted(set(wanted) - present)
    if missing:
        message = f"there is no category {', '.join(missing)[:200]}"
        raise InvalidInput(f"category: {message}", fields={"category": message})
    known = sorted(set(wanted) - waiting)
    if known:
        message = f"{', '.join(known)[:200]}: known already; only categories that wait can be learned"
        raise InvalidInput(f"category: {message}", fields={"category": message})
