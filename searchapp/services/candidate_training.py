"""A candidate for an upgrade: an operator's wish, checked and made a job.

The work itself is services.candidate_run. The job's checkpoint is what a page draws its live curves from, and what a
retry goes on from. It is that of services.base_training, with two curves more and what the pilot said:

    {"stage": "reading" | "pilot" | "training" | "calibrating" | "measuring",
     "epochs": 60, "history": [{"epoch": 6, "loss": 3.2, "validation": 0.41, "cross": 0.39, "own": 0.43}, ...],
     "pilot": {"epochs": 6, "of_epochs": 60, "seconds": 31.0, "cross_map": 0.37, "own_map": 0.35, "old_map": 0.38,
               "gain": -0.01, "gain_low": -0.03, "gain_high": 0.01, "predicted_cross_map": 0.37,
               "predicted_seconds": 310.0, "words": "..."}}

`cross` is how photos that training never sees find the stored gallery, `own` how they would find one encoded anew;
`validation` is the mean of both, and the epoch where it is highest is kept.
"""

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AbstractBaseUser

from searchapp.exceptions import Conflict
from searchapp.models import GalleryEntry, Job, ModelVersion
from searchapp.services import versions
from searchapp.services.base_training import (
    CANDIDATE_KIND,
    LEAST_CATEGORIES,
    base_training_start,
    check_catalogue,
    check_choices,
    checked_scope,
    config_errors,
    invalid,
)
from searchapp.services.jobs import job_create
from searchapp.services.training_photos import training_sizes

HELD, INDEPENDENT = ("ndpp", "odpp", "bct"), "independent"
METHODS = (*HELD, INDEPENDENT)


def candidate_start(
    *,
    user: AbstractBaseUser | None,
    method: str,
    architecture: str = "budget",
    config: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    scope: Mapping[str, str] | None = None,
    seed: int = 0,
    pilot: bool = True,
) -> Job:
    """A training on the training queue, held to the stored gallery by `method`, one of HELD; it ends as a candidate.

    "independent" is free of the gallery: a base training, whose version begins a lineage of its own. config, epochs
    and scope are as for base_training_start. pilot: a tenth of the training first, which says what to expect. Raises
    InvalidInput (fields: method, architecture, config, epochs, scope, seed) and Conflict when there is too little to
    learn from or nothing is stored to be held to.
    """
    if method not in METHODS:
        raise invalid("method", f"it is {str(method)[:40]!r}, allowed: {', '.join(METHODS)}")
    if method == INDEPENDENT:
        return base_training_start(
            user=user, config=config, architecture=architecture, epochs=epochs, scope=scope, seed=seed
        )
    check_choices(architecture=architecture, epochs=epochs, seed=seed)
    scope = checked_scope(scope)
    sizes = training_sizes(scope)
    check_catalogue(sizes)
    champion = versions.default_version_ensure()
    _check_stored(champion)
    if config:
        with config_errors():
            from searchapp.services.training_recipe import candidate_recipe_with  # noqa: PLC0415  torch: seconds

            candidate_recipe_with(
                config,
                architecture,
                list(sizes.values()),
                parent=versions.bundle_of(champion),
                alignment=method,
                epochs=epochs,
            )
    return job_create(
        kind=CANDIDATE_KIND,
        user=user,
        subject=f"Train a candidate for {champion.name} ({method}, {architecture}) from {sum(sizes.values()):,} photos "
        f"of {len(sizes):,} categories",
        payload={
            "method": method,
            "architecture": architecture,
            "config": dict(config or {}),
            "epochs": epochs,
            "scope": scope,
            "seed": seed,
            "pilot": bool(pilot),
        },
    )


def _check_stored(version: ModelVersion) -> None:
    entries = GalleryEntry.objects.filter(producer__lineage=version.lineage)
    categories = entries.values("image__item__category").order_by().distinct().count()
    if categories < LEAST_CATEGORIES:
        raise Conflict(
            f"The gallery holds entries of {categories} categories by {version.name} and its lineage, at least "
            f"{LEAST_CATEGORIES} are needed for a candidate to be held to. Encode the photos first."
        )
