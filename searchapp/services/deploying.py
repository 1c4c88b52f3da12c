"""Which version answers: put a candidate in use, and go back. Both move one pointer and touch no entry."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser

from searchapp.models import Job, ModelVersion


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a version may not be put in use. An override reason lifts those that can be overridden."""

    name: str  # "entries", "gate", "in_use" ...
    message: str  # in words, for people
    can_override: bool


def obstacles_of(version: ModelVersion) -> list[Obstacle]:
    """What stands between a version and its use; empty when it may be promoted at once."""
    raise NotImplementedError


def version_promote(
    *, version: ModelVersion, user: AbstractBaseUser | None, override_reason: str = "", share: int = 100
) -> Job:
    """A job of kind "promote" that checks the version, then moves the champion pointer to it.

    The job's result: {serving, previous, seconds, gallery_digest_before, gallery_digest_after}. Raises Conflict when
    obstacles_of() has one that no override lifts, or one that can be lifted and there is no reason; InvalidInput for
    a share other than 100.
    """
    raise NotImplementedError


def version_rollback(*, user: AbstractBaseUser | None) -> Job:
    """A job of kind "rollback", already run when this returns: the deployment before the live one serves again.

    Its result has the shape of version_promote's. Raises Conflict when there is nothing to go back to.
    """
    raise NotImplementedError


def rollback_target() -> ModelVersion | None:
    """The version that version_rollback would put in use; None when there is nothing to go back to."""
    raise NotImplementedError
