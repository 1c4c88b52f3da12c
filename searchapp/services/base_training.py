"""A base version trained from the catalogue's own photos: from the operator's wish to a measured candidate.

The job's checkpoint is what a page draws its live curve from:

    {"stage": "reading" | "training" | "encoding" | "measuring",
     "epochs": 60,                                            # planned; absent before training
     "history": [{"epoch": 1, "loss": 3.2, "validation": 0.41}, ...]}

`history` holds at most HISTORY_POINTS points, oldest first; when it is full, every second one is dropped. `validation`
(0 to 1, higher is better) is there only for the epochs that were validated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AbstractBaseUser

from searchapp.models import Job

KIND = "train_base"
HISTORY_POINTS = 120


def base_training_start(
    *,
    user: AbstractBaseUser | None,
    config: Mapping[str, Any] | None = None,
    label_fraction: float = 1.0,
    architecture: str = "parity",
    from_scratch: bool = False,
    promote: bool = False,
) -> Job:
    """A training job of kind "train_base"; it waits when another training runs.

    config: values of ml.base_version.recipe.Recipe to change, nested alike. promote: put the candidate in use when its
    gate passes. Raises InvalidInput (fields: config, label_fraction, architecture) and Conflict when the catalogue has
    too little to learn from.
    """
    raise NotImplementedError
