"""Every kind of background job: its name for people, its queue, and the handler that runs it.

Handlers are named, not imported: services create jobs, and an import here would be a cycle. A handler is
`def handler(run: JobRun) -> dict | None`; a test imports every one of them.
"""

from dataclasses import dataclass

from searchapp.access import Role
from searchapp.models import Job


@dataclass(frozen=True, slots=True)
class JobKind:
    title: str
    handler: str
    queue: Job.Queue = Job.Queue.DEFAULT
    counts_items: bool = False  # its progress is a number of items, not parts of the work
    role: Role = Role.API_KEY  # the lowest that may cancel or retry one, of those the access table lets in


JOB_KINDS: dict[str, JobKind] = {
    "import_catalogue": JobKind(
        "Import a catalogue", "searchapp.services.importing.import_run", counts_items=True
    ),
    "encode_images": JobKind(
        "Encode new photos", "searchapp.services.encoding.encode_missing_run", counts_items=True
    ),
    "train_base": JobKind(
        "Train a base version",
        "searchapp.services.training_run.base_training_run",
        Job.Queue.TRAINING,
        role=Role.OPERATOR,
    ),
    "train_candidate": JobKind(
        "Train a candidate",
        "searchapp.services.candidate_run.candidate_run",
        Job.Queue.TRAINING,
        role=Role.OPERATOR,
    ),
    "learn_categories": JobKind(
        "Learn new categories",
        "searchapp.services.learning_run.learning_run",
        Job.Queue.TRAINING,
        role=Role.STAFF,
    ),
    "evaluate_version": JobKind(
        "Judge a version",
        "searchapp.services.evaluating.evaluation_run",
        Job.Queue.TRAINING,
        role=Role.OPERATOR,
    ),
    "watch_drift": JobKind(
        "Look for shifted photos and moved labels",
        "searchapp.services.drift_measuring.watch_run",
        role=Role.OPERATOR,
    ),
    "watch_quality": JobKind(
        "Measure the version in use again",
        "searchapp.services.quality_watch.watch_run",
        Job.Queue.TRAINING,
        role=Role.OPERATOR,
    ),
    "send_alert": JobKind("Tell the operators", "searchapp.services.alerting.alert_run", role=Role.OPERATOR),
    "measure_pace": JobKind(
        "Time this machine",
        "searchapp.services.pace_measuring.pace_run",
        Job.Queue.TRAINING,
        role=Role.OPERATOR,
    ),
    "import_evaluation": JobKind(
        "Take in evaluation photos",
        "searchapp.services.evaluation_import.evaluation_import_run",
        counts_items=True,
        role=Role.OPERATOR,
    ),
    "import_version": JobKind(
        "Take in a version from outside",
        "searchapp.services.version_import.version_import_run",
        role=Role.OPERATOR,
    ),
    "promote": JobKind(
        "Put a version in use", "searchapp.services.pointer_moves.promote_run", role=Role.OPERATOR
    ),
    "rollback": JobKind(
        "Go back to the version before", "searchapp.services.pointer_moves.rollback_run", role=Role.OPERATOR
    ),
    "correct_gallery": JobKind(
        "Correct the gallery",
        "searchapp.services.correcting_run.correct_run",
        Job.Queue.TRAINING,
        role=Role.OPERATOR,
    ),
    "backfill": JobKind(
        "Encode older entries anew",
        "searchapp.services.backfilling.backfill_run",
        Job.Queue.TRAINING,
        counts_items=True,
        role=Role.OPERATOR,
    ),
    "write_snapshot": JobKind("Write a gallery snapshot", "searchapp.services.snapshots.snapshot_run"),
}


def may_steer(role: Role, kind: str) -> bool:
    """Whether `role` may cancel and retry jobs of this kind; those of a kind no longer known are the operators'."""
    known = JOB_KINDS.get(kind)
    return role >= (known.role if known else Role.OPERATOR)
