"""Everything that is kept of one version: where it comes from, what it made, how its similarities are read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.db.models import Count

from ml.artifacts import BundleError
from searchapp.models import GalleryEntry, ModelVersion, PairCalibration, Provenance, Verdict
from searchapp.services import versions as registry
from searchapp.services.deployment_history import HistoryEntry, history

_LISTED = 20


@dataclass(frozen=True, slots=True)
class VersionRecord:
    version: ModelVersion
    ancestors: tuple[ModelVersion, ...]  # the oldest first
    children: tuple[ModelVersion, ...]
    lineage: tuple[ModelVersion, ...]  # the others that its codes may be compared with
    encoded: int
    solved: int
    calibrations: tuple[PairCalibration, ...]  # measured here; the bundle's own are in its manifest
    judged_beside: tuple[str, ...]  # versions it has a verdict beside, the newest first
    history: Sequence[HistoryEntry]
    manifest: Mapping[str, Any]  # of its bundle; what the row keeps of it when that cannot be read
    problem: str  # why it cannot be read; "" when every file of it is whole


def version_record(version: ModelVersion) -> VersionRecord:
    """In a fixed number of queries, whatever the version has made. Reads and checks its files."""
    manifest, problem = _manifest(version)
    versions = list(ModelVersion.objects.all())
    made = GalleryEntry.objects.filter(producer=version).values_list("provenance").order_by()
    counts = dict(made.annotate(count=Count("pk")))
    calibrations = PairCalibration.objects.filter(query_version=version).select_related("producer")
    beside = Verdict.objects.filter(version=version).values_list("against", flat=True)[:_LISTED]
    names = {one.pk: one.name for one in versions}
    return VersionRecord(
        version=version,
        ancestors=_ancestors(version, versions),
        children=tuple(one for one in versions if one.parent_id == version.pk),
        lineage=tuple(one for one in versions if one.lineage == version.lineage and one.pk != version.pk),
        encoded=counts.get(Provenance.ENCODED, 0),
        solved=counts.get(Provenance.SOLVED, 0),
        calibrations=tuple(calibrations.order_by("producer__major", "producer__minor", "corrector_digest")),
        judged_beside=tuple(dict.fromkeys(names[pk] for pk in beside)),
        history=history(limit=_LISTED, version=version),
        manifest=manifest,
        problem=problem,
    )


def _ancestors(version: ModelVersion, versions: Sequence[ModelVersion]) -> tuple[ModelVersion, ...]:
    by_pk = {one.pk: one for one in versions}
    found: list[ModelVersion] = []
    parent = version.parent_id
    while parent is not None:
        found.append(by_pk[parent])
        parent = by_pk[parent].parent_id
    return tuple(reversed(found))


def _manifest(version: ModelVersion) -> tuple[Mapping[str, Any], str]:
    try:
        return asdict(registry.bundle_of(version).manifest), ""
    except (BundleError, OSError) as error:
        return version.manifest, registry.without_folders(str(error), version)
