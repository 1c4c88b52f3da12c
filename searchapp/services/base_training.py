"""A base version trained from the catalogue's own photos: the operator's wish, checked and made a job.

The work itself is services.training_run. The job's checkpoint is what a page draws its live curve from:

    {"stage": "reading" | "training" | "encoding" | "measuring",
     "epochs": 60,                                            # planned; absent before training
     "history": [{"epoch": 1, "loss": 3.2, "validation": 0.41}, ...]}

`history` holds at most HISTORY_POINTS points, oldest first; when it is full, every second one is dropped, validated
epochs last. `validation` (0 to 1, higher is better) is there only for the epochs that were validated.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Q

from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import FINISHED_STATES, Job
from searchapp.services.database_clock import DatabaseNow
from searchapp.services.jobs import job_create
from searchapp.services.training_photos import category_sizes, training_photos

KIND = "train_base"
ARCHITECTURES = ("parity", "budget")
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
    promote: bool = False,
) -> Job:
    """A training job of kind "train_base"; it waits when another training runs.

    config: values of ml.base_version.recipe.Recipe to change, nested alike. promote: put the candidate in use when its
    gate passes. Raises InvalidInput (fields: config, label_fraction, architecture) and Conflict when the catalogue has
    too little to learn from.
    """
    _check_choices(label_fraction, architecture)
    sizes = category_sizes(training_photos())
    _check_catalogue(sizes)
    if config:
        _check_config(config, architecture, sizes, from_scratch=from_scratch)
    return job_create(
        kind=KIND,
        user=user,
        subject=f"Train a base version from {sum(sizes.values()):,} photos of {len(sizes):,} categories",
        payload={
            "config": dict(config or {}),
            "label_fraction": float(label_fraction),
            "architecture": architecture,
            "from_scratch": from_scratch,
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
        retriable = jobs.filter(kind=KIND, finished_at__gt=DatabaseNow(-KEPT_SECONDS))
        if not (unfinished | retriable).exists():
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def _check_choices(label_fraction: float, architecture: str) -> None:
    if isinstance(label_fraction, bool) or not isinstance(label_fraction, int | float):
        raise _invalid("label_fraction", f"it is {label_fraction!r}, allowed: a number above 0, up to 1")
    if not 0 < label_fraction <= 1:  # also NaN
        raise _invalid("label_fraction", f"it is {label_fraction:g}, allowed: above 0, up to 1")
    if architecture not in ARCHITECTURES:
        raise _invalid(
            "architecture", f"it is {str(architecture)[:40]!r}, allowed: {', '.join(ARCHITECTURES)}"
        )


def _check_catalogue(sizes: Mapping[str, int]) -> None:
    if len(sizes) < LEAST_CATEGORIES:
        raise Conflict(
            f"There is too little to learn from: {len(sizes)} categories have two or more photos that may be trained "
            f"on (held-out queries may not), at least {LEAST_CATEGORIES} are needed. Add photos or categories."
        )


def _check_config(
    config: Mapping[str, Any], architecture: str, sizes: Mapping[str, int], *, from_scratch: bool
) -> None:
    """Refuse now what the training would refuse in minutes."""
    from searchapp.services.training_recipe import recipe_with  # noqa: PLC0415  torch takes seconds to load

    try:
        recipe_with(config, architecture, list(sizes.values()), from_scratch=from_scratch)
    except ValueError as error:
        raise _invalid("config", str(error)) from error


def _invalid(field: str, problem: str) -> InvalidInput:
    return InvalidInput(f"{field}: {problem}", fields={field: problem})
