"""A small shop of real photos and a training so small that it takes seconds."""

import csv
import tarfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from django.db import transaction

from ml.artifacts import load_bundle
from searchapp.models import Job, ModelVersion
from searchapp.services import base_training, encoding, versions
from searchapp.services.jobs import job_run_here
from tests.conftest import ROOT
from tests.searchapp.galleries import encode_missing, item_with_photos

OTHER_BUNDLE = ROOT / "ml" / "weights" / "budget"
TINY: dict[str, Any] = {
    "stored_size": 40,
    "method": {
        "encoder": {
            "input_size": 32, "code_bits": 64, "code_hidden": 32, "dimension": 32,
            "trunk": {"widths": [16, 16, 32, 32]},
        },
    },
    "fit": {"epochs": 9, "warmup_epochs": 1.0, "validate_every": 4},
    "sampling": {"classes_per_batch": 2, "images_per_class": 6, "sizes": [[1.0, 32]]},
}  # fmt: skip


@cache
def class_photos(packs: Path, classes: int, count: int) -> dict[str, list[bytes]]:
    """The first `count` training photos of the first `classes` grocery classes, by class."""
    with (packs / "grocery" / "labels.csv").open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == "train"]
    names = list(dict.fromkeys(row["class"] for row in rows))[:classes]
    found: dict[str, list[bytes]] = {name: [] for name in names}
    with ExitStack() as stack:
        shards = {
            name: stack.enter_context(tarfile.open(packs / "grocery" / name))
            for name in sorted({row["shard"] for row in rows})
        }
        for row in rows:
            if row["class"] in found and len(found[row["class"]]) < count:
                member = shards[row["shard"]].extractfile(row["path"])
                assert member is not None
                found[row["class"]].append(member.read())
    return found


def small_shop(packs: Path, *, classes: int = 2, count: int = 9, encode: bool = True) -> None:
    """An item per class with all its photos, encoded by the version in use."""
    for name, photos in class_photos(packs, classes, count).items():
        item_with_photos(name, photos, f"Fruit > {name}", title=name)
    if encode:
        encode_missing()


def start(**changes: Any) -> Job:
    return base_training.base_training_start(
        **{"user": None, "config": TINY, "from_scratch": True, **changes}
    )


def trained(**changes: Any) -> Job:
    return job_run_here(start(**changes))


def candidate(*, encoded: bool = True) -> ModelVersion:
    """The shipped budget weights as version 2.0, a lineage of its own, with entries for all photos."""
    versions.default_version_ensure()
    versions.bundle_store(OTHER_BUNDLE)
    with transaction.atomic():
        version = versions.base_version_register(load_bundle(OTHER_BUNDLE).manifest)
    if encoded:
        encoding.entries_fill(version, heard=lambda _done: None)
    return version
