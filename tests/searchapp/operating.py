"""What the tests of the operator's pages put into the database: versions, trainings, comparisons."""

import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.utils import timezone

from ml.artifacts import read_manifest
from searchapp.models import Job, JobState, ModelVersion
from searchapp.services import versions
from searchapp.services.held_out import held_out_fingerprint, held_out_queries
from searchapp.services.jobs import job_run
from searchapp.services.measuring import Comparison, comparison_store

HISTORY = [
    {"epoch": 1, "loss": 4.0},
    {"epoch": 2, "loss": 3.0, "validation": 0.25},
    {"epoch": 3, "loss": 1.0, "validation": 0.5},
]


def training(**fields: Any) -> Job:
    return Job.objects.create(
        **{
            "kind": "train_base",
            "queue": Job.Queue.TRAINING,
            "subject": "Base version from 61 photos",
            "payload": {"label_fraction": 0.1, "architecture": "budget", "from_scratch": True},
            **fields,
        }
    )


def running(**fields: Any) -> Job:
    checkpoint = {"stage": "training", "epochs": 5, "history": HISTORY}
    started = timezone.now() - timedelta(seconds=60)
    moving = {"state": JobState.RUNNING, "started_at": started, "done_count": 3, "total_count": 6}
    return training(**{**moving, "checkpoint": checkpoint, **fields})


def candidate(olga: User | None = None) -> ModelVersion:
    first = versions.default_version_ensure()
    return ModelVersion.objects.create(
        major=2, minor=0, digest="b" * 64, lineage=uuid.uuid4(), method="twin-bottleneck",
        architecture="compact", code_bits=128, dimension=128, size_bytes=1_500_000, manifest=first.manifest,
        created_by=olga,
    )  # fmt: skip


def other_version() -> ModelVersion:
    """The larger weights that ship beside 1.0, as a candidate in a lineage of its own."""
    versions.default_version_ensure()
    source = settings.DEFAULT_BUNDLE.parent / "budget"
    versions.bundle_store(source)
    return versions.base_version_register(read_manifest(source))


def work_off(kind: str) -> Job:
    job = Job.objects.get(kind=kind, state=JobState.QUEUED)
    assert job_run(job.pk, "the test")
    job.refresh_from_db()
    return job


def measured(
    version: ModelVersion, other: ModelVersion, *, change: float, verdict: str, items: int = 20
) -> None:
    """The rows a comparison leaves, with a change of mean average precision give or take two points."""

    def row(value: float) -> dict[str, float]:
        return {"map": value, "map_low": value - 0.02, "map_high": value + 0.02, "n": 40}

    around = {"value": change, "low": change - 0.02, "high": change + 0.02}
    gate = {"name": "map_loss", "threshold": 0.01, "verdict": verdict, "items": items}
    gate |= {"value": -change, "low": -change - 0.02, "high": 0.02 - change}
    comparison = Comparison(
        row(0.5 + change), row(0.5), {"map": around}, [gate], held_out_fingerprint(held_out_queries())
    )
    comparison_store(version, other, comparison)
