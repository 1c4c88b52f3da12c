"""How far a category is on its way to be searchable and learned: five steps, its photos, its job and the proof.

Everything is read from rows, so the page says the same after a restart, on another machine, or a year later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from django.db.models import Case, CharField, Count, Exists, OuterRef, Q, QuerySet, Value, When

from searchapp.models import (
    FINISHED_STATES,
    Category,
    EvaluationQuery,
    GalleryEntry,
    ItemImage,
    Job,
    JobState,
    ModelVersion,
)
from searchapp.services import encoding, learning
from searchapp.services.category_proof import Gate, Proof, gates_of, proof_of, result_of
from searchapp.services.jobs import eta_seconds
from searchapp.services.savings import savings_of

LATEST_JOBS = 200  # far more than ever matter: each holds what it learned
PHOTOS_SHOWN = 60

StepState = Literal["done", "now", "waiting", "failed", "skipped"]
LearningState = Literal["known", "learned", "learning", "waiting"]
PhotoState = Literal["learned", "searchable", "provisional", "pending", "failed"]


@dataclass(frozen=True, slots=True)
class Step:
    """`done` of `total` photos, or parts of the work; total 0: there is nothing to count."""

    name: Literal["uploaded", "checked", "learning", "coded", "searchable"]
    state: StepState
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class PhotoProgress:
    image: ItemImage
    state: PhotoState
    reason: str
    is_held_out: bool  # it measures answers and is not learned from


@dataclass(frozen=True, slots=True)
class PhotoCounts:
    total: int = 0
    failed: int = 0
    findable: int = 0  # by the version in use, provisional codes included
    coded: int = 0  # by a version that has learned the category

    @property
    def usable(self) -> int:
        return self.total - self.failed

    @property
    def pending(self) -> int:
        return self.usable - self.findable


@dataclass(frozen=True, slots=True)
class CategoryProgress:
    category: Category
    state: LearningState
    counts: PhotoCounts
    steps: tuple[Step, ...]
    photos: tuple[PhotoProgress, ...]  # the first PHOTOS_SHOWN
    job: Job | None  # the one that learns it, has learned it, or was the last to try
    eta_seconds: float | None
    version: ModelVersion | None  # in use
    learned_by: (
        ModelVersion | None
    )  # where the version in use has it from, or (after going back) the latest that knows
    proof: Proof | None
    savings: str  # beside a full retrain, in a sentence; empty without proof
    gates: tuple[Gate, ...]  # of the last attempt, also of one that was refused
    is_active: bool
    may_learn: bool
    try_with: EvaluationQuery | None  # a held-out photo of it

    @property
    def is_forgotten(self) -> bool:
        """Learned by a version that is not in use any more."""
        return self.state in {"waiting", "learning"} and self.learned_by is not None

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)


def category_progress(category: Category) -> CategoryProgress:
    """The category as it stands now; a dozen queries whatever the size of the catalogue."""
    version = learning.version_in_use()
    lineage = _lineage(version)
    knowing = [row for row in lineage if category.slug in row.label_registry]
    learned_by = _learned_by(version, knowing)
    state, job = _state_and_job(category, version, learned_by)
    images = _images(category, lineage, knowing if state == "learned" else [])
    counts = _counts(images, is_known=state == "known")
    proof = proof_of(job) if job is not None and state == "learned" else None
    is_active = job is not None and not job.is_finished
    return CategoryProgress(
        category=category,
        state=state,
        counts=counts,
        steps=_steps(state, counts, job),
        photos=tuple(_photo(image, state) for image in images[:PHOTOS_SHOWN]),
        job=job,
        eta_seconds=eta_seconds(job) if job is not None and is_active else None,
        version=version,
        learned_by=learned_by if state != "known" else None,
        proof=proof,
        savings=savings_of(result_of(job)).sentence if proof and job else "",
        gates=gates_of(job),
        is_active=is_active or bool(counts.pending and _is_encoding()),
        may_learn=state == "waiting" and not is_active and counts.usable > 0,
        try_with=EvaluationQuery.objects.public().filter(category=category).order_by("pk").first(),
    )


def with_learning_state(categories: QuerySet[Category]) -> QuerySet[Category]:
    """Annotated with `learning_state`, one of LearningState."""
    waiting = learning.waiting_categories(learning.version_in_use()).order_by().values("pk")
    running = [slug for job in _jobs() if job.state == JobState.RUNNING for slug in _slugs(job)]
    return categories.annotate(
        learning_state=Case(
            When(learn_asked_at__isnull=True, then=Value("known")),
            When(slug__in=running, pk__in=waiting, then=Value("learning")),
            When(pk__in=waiting, then=Value("waiting")),
            default=Value("learned"),
            output_field=CharField(),
        )
    )


def learnable_count() -> int:
    """Categories with photos that wait and that no job is about to learn."""
    unfinished = [job for job in _jobs() if not job.is_finished]
    if any(not _slugs(job) for job in unfinished):  # it takes all that wait when it starts
        return 0
    taken = [slug for job in unfinished for slug in _slugs(job)]
    waiting = learning.waiting_categories(learning.version_in_use()).exclude(slug__in=taken)
    return waiting.filter(learning.has_photos()).count()


# --- which job


def _jobs() -> Sequence[Job]:
    """Newest first."""
    rows = Job.objects.filter(kind=learning.KIND).select_related("created_by")
    return list(rows.order_by("-created_at")[:LATEST_JOBS])


def _slugs(job: Job) -> list[str]:
    """What it learned, is learning or was asked to; empty: all that wait when it starts."""
    sources = (result_of(job), job.checkpoint, job.payload)
    return next((list(source["categories"]) for source in sources if source.get("categories")), [])


def _concerns(job: Job, category: Category) -> bool:
    """One that names no category would take, or would have taken, all that waited then."""
    if slugs := _slugs(job):
        return category.slug in slugs
    asked = category.learn_asked_at
    return job.finished_at is None or (asked is not None and job.finished_at >= asked)


def _made(job: Job) -> str:
    """The version that came of it, if any."""
    return str(result_of(job).get("version", ""))


def _state_and_job(
    category: Category, version: ModelVersion | None, learned_by: ModelVersion | None
) -> tuple[LearningState, Job | None]:
    if category.learn_asked_at is None:
        return "known", None
    jobs = _jobs()
    if version is not None and learned_by is not None and category.slug in version.label_registry:
        return "learned", next((job for job in jobs if _made(job) == learned_by.name), None)
    own = [job for job in jobs if _concerns(job, category)]
    coming = [job for job in own if not job.is_finished]
    if coming:  # the one that runs, else the one that has waited longest
        job = next((job for job in coming if job.state == JobState.RUNNING), coming[-1])
        return ("learning" if job.state == JobState.RUNNING else "waiting"), job
    return "waiting", next((job for job in own if job.state != JobState.DONE), None)


def _lineage(version: ModelVersion | None) -> list[ModelVersion]:
    """Every version whose entries the one in use can be compared with, itself included; oldest first."""
    if version is None:
        return []
    rows = ModelVersion.objects.filter(lineage=version.lineage).order_by("major", "minor")
    return list(rows.defer("manifest"))


def _learned_by(version: ModelVersion | None, knowing: Sequence[ModelVersion]) -> ModelVersion | None:
    """Up the parents of the version in use to the first that knew the category; without it, the latest anywhere."""
    by_id = {row.pk: row for row in knowing}
    found = by_id.get(version.pk) if version is not None else None
    if found is None:
        return knowing[-1] if knowing else None
    while (parent := by_id.get(found.parent_id or 0)) is not None:
        found = parent
    return found


def _is_encoding() -> bool:
    return Job.objects.filter(kind=encoding.KIND).exclude(state__in=FINISHED_STATES).exists()


# --- photos


def _images(
    category: Category, lineage: Sequence[ModelVersion], knowing: Sequence[ModelVersion]
) -> QuerySet[Any]:
    """The category's own photos with what is known of each."""
    entries = GalleryEntry.objects.filter(image=OuterRef("pk"))
    held_out = EvaluationQuery.objects.filter(image_sha256=OuterRef("image_sha256"))
    return (
        ItemImage.objects.filter(item__category=category)
        .select_related("item")
        .annotate(
            is_findable=Exists(entries.filter(producer__in=[row.pk for row in lineage])),
            is_coded=Exists(entries.filter(producer__in=[row.pk for row in knowing])),
            is_held_out=Exists(held_out),
        )
        .order_by("pk")
    )


