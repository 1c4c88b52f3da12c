"""What every training of an encoder here does: read the planned photos, train, register, and tell how far it is.

Photos and recipe are fixed in a plan when the job first runs, so that a killed one goes on with the very same epochs.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from django.conf import settings
from django.db import IntegrityError, transaction

from ml.artifacts import Bundle, load_bundle
from ml.data.images import ImageSet
from ml.training.loop import Progress
from searchapp.exceptions import Conflict
from searchapp.failpoints import failpoint
from searchapp.models import ModelVersion
from searchapp.services import encoding, intake, versions
from searchapp.services.base_training import HISTORY_POINTS, LEAST_CATEGORIES
from searchapp.services.jobs import JobRun
from searchapp.services.training_photos import TrainingPhoto, category_sizes, training_photos
from searchapp.services.training_recipe import Plan

PLAN_FILE, CHECKPOINT_FILE, BUNDLE_FOLDER = "plan.json", "fit.safetensors", "bundle"
UNITS = 1000  # of a job's bar
REGISTER_ATTEMPTS = 5
VALIDATED = ("validation", "cross", "own")  # of an epoch's logs, what a curve shows beside the loss


class TrainingAttempt:
    """One attempt at one job; what it needs of earlier ones lies in the job's checkpoint and folder.

    A kind of training says how its bar is divided, plans, and trains.
    """

    shares: Mapping[str, tuple[int, int]]  # stage -> its part of the bar; the message says what is going on
    stage_after: str  # registering

    def __init__(self, job_run: JobRun) -> None:
        self.job = job_run
        self.state: dict[str, Any] = {"stage": "reading", "history": [], "seconds": 0.0, **job_run.checkpoint}
        self.state.setdefault("folder", str(job_run.job.pk))
        self.folder = Path(settings.TRAINING_DIR) / self.state["folder"]
        self.started, self.spent = time.monotonic(), float(self.state["seconds"])

    def new_plan(self, photos: Sequence[TrainingPhoto], sizes: Sequence[int]) -> Plan:
        """For these photos, with so many of each category."""
        raise NotImplementedError

    def train(self, plan: Plan, images: ImageSet, target: Path) -> Bundle:
        """Train by the plan and write the bundle to `target`; what an earlier attempt left is in the folder."""
        raise NotImplementedError

    def registry(self, bundle: Bundle) -> tuple[ModelVersion | None, Sequence[str]]:
        """The version it is a child of, None for the first of a lineage, and all categories it knows, as learned."""
        return None, bundle.manifest.labels

    def forget(self) -> None:
        """The plan of an earlier attempt does not hold any more."""
        shutil.rmtree(self.folder)
        self.state["history"] = []

    def version_of_before(self) -> ModelVersion | None:
        """What an earlier attempt has registered."""
        return ModelVersion.objects.filter(pk=self.state.get("version", 0)).first()

    def registered(self) -> ModelVersion:
        """The version that comes of it. Its row and the job's word of it commit together: it is registered once."""
        bundle = self._trained()
        parent, labels = self.registry(bundle)
        versions.bundle_store(bundle.path)
        for _ in range(REGISTER_ATTEMPTS):
            try:
                with transaction.atomic():
                    version = versions.base_version_register(
                        bundle.manifest, labels=labels, parent=parent, user=self.job.job.created_by
                    )
                    self.save(stage=self.stage_after, version=version.pk)
            except IntegrityError:  # another version took the number
                continue
            failpoint("training.after_register")
            return version
        raise Conflict("the next version number was taken each time; try again")

    def done(self, version: ModelVersion) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.job.progress(UNITS, UNITS, f"version {version.name} is ready")

    # --- reading and training

    def _trained(self) -> Bundle:
        target = self.folder / BUNDLE_FOLDER
        if target.exists():  # trained by an attempt that died before it could register
            return load_bundle(target)
        plan, images = self._read()
        with training_threads():
            bundle = self.train(plan, images, target)
        failpoint("training.after_bundle")
        return bundle

    def _read(self) -> tuple[Plan, ImageSet]:
        """A plan and the pixels of all its photos; one that cannot be read is marked, and planned without."""
        while True:
            plan = self._plan()
            images = self._images(plan)
            if images is not None:
                return plan, images

    def _plan(self) -> Plan:
        """The plan of the first attempt, while all its photos may be used; else a new one, and training begins anew."""
        path = self.folder / PLAN_FILE
        photos = training_photos(self.job.payload.get("scope"))
        if path.exists():
            plan = read_plan(path)
            if plan is not None and set(plan.photos) <= set(photos):
                return plan
            self.forget()
        sizes = list(category_sizes(photos).values())
        if len(sizes) < LEAST_CATEGORIES:
            raise Conflict(
                f"{len(sizes)} categories have two or more photos to train on, at least {LEAST_CATEGORIES} are needed"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        plan = self.new_plan(photos, sizes)
        temporary = path.with_suffix(".new")
        temporary.write_text(plan.as_json(), encoding="utf-8")
        temporary.replace(path)
        return plan

    def _images(self, plan: Plan) -> ImageSet | None:
        """The plan's photos, decoded by the path every query takes; None when one of them could not be read."""
        self.enter("reading", photos=len(plan.photos))
        size = plan.recipe.stored_size
        pixels = np.empty((len(plan.photos), size, size, 3), np.uint8)
        readable = True
        for at, photo in enumerate(plan.photos):
            self.progress("reading", at, len(plan.photos), f"reading photo {at + 1:,}")
            try:
                pixels[at] = intake.stored_pixels(photo.path, input_size=size)
            except intake.UNREADABLE as error:
                reason = encoding.unreadable_reason(error)
                encoding.photo_mark_failed(photo.image_id, photo.image_sha256, reason)
                readable = False
        if not readable:
            return None
        index = {slug: position for position, slug in enumerate(plan.labels)}
        lines = sorted(f"{photo.category} {photo.image_sha256}\n" for photo in plan.photos)
        return ImageSet(
            pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
            labels=torch.tensor([index.get(photo.category, -1) for photo in plan.photos], dtype=torch.int64),
            names=plan.labels,
            packs=tuple(photo.vertical for photo in plan.photos),
            fingerprint=sha256("".join(lines).encode()).hexdigest(),
        )

    def heard_in_training(self) -> bool:
        """Called at every step: a cancel, a lost lease or a shutdown ends training by its own exception."""
        done = self.state["history"][-1]["epoch"] if self.state["history"] else 0
        epochs = self.state["epochs"]
        self.progress("training", done, epochs, f"epoch {min(done + 1, epochs):,} of {epochs:,}")
        return False

    def epoch_done(self, progress: Progress) -> None:
        """One more point of the curve."""
        seen = {name: round(progress.logs[name], 4) for name in VALIDATED if name in progress.logs}
        point = {"epoch": progress.epoch, "loss": round(progress.logs["loss"], 4), **seen}
        self.state["history"] = history_with(self.state["history"], point)
        self.save()
        failpoint("training.after_epoch")

    # --- the job's row

    def enter(self, stage: str, **more: Any) -> None:
        """A new stage, unless it is the one already."""
        if self.state["stage"] != stage or any(self.state.get(name) != more[name] for name in more):
            self.save(stage=stage, **more)

    def save(self, **changes: Any) -> None:
        """Keep the state in the job's row."""
        self.state |= {**changes, "seconds": self.seconds()}
        self.job.save(self.state)

    def seconds(self) -> float:
        """Spent so far, earlier attempts included."""
        return round(self.spent + time.monotonic() - self.started, 1)

    def progress(self, stage: str, done: int, total: int, message: str) -> None:
        """Move the bar within the part of its stage."""
        low, high = self.shares[stage]
        at = low + (high - low) * done // max(1, total)
        self.job.progress(min(at, UNITS - 1), UNITS, message)


def read_plan(path: Path) -> Plan | None:
    """None for one that a power cut left empty, or that another release wrote."""
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def history_with(history: Sequence[dict[str, Any]], point: dict[str, Any]) -> list[dict[str, Any]]:
    """The curve with one more point; when it is full, every second one is dropped, the latest never.

    Validated epochs are few and cost something: they are thinned out only when there are no others left.
    """
    earlier = [row for row in history if row["epoch"] < point["epoch"]]
    if len(earlier) >= HISTORY_POINTS:
        thinned = [row for row in earlier if "validation" not in row] or earlier
        dropped = {row["epoch"] for row in thinned[::2]}
        earlier = [row for row in earlier if row["epoch"] not in dropped]
    return [*earlier, point]


@contextmanager
def training_threads() -> Iterator[None]:
    """All cores but one, which is left to those who search meanwhile; serving code counts on a single thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
