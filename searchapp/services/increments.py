"""Whether a version, or what serves, is another one that has only learned more categories since."""

from searchapp.models import Deployment, ModelVersion


def is_grown(version: ModelVersion, base: ModelVersion) -> bool:
    """Whether `version` is `base`, or came of it by increments."""
    step = version
    while step != base and step.parent is not None and step.parent.major == base.major:
        step = step.parent
    return step == base


def has_only_learned(live: Deployment, seen: int) -> bool:
    """Whether the champion `live` is the deployment numbered `seen`, or came of it by increments alone."""
    step = live
    while step.pk != seen:
        before = step.previous
        if before is None or not _is_increment(step.version, before.version):
            return False
        step = before
    return True


def _is_increment(version: ModelVersion, base: ModelVersion) -> bool:
    return (version.parent_id, version.major) == (base.pk, base.major)
