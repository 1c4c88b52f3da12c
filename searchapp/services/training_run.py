"""The job that trains a base version: read, train, encode the whole catalogue, measure. It ends with a candidate.

What changed while it was trained is looked at again where it counts: entries are written for the photos that are there
then.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.db import transaction

from ml.artifacts import Bundle
from ml.base_version.catalogue import train_catalogue
from ml.data.images import ImageSet
from searchapp.exceptions import Conflict
from searchapp.models import Job, ModelVersion
from searchapp.services import deploying, encoding, measuring, versions
from searchapp.services.jobs import JobRun
from searchapp.services.training_attempt import CHECKPOINT_FILE, UNITS, TrainingAttempt
from searchapp.services.training_photos import TrainingPhoto
from searchapp.services.training_recipe import Plan, recipe_with

logger = logging.getLogger(__name__)


def base_training_run(run: JobRun) -> dict[str, Any]:
    """Handler of "train_base". Its result: {version, parent, seconds, photos, architecture, metrics, gates, …}."""
    return _BaseTraining(run).run()


class _BaseTraining(TrainingAttempt):
    shares = {"reading": (0, 50), "training": (50, 850), "encoding": (850, 960), "measuring": (960, UNITS)}
    stage_after = "encoding"

    def run(self) -> dict[str, Any]:
        champion = versions.default_version_ensure()
        version = self.version_of_before()
        if version is None:
            version = self.registered()
            champion = versions.champion().version  # training takes a while
        self._encode(version)
        champion, comparison = self._measure(version, champion)
        promotion = self._promotion(version, comparison.gates)
        self.done(version)
        return {
            "version": version.name,
            "parent": None,
            "started_from": version.manifest["training"].get("started_from"),
            "photos": self.state["photos"],
            "categories": len(version.label_registry),
            "architecture": self.job.payload["architecture"],
            "label_fraction": self.job.payload["label_fraction"],
            "encoded": measuring.entries_of(version),
            "seconds": self.seconds(),
            "training_seconds": version.manifest["training"]["seconds"],
            "metrics": comparison.own,
            "against": {"version": champion.name, "metrics": comparison.other},
            "differences": comparison.differences,
            "gates": comparison.gates,
            "promotion_job": str(promotion.pk) if promotion else None,
        }

    def new_plan(self, photos: Sequence[TrainingPhoto], sizes: Sequence[int]) -> Plan:
        payload = self.job.payload
        recipe = recipe_with(
            payload["config"],
            payload["architecture"],
            sizes,
            from_scratch=payload["from_scratch"],
            epochs=payload.get("epochs"),
            seed=payload.get("seed", 0),
        )
        start = "" if payload["from_scratch"] else versions.champion().version.digest
        return Plan(tuple(photos), recipe, start)

    def train(self, plan: Plan, images: ImageSet, target: Path) -> Bundle:
        self.enter("training", epochs=plan.recipe.fit.epochs)
        start = versions.bundle_of(ModelVersion.objects.get(digest=plan.start)) if plan.start else None
        made = train_catalogue(
            images,
            plan.recipe,
            target,
            label_fraction=self.job.payload["label_fraction"],
            start=start,
            checkpoint=self.folder / CHECKPOINT_FILE,
            command=self._command(),
            on_epoch=self.epoch_done,
            is_cancelled=self.heard_in_training,
        )
        return made.bundle

    def _command(self) -> str:
        payload = self.job.payload
        words = ["manage.py train_base", f"--architecture {payload['architecture']}"]
        words += [f"--label-fraction {payload['label_fraction']:g}"] if payload["label_fraction"] < 1 else []
        words += ["--from-scratch"] if payload["from_scratch"] else []
        return " ".join([*words, "--config FILE"] if payload["config"] else words)

    # --- the candidate

    def _encode(self, version: ModelVersion) -> None:
        there = measuring.entries_of(version)
        total = max(1, there + measuring.photos_without_entry(version))

        def heard(done: int) -> None:
            message = f"encoding photo {there + done + 1:,} of {total:,}"
            self.progress("encoding", there + done, total, message)

        encoding.entries_fill(version, heard=heard, commit=lambda _done: self.job.guard())

    def _measure(
        self, version: ModelVersion, champion: ModelVersion
    ) -> tuple[ModelVersion, measuring.Comparison]:
        """The version in use and the comparison with it: those of before, for the candidate may serve by now."""
        self.enter("measuring")
        if "comparison" in self.state:
            champion = ModelVersion.objects.get(pk=self.state["champion"])
            return champion, measuring.Comparison(**self.state["comparison"])

        def heard(done: int, total: int) -> None:
            self.progress("measuring", done, total, f"measuring on held-out photos, {done:,} of {total:,}")

        comparison = measuring.versions_compare(version, champion, heard=heard)
        with transaction.atomic():
            self.job.guard()
            measuring.comparison_store(version, champion, comparison)
            self.save(champion=champion.pk, comparison=asdict(comparison))
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
