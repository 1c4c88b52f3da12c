"""Correct the gallery: stored embeddings of older trunks as a newer version sees them, no photo opened but a sample.

What is fitted is a bundle and a view, never a row (services.correcting_run does it, services.correctors keeps it), so
going back is one move of the pointer.
"""

import math
from collections.abc import Mapping

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import FINISHED_STATES, Deployment, Job, ModelVersion
from searchapp.services import deploying, versions
from searchapp.services.jobs import job_create
from searchapp.services.stale_entries import stale_photos

KIND = "correct_gallery"
# Photos of each source trunk to encode anew: one in a hundred, but enough to fit a map of D x D to (the method's
# experiments took as many, docs/results.md), and of a very large gallery no more than the method's warm-up.
ONE_IN, PER_DIMENSION, MOST_USUAL = 100, 4, 5_000
LEAST_ITEMS, MOST_ITEMS = 40, 100_000
CALIBRATED_ON = 512  # photos that similarities to corrected entries are read from, each encoded for it


def correction_start(
    *,
    user: AbstractBaseUser | None,
    fit_items: int | None = None,
    version: ModelVersion | None = None,
    override_reason: str = "",
) -> Job:
    """A job of kind "correct_gallery" for the version in use, or for a candidate of its lineage.

    What passes its gate is put in use at once; a candidate's view is only kept, for its promotion. A reason overrides
    the gate. Raises Conflict when nothing is stale, for a version of another lineage, and while another correction is
    under way (the same one is given again); InvalidInput for a number that is not allowed.
    """
    if fit_items is not None and not LEAST_ITEMS <= fit_items <= MOST_ITEMS:
        message = f"it is {fit_items}, allowed: {LEAST_ITEMS} to {MOST_ITEMS:,}"
        raise InvalidInput(f"fit_items: {message}", fields={"fit_items": message})
    live = versions.champion()
    wanted = version or live.version
    correction_check(wanted, live.version)
    payload = {
        "version": wanted.name,
        "fit_items": fit_items,
        "override_reason": override_reason.strip()[:500],
    }
    with transaction.atomic():
        Deployment.objects.select_for_update().get(pk=live.pk)  # two clicks, one after the other
        going = (
            Job.objects.filter(kind=KIND, cancel_requested=False).exclude(state__in=FINISHED_STATES).first()
        )
        if going is not None and going.payload != payload:
            raise Conflict("Another correction is under way; wait for it, or cancel it first.")
        return going or job_create(
            kind=KIND,
            user=user,
            subject=f"Correct the gallery for {wanted.name}",
            payload=payload,
        )


def correction_check(version: ModelVersion, live: ModelVersion) -> None:
    """Raise Conflict, in words, when there is nothing that a correction for `version` could do."""
    if version.lineage != live.lineage:
        raise Conflict(
            f"{version.name} is of another lineage than {live.name}: their codes cannot be compared, so corrected "
            f"embeddings alone would not be found. Encode the photos: "
            f"`manage.py encode_missing --model-version {version.name}`."
        )
    if version == live and (trial := deploying.candidate_live()) is not None:
        raise Conflict(
            f"{trial.version.name} is being tried beside {live.name}, whose gallery would change under the comparison; "
            "end the trial first."
        )
    if not stale_photos(version).exists():
        raise Conflict(f"There is nothing to correct: {version.name} has encoded every photo itself.")


def items_to_fit(
    entries: Mapping[int, int], dimension: int, fit_items: int | None = None
) -> Mapping[int, int]:
    """How many photos of each source trunk to encode anew: of `fit_items` in proportion, else the usual number.

    entries: by trunk. Never more than a trunk has.
    """
    if fit_items is None:
        usual = {trunk: math.ceil(count / ONE_IN) for trunk, count in entries.items()}
        return {
            trunk: min(count, max(PER_DIMENSION * dimension, min(MOST_USUAL, usual[trunk])))
            for trunk, count in entries.items()
        }
    total = max(1, sum(entries.values()))
    return {
        trunk: min(count, max(LEAST_ITEMS, round(fit_items * count / total)))
        for trunk, count in entries.items()
    }
