"""The job that trains a base version: read, train, encode the whole catalogue, measure. It ends with a candidate.

Photos and recipe are fixed in a plan when the job first runs, so that a killed one goes on with the very same epochs.
What changed meanwhile is looked at again where it counts: entries are written for the photos that are there then.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from django.conf import settings
from django.db import IntegrityError, transaction

from ml.artifacts import Bundle, load_bundle
from ml.base_version.catalogue import train_catalogue
from ml.data.images import ImageSet
from ml.training.loop import Progress
from searchapp.exceptions import Conflict
from searchapp.failpoints import failpoint
from searchapp.models import Job, ModelVersion
from searchapp.services import deploying, encoding, intake, measuring, versions
from searchapp.services.base_training import HISTORY_POINTS, LEAST_CATEGORIES
from searchapp.services.jobs import JobRun
from searchapp.services.training_photos import category_sizes, training_photos
from searchapp.services.training_recipe import Plan, recipe_with

PLAN_FILE, CHECKPOINT_FILE, BUNDLE_FOLDER = "plan.json", "fit.safetensors", "bundle"
# How a job's bar is divided; the message says what is going on.
UNITS = 1000
SHARES = {"reading": (0, 50), "training": (50, 850), "encoding": (850, 960), "measuring": (960, UNITS)}
REGISTER_ATTEMPTS = 5

logger = logging.getLogger(__name__)


def base_training_run(run: JobRun) -> dict[str, Any]:
    """Handler of "train_base". Its result: {version, parent, seconds, photos, architecture, metrics, gates, …}."""
    return _Training(run).run()


class _Training:
    """One attempt at one job; what it needs of earlier ones lies in the job's checkpoint and folder."""

    def __init__(self, job_run: JobRun) -> None:
        self.job = job_run
        self.state: dict[str, Any] = {"stage": "reading", "history": [], "seconds": 0.0, **job_run.checkpoint}
        self.state.setdefault("folder", str(job_run.job.pk))
        self.folder = Path(settings.TRAINING_DIR) / self.state["folder"]
        self.started, self.spent = time.monotonic(), float(self.state["seconds"])

    def run(self) -> dict[str, Any]:
        champion = versions.default_version_ensure()
        version = self._version_of_before()
        if version is None:
            version = self._registered(self._trained())
            champion = versions.champion().version  # training takes a while
        self._encode(version)
        champion, comparison = self._measure(version, champion)
        promotion = self._promotion(version, comparison.gates)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.job.progress(UNITS, UNITS, f"version {version.name} is ready")
        return {
            "version": version.name,
            "parent": None,
            "started_from": version.manifest["training"].get("started_from"),
            "photos": self.state["photos"],
            "categories": len(version.label_registry),
            "architecture": self.job.payload["architecture"],
            "label_fraction": self.job.payload["label_fraction"],
            "encoded": measuring.entries_of(version),
            "seconds": self._seconds(),
            "training_seconds": version.manifest["training"]["seconds"],
            "metrics": comparison.own,
            "against": {"version": champion.name, "metrics": comparison.other},
            "differences": comparison.differences,
            "gates": comparison.gates,
            "promotion_job": str(promotion.pk) if promotion else None,
        }

    def _version_of_before(self) -> ModelVersion | None:
        return ModelVersion.objects.filter(pk=self.state.get("version", 0)).first()

    # --- reading and training

    def _trained(self) -> Bundle:
        target = self.folder / BUNDLE_FOLDER
        if target.exists():  # trained by an attempt that died before it could register
            return load_bundle(target)
        plan, images = self._read()
        self._enter("training", epochs=plan.recipe.fit.epochs)
        start = versions.bundle_of(ModelVersion.objects.get(digest=plan.start)) if plan.start else None
        with training_threads():
            made = train_catalogue(
                images,
                plan.recipe,
                target,
                label_fraction=self.job.payload["label_fraction"],
                start=start,
                checkpoint=self.folder / CHECKPOINT_FILE,
                command=self._command(),
                on_epoch=self._epoch_done,
                is_cancelled=self._heard_in_training,
            )
        failpoint("training.after_bundle")
        return made.bundle

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
        if path.exists():
            plan = _read_plan(path)
            if plan is not None and set(plan.photos) <= set(training_photos()):
                return plan
            shutil.rmtree(self.folder)
            self.state["history"] = []
        return self._new_plan(path)

    def _new_plan(self, path: Path) -> Plan:
        payload = self.job.payload
        photos = training_photos()
        sizes = list(category_sizes(photos).values())
        if len(sizes) < LEAST_CATEGORIES:
            raise Conflict(
                f"{len(sizes)} categories have two or more photos to train on, at least {LEAST_CATEGORIES} are needed"
            )
        recipe = recipe_with(
            payload["config"], payload["architecture"], sizes, from_scratch=payload["from_scratch"]
        )
        start = "" if payload["from_scratch"] else versions.champion().version.digest
        plan = Plan(tuple(photos), recipe, start)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(plan.as_json(), encoding="utf-8")
        temporary.replace(path)
        return plan

    def _images(self, plan: Plan) -> ImageSet | None:
        """The plan's photos, decoded by the path every query takes; None when one of them could not be read."""
        self._enter("reading", photos=len(plan.photos))
        size = plan.recipe.stored_size
        pixels = np.empty((len(plan.photos), size, size, 3), np.uint8)
        readable = True
        for at, photo in enumerate(plan.photos):
            self._progress("reading", at, len(plan.photos), f"reading photo {at + 1:,}")
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

    def _heard_in_training(self) -> bool:
        """Called at every step: a cancel, a lost lease or a shutdown ends training by its own exception."""
        done = self.state["history"][-1]["epoch"] if self.state["history"] else 0
        epochs = self.state["epochs"]
        self._progress("training", done, epochs, f"epoch {min(done + 1, epochs):,} of {epochs:,}")
        return False

    def _epoch_done(self, progress: Progress) -> None:
        point = {"epoch": progress.epoch, "loss": round(progress.logs["loss"], 4)}
        if "validation" in progress.logs:
            point["validation"] = round(progress.logs["validation"], 4)
        self.state["history"] = history_with(self.state["history"], point)
        self._save()
        failpoint("training.after_epoch")

    def _command(self) -> str:
        payload = self.job.payload
        words = ["manage.py train_base", f"--architecture {payload['architecture']}"]
        words += [f"--label-fraction {payload['label_fraction']:g}"] if payload["label_fraction"] < 1 else []
        words += ["--from-scratch"] if payload["from_scratch"] else []
        return " ".join([*words, "--config FILE"] if payload["config"] else words)

    # --- the candidate

    def _registered(self, bundle: Bundle) -> ModelVersion:
        """The row and the job's word of it commit together: a version is registered once."""
        versions.bundle_store(bundle.path)
        for _ in range(REGISTER_ATTEMPTS):
            try:
                with transaction.atomic():
                    version = versions.base_version_register(
                        bundle.manifest, labels=bundle.manifest.labels, user=self.job.job.created_by
                    )
                    self._save(stage="encoding", version=version.pk)
            except IntegrityError:  # another version took the number
                continue
            failpoint("training.after_register")
            return version
        raise Conflict("the next version number was taken each time; try again")

    def _encode(self, version: ModelVersion) -> None:
        there = measuring.entries_of(version)
        total = max(1, there + measuring.photos_without_entry(version))

        def heard(done: int) -> None:
            message = f"encoding photo {there + done + 1:,} of {total:,}"
            self._progress("encoding", there + done, total, message)

        encoding.entries_fill(version, heard=heard, commit=lambda _done: self.job.guard())

    def _measure(
        self, version: ModelVersion, champion: ModelVersion
    ) -> tuple[ModelVersion, measuring.Comparison]:
        """The version in use and the comparison with it: those of before, for the candidate may serve by now."""
        self._enter("measuring")
        if "comparison" in self.state:
            champion = ModelVersion.objects.get(pk=self.state["champion"])
            return champion, measuring.Comparison(**self.state["comparison"])

        def heard(done: int, total: int) -> None:
            self._progress("measuring", done, total, f"measuring on held-out photos, {done:,} of {total:,}")

        comparison = measuring.versions_compare(version, champion, heard=heard)
        with transaction.atomic():
            self.job.guard()
            measuring.comparison_store(version, champion, comparison)
            self._save(champion=champion.pk, comparison=asdict(comparison))
        return champion, comparison

    def _promotion(self, version: ModelVersion, gates: list[dict[str, Any]]) -> Job | None:
        """The job that puts the candidate in use, if that was asked for and its gate passed."""
        passed = all(gate["verdict"] == "pass" for gate in gates)
        if not self.job.payload.get("promote") or not passed:
            return None
        key = f"promote:{self.state['folder']}"  # the same for a retry, which is another job
        try:
            return deploying.version_promote(
                version=version, user=self.job.job.created_by, idempotency_key=key
            )
        except Conflict as error:  # many photos came meanwhile: the candidate is whole all the same
            logger.warning("version %s was not put in use: %s", version.name, error)
            return None

    # --- the job's row

    def _enter(self, stage: str, **more: Any) -> None:
        if self.state["stage"] != stage or any(self.state.get(name) != more[name] for name in more):
            self._save(stage=stage, **more)

    def _save(self, **changes: Any) -> None:
        self.state |= {**changes, "seconds": self._seconds()}
        self.job.save(self.state)

    def _seconds(self) -> float:
        return round(self.spent + time.monotonic() - self.started, 1)

    def _progress(self, stage: str, done: int, total: int, message: str) -> None:
        low, high = SHARES[stage]
        at = low + (high - low) * done // max(1, total)
        self.job.progress(min(at, UNITS - 1), UNITS, message)


def _read_plan(path: Path) -> Plan | None:
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
