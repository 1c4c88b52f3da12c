"""What an operator needs to know of the model versions: which is in use, what each serves, and how good it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Count

from searchapp.models import Deployment, Evaluation, GalleryEntry, ItemImage, Job, ModelVersion
from searchapp.services.base_training import KIND
from searchapp.services.deploying import PROMOTE, ROLLBACK
from searchapp.services.measuring import held_out_fingerprint, held_out_queries, photos_without_entry

LISTED_TRAININGS = 20
LISTED_MOVES = 10


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """One version; counts are of photos that are in the catalogue now."""

    version: ModelVersion
    serving: tuple[Deployment, ...]
    entries: int
    comparable: tuple[str, ...]  # names of the other versions of its lineage
    evaluations: tuple[Evaluation, ...]

    @property
    def is_in_use(self) -> bool:
        return any(row.arm == Deployment.Arm.CHAMPION for row in self.serving)


@dataclass(frozen=True, slots=True)
class ModelOverview:
    versions: tuple[VersionFacts, ...]  # newest first
    in_use: Deployment | None
    previous: Deployment | None  # what going back would return to
    photos: int
    held_out: str  # fingerprint of the held-out photos there are now
    trainings: tuple[Job, ...]  # newest first
    moves: tuple[Job, ...]

    def facts_of(self, version: ModelVersion) -> VersionFacts:
        return next(facts for facts in self.versions if facts.version.pk == version.pk)


def model_overview() -> ModelOverview:
    """Everything the Models page shows, in a fixed number of queries."""
    versions = list(
        ModelVersion.objects.select_related("parent", "created_by").prefetch_related("evaluations")
    )
    live = list(
        Deployment.objects.filter(ended_at__isnull=True).select_related(
            "version", "created_by", "previous__version"
        )
    )
    entries = dict(GalleryEntry.objects.values_list("producer").order_by().annotate(count=Count("pk")))
    in_use = next((row for row in live if row.arm == Deployment.Arm.CHAMPION), None)
    return ModelOverview(
        versions=tuple(
            VersionFacts(
                version=version,
                serving=tuple(row for row in live if row.version_id == version.pk),
                entries=entries.get(version.pk, 0),
                comparable=_comparable(version, versions),
                evaluations=tuple(version.evaluations.all()),
            )
            for version in reversed(versions)
        ),
        in_use=in_use,
        previous=in_use.previous if in_use else None,
        photos=ItemImage.objects.filter(failure="").count(),
        held_out=held_out_fingerprint(held_out_queries()),
        trainings=tuple(trainings()),
        moves=tuple(moves()),
    )


def trainings() -> Sequence[Job]:
    """The latest trainings of base versions, newest first."""
    rows = Job.objects.filter(kind=KIND).select_related("created_by")
    return list(rows.order_by("-created_at")[:LISTED_TRAININGS])


def _comparable(version: ModelVersion, versions: Sequence[ModelVersion]) -> tuple[str, ...]:
    return tuple(
        other.name for other in versions if other.lineage == version.lineage and other.pk != version.pk
    )


def photos_out_of_reach(version: ModelVersion) -> int:
    """Readable photos that `version` cannot find, because nothing it can be compared with encoded them."""
    return photos_without_entry(version)


def training_named(job_id: UUID) -> Job | None:
    """A training of a base version by its job's id; None for any other job, or none."""
    return Job.objects.filter(kind=KIND, pk=job_id).select_related("created_by").first()


def moves() -> Sequence[Job]:
    """Promotions and roll-backs that still run, and the latest one."""
    rows = (
        Job.objects.filter(kind__in=(PROMOTE, ROLLBACK)).select_related("created_by").order_by("-created_at")
    )
    latest = list(rows[:LISTED_MOVES])
    return [job for number, job in enumerate(latest) if number == 0 or not job.is_finished]
