"""The job that judges a version: its verdict beside the version in use, or beside another."""

import time
from typing import Any

from django.contrib.auth.models import AbstractBaseUser

from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import Deployment, EvaluationSet, Job, ModelVersion
from searchapp.services import versions
from searchapp.services.jobs import JobRun, job_create
from searchapp.services.verdict_gates import gates_now
from searchapp.services.verdicts import verdict_make

KIND = "evaluate_version"


def evaluation_start(
    *,
    version: ModelVersion,
    user: AbstractBaseUser | None,
    against: ModelVersion | None = None,
    set_name: str = "",
) -> Job:
    """A job of kind "evaluate_version"; its result names the verdict. Two clicks are one job while it waits.

    Without `against` it is judged beside the version in use; that one beside the version it took the place of. Raises
    Conflict when there is nothing to judge it beside, InvalidInput for an unknown evaluation set.
    """
    other = against or compared_with(version)
    if other == version:
        raise Conflict(
            f"{version.name} cannot be judged beside itself; name another version to compare it with."
        )
    known = EvaluationSet.objects.values_list("name", flat=True)
    if set_name and set_name not in known:
        message = f"it is {set_name[:60]!r}, known: {', '.join(known) or 'none'}."
        raise InvalidInput(f"set: {message}", fields={"set": message})
    return job_create(
        kind=KIND,
        user=user,
        subject=f"Judge {version.name} beside {other.name}",
        payload={"version": version.name, "against": other.name, "set": set_name},
        coalesce=True,
    )


def evaluation_run(run: JobRun) -> dict[str, Any]:
    """Handler of "evaluate_version"."""
    started = time.monotonic()
    payload = run.payload
    version, against = versions.version_named(payload["version"]), versions.version_named(payload["against"])

    def heard(done: int, total: int) -> None:
        run.progress(done, total, f"judging {version.name} beside {against.name}")

    verdict = verdict_make(version, against, heard=heard, job=run.job, set_name=payload["set"])
    return {
        "verdict": verdict.pk,
        "version": version.name,
        "against": against.name,
        "gates": gates_now(verdict),
        "seconds": round(time.monotonic() - started, 2),
    }


def compared_with(version: ModelVersion) -> ModelVersion:
    """The version in use; for that one, the version it took the place of. Raises Conflict when there was none."""
    live = versions.champion()
    if live.version != version:
        return live.version
    earlier = Deployment.objects.filter(arm=Deployment.Arm.CHAMPION, pk__lt=live.pk).exclude(version=version)
    before = earlier.select_related("version").order_by("-pk").first()
    if before is None:
        raise Conflict(
            f"{version.name} is the only version that was ever in use; name one to judge it beside."
        )
    return before.version
