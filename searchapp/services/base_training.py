"""A base version trained from the catalogue's own photos: the operator's wish, checked and made a job.

The work itself is services.training_run. The job's checkpoint is what a page draws its live curve from:

    {"stage": "reading" | "training" | "encoding" | "measuring",
     "epochs": 60,                                            # planned; absent before training
     "history": [{"epoch": 1, "loss": 3.2, "validation": 0.41}, ...]}

`history` holds at most HISTORY_POINTS points, oldest first; when it is full, every second one is dropped, validated
epochs last. `validation` (0 to 1, higher is better) is there only for the epochs that were validated.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Q

from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import FINISHED_STATES, Category, Job, Vertical
from searchapp.services.database_clock import DatabaseNow
from searchapp.services.jobs import job_create
from searchapp.services.training_photos import training_sizes

KIND = "train_base"
CANDIDATE_KIND = "train_candidate"
ARCHITECTURES = ("parity", "budget", "residual")
MOST_EPOCHS, MOST_SEED = 2000, 2**31 - 1
LEAST_CATEGORIES = 2
HISTORY_POINTS = 120
KEPT_SECONDS = 7 * 24 * 3600.0  # how long a cancelled or failed training can be retried from where it stopped


def base_training_start(
    *,
    user: AbstractBaseUser | None,
    config: Mapping[str, Any] | None = None,
    label_fraction: float = 1.0,
    architecture: str = "parity",
    from_scratch: bool = False,
    epochs: int | None = None,
    scope: Mapping[str, str] | None = None,
    seed: int = 0,
    promote: bool = False,
) -> Job:
    """A training job of kind "train_base"; it waits when another training runs.

    config: values of ml.base_version.recipe.Recipe to change, nested alike. epochs: None for as many as suit the
    catalogue. scope: {"category": slug} or {"vertical": name} for their photos alone. promote: put the candidate in use
    when its gate passes. Raises InvalidInput (fields: config, label_fraction, architecture, epochs, scope, seed) and
    Conflict when the catalogue has too little to learn from.
    """
    _check_label_fraction(label_fraction)
    check_choices(architecture=architecture, epochs=epochs, seed=seed)
    scope = checked_scope(scope)
    sizes = training_sizes(scope)
    check_catalogue(sizes)
    if config:
        with config_errors():
            from searchapp.services.training_recipe import recipe_with  # noqa: PLC0415  torch takes seconds to load

            recipe_with(config, architecture, list(sizes.values()), from_scratch=from_scratch, epochs=epochs)
    return job_create(
        kind=KIND,
        user=user,
        subject=f"Train a base version from {sum(sizes.values()):,} photos of {len(sizes):,} categories",
        payload={
            "config": dict(config or {}),
            "label_fraction": float(label_fraction),
            "architecture": architecture,
            "from_scratch": from_scratch,
            "epochs": epochs,
            "scope": scope,
            "seed": seed,
            "promote": promote,
        },
    )


def training_leftovers_remove() -> int:
    """Remove the folders of learnings that ended, and of trainings that did so long ago and that nobody retried.

    A learning that is retried begins in a folder of its own. Returns how many went.
    """
    removed = 0
    for folder in Path(settings.TRAINING_DIR).glob("????????-????-????-????-????????????"):  # named by a job
        jobs = Job.objects.filter(Q(pk=folder.name) | Q(checkpoint__folder=folder.name))
        unfinished = jobs.exclude(state__in=FINISHED_STATES)
        retriable = jobs.filter(kind__in=(KIND, CANDIDATE_KIND), finished_at__gt=DatabaseNow(-KEPT_SECONDS))
        if not (unfinished | retriable).exists():
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def check_choices(*, architecture: str, epochs: int | None, seed: int) -> None:
    """Raises InvalidInput naming the first that is not allowed, what it is and what is."""
    if architecture not in ARCHITECTURES:
        raise invalid(
            "architecture", f"it is {str(architecture)[:40]!r}, allowed: {', '.join(ARCHITECTURES)}"
        )
    for name, value, least, most in (("epochs", epochs, 1, MOST_EPOCHS), ("seed", seed, 0, MOST_SEED)):
        if value is not None and (type(value) is not int or not least <= value <= most):
            raise invalid(name, f"it is {str(value)[:40]}, allowed: a whole number from {least} to {most:,}")


def checked_scope(scope: Mapping[str, Any] | None) -> dict[str, str]:
    """The photos to train on: {} for all, else one category with what is beneath it, or one vertical."""
    if not scope:
        return {}
    allowed = 'allowed: {} for everything, {"category": slug} or {"vertical": name}'
    if not isinstance(scope, Mapping) or len(scope) != 1 or not {"category", "vertical"} & set(scope):
        raise invalid("scope", f"it is {str(scope)[:80]}, {allowed}")
    [(name, value)] = scope.items()
    if name == "vertical" and value not in Vertical.values:
        raise invalid("scope", f"vertical is {str(value)[:40]!r}, allowed: {', '.join(Vertical.values)}")
    if name == "category" and not Category.objects.filter(slug=str(value)).exists():
        raise invalid("scope", f"there is no category {str(value)[:80]!r}, allowed: the slug of one")
    return {name: str(value)}


def check_catalogue(sizes: Mapping[str, int]) -> None:
    """Raises Conflict when so many photos of each category are too little to learn from."""
    if len(sizes) < LEAST_CATEGORIES:
        raise Conflict(
            f"There is too little to learn from: {len(sizes)} categories have two or more photos that may be trained "
            f"on (held-out queries may not), at least {LEAST_CATEGORIES} are needed. Add photos or categories."
        )


@contextmanager
def config_errors() -> Iterator[None]:
    """What a recipe refuses is the caller's mistake: said now, and not by the training in minutes."""
    try:
        yield
    except ValueError as error:
        raise invalid("config", str(error)) from error


def invalid(field: str, problem: str) -> InvalidInput:
    """One wrong field of a wish."""
    return InvalidInput(f"{field}: {problem}", fields={field: problem})


def _check_label_fraction(label_fraction: float) -> None:
    if isinstance(label_fraction, bool) or not isinstance(label_fraction, int | float):
        raise invalid("label_fraction", f"it is {label_fraction!r}, allowed: a number above 0, up to 1")
    if not 0 < label_fraction <= 1:  # also NaN
        raise invalid("label_fraction", f"it is {label_fraction:g}, allowed: above 0, up to 1")
