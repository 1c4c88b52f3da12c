"""What an operator needs to know of the model versions: which is in use, what each serves, and how good it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import Count

from searchapp.models import (
    Category,
    Deployment,
    Evaluation,
    GalleryEntry,
    ItemImage,
    Job,
    JobState,
    ModelVersion,
)
from searchapp.services.base_training import CANDIDATE_KIND, KIND
from searchapp.services.deploying import PROMOTE, ROLLBACK
from searchapp.services.drift_watch import KIND as WATCH
from searchapp.services.held_out import held_out_fingerprint, held_out_queries
from searchapp.services.learning import KIND as LEARNING
from searchapp.services.measuring import photos_without_entry

TRAININGS = (KIND, CANDIDATE_KIND)
LISTED_TRAININGS = 20
LISTED_MOVES = 10


@dataclass(frozen=True, slots=True)
class Increment:
    """What a version learned beside its parent: the result of the job that made it, and the categories' names."""

    result: Mapping[str, Any]
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """One version; counts are of photos that are in the catalogue now."""

    version: ModelVersion
    serving: tuple[Deployment, ...]
    entries: int
    comparable: tuple[str, ...]  # names of the other versions of its lineage
    evaluations: tuple[Evaluation, ...]
    increment: Increment | None = None

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
    others: tuple[Job, ...]  # newest of each other kind that concerns versions: increments, looks at drift
    candidate: Deployment | None = None  # the live canary, or the one in the shadow
    candidates: tuple[
        VersionFacts, ...
    ] = ()  # what could be put in use: newer ones, and those that never were

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
    increments = _increments()
    facts = tuple(
        VersionFacts(
            version=version,
            serving=tuple(row for row in live if row.version_id == version.pk),
            entries=entries.get(version.pk, 0),
            comparable=_comparable(version, versions),
            evaluations=tuple(version.evaluations.all()),
            increment=increments.get(version.name),
        )
        for version in reversed(versions)
    )
    return ModelOverview(
        versions=facts,
        in_use=in_use,
        previous=in_use.previous if in_use else None,
        photos=ItemImage.objects.filter(failure="").count(),
        held_out=held_out_fingerprint(held_out_queries()),
        trainings=tuple(trainings()),
        moves=tuple(moves()),
        others=tuple(_newest(LEARNING) + _newest(WATCH)),
        candidate=next((row for row in live if row.arm == Deployment.Arm.CANDIDATE), None),
        candidates=tuple(_candidates(facts, in_use)),
    )


def _candidates(facts: Sequence[VersionFacts], in_use: Deployment | None) -> list[VersionFacts]:
    """Those that stood behind the one in use are its history, not its future."""
    if in_use is None:
        return []
    now = (in_use.version.major, in_use.version.minor)
    champions = Deployment.objects.filter(arm=Deployment.Arm.CHAMPION)
    served = set(champions.order_by().values_list("version", flat=True).distinct())
    return [
        one
        for one in facts
        if not one.is_in_use
        and ((one.version.major, one.version.minor) > now or one.version.pk not in served)
    ]


def unlearned(version: ModelVersion, target: ModelVersion) -> list[str]:
    """Names of the categories that wait to be learned again once `target` answers instead of `version`."""
    lost = set(version.label_registry) - set(target.label_registry)
    rows = Category.objects.filter(slug__in=lost, learn_asked_at__isnull=False)
    return list(rows.order_by("name").values_list("name", flat=True))


def _increments() -> dict[str, Increment]:
    """By the name of the version that came of each."""
    done = Job.objects.filter(kind=LEARNING, state=JobState.DONE).values_list("result", flat=True)
    results = [result for result in done if result and result.get("version")]
    slugs = {slug for result in results for slug in result["categories"]}
    names = dict(Category.objects.filter(slug__in=slugs).values_list("slug", "name"))
    return {
        result["version"]: Increment(result, tuple(names.get(slug, slug) for slug in result["categories"]))
        for result in results
    }


def _newest(kind: str) -> list[Job]:
    return list(Job.objects.filter(kind=kind).select_related("created_by").order_by("-created_at")[:1])


def trainings() -> Sequence[Job]:
    """The latest trainings of base versions and candidates, newest first."""
    rows = Job.objects.filter(kind__in=TRAININGS).select_related("created_by")
    return list(rows.order_by("-created_at")[:LISTED_TRAININGS])


def _comparable(version: ModelVersion, versions: Sequence[ModelVersion]) -> tuple[str, ...]:
    return tuple(
        other.name for other in versions if other.lineage == version.lineage and other.pk != version.pk
    )


def photos_out_of_reach(version: ModelVersion) -> int:
    """Readable photos that `version` cannot find, because nothing it can be compared with encoded them."""
    return photos_without_entry(version)


def training_named(job_id: UUID) -> Job | None:
    """A training of a base version or a candidate by its job's id; None for any other job, or none."""
    return Job.objects.filter(kind__in=TRAININGS, pk=job_id).select_related("created_by").first()


def moves() -> Sequence[Job]:
    """Promotions and roll-backs that still run, and the latest one."""
    rows = (
        Job.objects.filter(kind__in=(PROMOTE, ROLLBACK)).select_related("created_by").order_by("-created_at")
    )
    latest = list(rows[:LISTED_MOVES])
    return [job for number, job in enumerate(latest) if number == 0 or not job.is_finished]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a version stands now: what it serves, and the version it is naturally judged beside."""

    is_in_use: bool
    candidate: Deployment | None  # the live canary or shadow, of whatever version
    beside: ModelVersion | None
    previous: ModelVersion | None  # what going back would put in use

    def is_tried(self, version: ModelVersion) -> bool:
        """Whether this version answers a part of the queries, or runs in the shadow."""
        return self.candidate is not None and self.candidate.version_id == version.pk


def standing_of(version: ModelVersion) -> Standing:
    """Beside the version in use; the one in use itself beside the one before it."""
    live = {
        row.arm: row
        for row in Deployment.objects.filter(ended_at__isnull=True).select_related(
            "version", "previous__version", "created_by"
        )
    }
    champion = live.get(Deployment.Arm.CHAMPION)
    previous = champion.previous.version if champion and champion.previous else None
    is_in_use = champion is not None and champion.version_id == version.pk
    beside = previous if is_in_use else champion.version if champion else None
    return Standing(is_in_use, live.get(Deployment.Arm.CANDIDATE), beside, previous)