def _counts(images: QuerySet[Any], *, is_known: bool) -> PhotoCounts:
    found = images.aggregate(
        total=Count("pk"),
        failed=Count("pk", filter=~Q(failure="")),
        findable=Count("pk", filter=Q(failure="", is_findable=True)),
        coded=Count("pk", filter=Q(failure="", is_coded=True)),
    )
    return PhotoCounts(**{**found, "coded": found["findable"] if is_known else found["coded"]})


def _photo(image: Any, state: LearningState) -> PhotoProgress:
    shown: PhotoState
    if image.failure:
        shown = "failed"
    elif not image.is_findable:
        shown = "pending"
    elif state == "known":
        shown = "searchable"
    else:
        shown = "learned" if image.is_coded else "provisional"
    return PhotoProgress(image, shown, image.failure, image.is_held_out)


# --- steps


def _steps(state: LearningState, counts: PhotoCounts, job: Job | None) -> tuple[Step, ...]:
    is_settled = state in {"known", "learned"}
    checked: StepState = "failed" if counts.failed else "done" if counts.total else "waiting"
    searchable: StepState = "waiting"
    if counts.findable:
        searchable = "done" if is_settled and not counts.pending else "now"
    learned, coded = _learning_steps(state, counts, job)
    return (
        Step("uploaded", "done" if counts.total else "waiting", counts.total, counts.total),
        Step("checked", checked, counts.usable, counts.total),
        learned,
        Step("coded", coded, counts.coded, counts.usable),
        Step("searchable", searchable, counts.findable, counts.usable),
    )


def _learning_steps(state: LearningState, counts: PhotoCounts, job: Job | None) -> tuple[Step, StepState]:
    """The step of learning, and the state of the one behind it."""
    if state in {"known", "learned"}:
        coded: StepState = "done" if counts.coded and not counts.pending else "waiting"
        return Step("learning", "skipped" if state == "known" else "done"), coded
    if job is None or job.state in {JobState.QUEUED, JobState.CANCELLED}:
        return Step("learning", "waiting"), "waiting"
    if job.state == JobState.FAILED:
        return Step("learning", "failed"), "waiting"
    if job.checkpoint.get("stage") == "publishing":
        return Step("learning", "done"), "now"
    return Step("learning", "now", min(job.done_count, job.total_count), job.total_count), "waiting"
