"""A candidate's training so small that it takes seconds, held to what the shipped version stored."""

from typing import Any

from searchapp.models import Job
from searchapp.services import candidate_training
from searchapp.services.jobs import job_run_here

TINY: dict[str, Any] = {
    "stored_size": 40,
    "method": {"encoder": {"input_size": 32, "code_hidden": 32, "trunk": {"widths": [16, 16, 32, 32]}}},
    "fit": {"validate_every": 4},
    "sampling": {"classes_per_batch": 2, "images_per_class": 6, "sizes": [[1.0, 32]]},
}
EPOCHS = 9


def start(**changes: Any) -> Job:
    return candidate_training.candidate_start(
        **{
            "user": None, "method": "ndpp", "architecture": "parity", "config": TINY, "epochs": EPOCHS, "pilot": False,
            **changes,
        }
    )  # fmt: skip


def trained(**changes: Any) -> Job:
    return job_run_here(start(**changes))
