"""Every kind of background job: its name for people, its queue, and the handler that runs it.

Handlers are named, not imported: services create jobs, and an import here would be a cycle. A handler is
`def handler(run: JobRun) -> dict | None`; a test imports every one of them.
"""

from dataclasses import dataclass

from searchapp.models import Job


@dataclass(frozen=True, slots=True)
class JobKind:
    title: str
    handler: str
    queue: Job.Queue = Job.Queue.DEFAULT


JOB_KINDS: dict[str, JobKind] = {
    "import_catalogue": JobKind("Import a catalogue", "searchapp.services.importing.import_run"),
    "encode_images": JobKind("Encode new photos", "searchapp.services.encoding.encode_missing_run"),
    "train_base": JobKind(
        "Train a base version", "searchapp.services.training_run.base_training_run", Job.Queue.TRAINING
    ),
    "promote": JobKind("Put a version in use", "searchapp.services.pointer_moves.promote_run"),
    "rollback": JobKind("Go back to the version before", "searchapp.services.pointer_moves.rollback_run"),
    "write_snapshot": JobKind("Write a gallery snapshot", "searchapp.services.snapshots.snapshot_run"),
}
