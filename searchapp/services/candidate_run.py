"""The job that trains a candidate: read, a pilot, train, calibrate, judge. Nothing is encoded: it answers old entries.

The version in use when it is planned is its parent; what the gallery holds is read from rows then, and never again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from django.conf import settings
from numpy.typing import NDArray

from ml.artifacts import Bundle, load_bundle
from ml.base_version.candidate import NOTE
from ml.base_version.catalogue import FEWEST_VALIDATED
from ml.base_version.catalogue_candidate import Material, pilot_epochs, run_pilot, train_candidate
from ml.base_version.stored_photos import AskedPhotos
from ml.data.images import ImageSet
from ml.training.loop import Progress
from searchapp.failpoints import failpoint
from searchapp.models import Category, ModelVersion, Verdict
from searchapp.services import intake, verdicts, versions
from searchapp.services.held_out import held_out_queries
from searchapp.services.jobs import JobRun
from searchapp.services.pair_calibrating import pairs_calibrate
from searchapp.services.photo_features import Heard
from searchapp.services.pilot_words import pilot_row, with_outcome
from searchapp.services.stored_rows import stored_photos, stored_read, stored_write
from searchapp.services.training_attempt import CHECKPOINT_FILE, UNITS, TrainingAttempt
from searchapp.services.training_photos import TrainingPhoto
from searchapp.services.training_recipe import Plan, candidate_recipe_with, start_of

STORED_FILE = "stored.safetensors"
MAX_ASKED = 400  # held-out photos that the pilot asks; the rest would only take time


def candidate_run(run: JobRun) -> dict[str, Any]:
    """Handler of "train_candidate". Its result: {version, parent, method, seconds, pilot, metrics, gates, …}."""
    return _CandidateTraining(run).run()


class _CandidateTraining(TrainingAttempt):
    shares = {
        "reading": (0, 50),
        "pilot": (50, 120),
        "training": (120, 820),
        "calibrating": (820, 880),
        "measuring": (880, UNITS),
    }
    stage_after = "calibrating"

    def run(self) -> dict[str, Any]:
        versions.default_version_ensure()
        version = self.version_of_before() or self.registered()
        self.enter("calibrating")
        pairs_calibrate(version, heard=self._heard("calibrating", "reading entries of other versions"))
        failpoint("training.before_verdict")
        verdict = self._verdict(version)
        self.done(version)
        return self._result(version, verdict)

    def new_plan(self, photos: Sequence[TrainingPhoto], sizes: Sequence[int]) -> Plan:
        payload, version = self.job.payload, versions.champion().version
        parent = versions.bundle_of(version)
        recipe = candidate_recipe_with(
            payload["config"],
            payload["architecture"],
            sizes,
            parent=parent,
            alignment=payload["method"],
            starts=_starts(parent),
            epochs=payload["epochs"],
            seed=payload["seed"],
        )
        stored_write(self.folder / STORED_FILE, stored_photos(version, photos))
        return Plan(tuple(photos), recipe, version.digest)

    def train(self, plan: Plan, images: ImageSet, target: Path) -> Bundle:
        parent = versions.bundle_of(ModelVersion.objects.get(digest=plan.start))
        material = Material(
            images,
            stored_read(self.folder / STORED_FILE),
            plan.recipe,
            parent,
            start_of(plan.recipe, _starts(parent)),
            self._asked(plan, parent),
        )
        if self.job.payload["pilot"] and self.state.get("pilot") is None:
            self._pilot(material)
        self.enter("training", epochs=plan.recipe.fit.epochs)
        made = train_candidate(
            material,
            target,
            checkpoint=self.folder / CHECKPOINT_FILE,
            command=self._command(),
            on_epoch=self.epoch_done,
            is_cancelled=self.heard_in_training,
        )
        return made.bundle

    def registry(self, bundle: Bundle) -> tuple[ModelVersion | None, Sequence[str]]:
        """All that its parent has learned, in that order, and behind it what it alone was trained on."""
        parent = ModelVersion.objects.get(digest=bundle.manifest.training[NOTE]["parent"])
        known = list(parent.label_registry)
        return parent, [*known, *(slug for slug in bundle.manifest.labels if slug not in set(known))]

    def forget(self) -> None:
        super().forget()
        self.state.pop("pilot", None)

    def _pilot(self, material: Material) -> None:
        epochs = pilot_epochs(material.recipe)
        self.enter("pilot", epochs=material.recipe.fit.epochs)
        done = 0

        def epoch_done(progress: Progress) -> None:
            nonlocal done
            done = progress.epoch

        def heard() -> bool:
            self.progress(
                "pilot", done, epochs, f"trying it on first, epoch {min(done + 1, epochs)} of {epochs}"
            )
            return False

        pilot = run_pilot(material, on_epoch=epoch_done, is_cancelled=heard)
        self.save(pilot=pilot_row(pilot, of_epochs=material.recipe.fit.epochs))
        failpoint("training.after_pilot")

    def _asked(self, plan: Plan, parent: Bundle) -> AskedPhotos | None:
        """Held-out photos of the planned categories, which neither the parent nor the candidate was trained on."""
        index = {slug: position for position, slug in enumerate(plan.labels)}
        slugs = dict(Category.objects.values_list("pk", "slug"))
        labels: list[int] = []
        pixels: list[NDArray[np.uint8]] = []
        for query in held_out_queries():
            label = index.get(slugs[query.category_id], -1)
            if label >= 0 and len(labels) < MAX_ASKED:
                try:
                    pixels.append(intake.stored_pixels(query.path, input_size=plan.recipe.stored_size))
                except intake.UNREADABLE:
                    continue
                labels.append(label)
        if len(labels) < FEWEST_VALIDATED:
            return None
        images = ImageSet(
            pixels=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
            labels=torch.tensor(labels, dtype=torch.int64),
            names=plan.labels,
            packs=("",) * len(labels),
            fingerprint="",
        )
        return AskedPhotos.of(images, parent)

    def _verdict(self, version: ModelVersion) -> Verdict:
        """That of an earlier attempt, or one beside the version in use; beside its parent, should it serve already."""
        self.enter("measuring")
        made = Verdict.objects.filter(pk=self.state.get("verdict", 0)).first()
        if made is not None:
            return made
        champion = versions.champion().version
        against = version.parent if champion == version and version.parent is not None else champion
        heard = self._heard("measuring", "judging it beside the version in use")
        verdict = verdicts.verdict_make(version, against, heard=heard, job=self.job.job)
        self.save(verdict=verdict.pk)
        return verdict

    def _heard(self, stage: str, words: str) -> Heard:
        return lambda done, total: self.progress(stage, done, total, words)

    def _result(self, version: ModelVersion, verdict: Verdict) -> dict[str, Any]:
        payload, training = self.job.payload, version.manifest["training"]
        report = verdicts.report_of(verdict)
        return {
            "version": version.name,
            "parent": version.parent.name if version.parent else None,
            "method": payload["method"],
            "architecture": payload["architecture"],
            "started_from": training["started_from"],
            "photos": training["images"],
            "categories": training["classes"],
            "seconds": self.seconds(),
            "training_seconds": training["seconds"],
            "pilot": with_outcome(self.state.get("pilot"), version.manifest),
            "metrics": verdicts.promised_cell(verdict),
            "against": verdict.against.name,
            "matrix": report["matrix"],
            "update_gain": report["update_gain"],
            "gates": report["gates"],
        }

    def _command(self) -> str:
        payload = self.job.payload
        words = [f"manage.py train_candidate --method {payload['method']}"]
        words += [f"--architecture {payload['architecture']}"]
        words += [f"--epochs {payload['epochs']}"] if payload["epochs"] else []
        words += [f"--scope {name}={value}" for name, value in payload["scope"].items()]
        words += [f"--seed {payload['seed']}"] if payload["seed"] else []
        return " ".join([*words, "--config FILE"] if payload["config"] else words)


def _starts(parent: Bundle) -> list[Bundle]:
    """What a candidate may go on from: its parent, else the bundle that is shipped for the budget architecture."""
    shipped = settings.BUDGET_BUNDLE
    return [parent, load_bundle(shipped)] if shipped.exists() else [parent]
