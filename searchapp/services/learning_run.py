"""The job that learns new categories: read, train, check, publish. A refused increment leaves all as it was.

Nothing is kept between attempts but the training's own checkpoint: what is new is little, so a killed attempt reads it
again. Publishing is one transaction that looks again at everything that may have changed meanwhile.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from django.conf import settings
from django.utils import timezone

from ml.artifacts import Bundle
from ml.base_version.increment import stored_outputs, write_increment
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.gate import may_publish
from ml.methods.lifelong.heads import CrossModalHeads, outputs_of, settled, signs_of_logits
from ml.methods.lifelong.lesson import Lesson
from ml.methods.lifelong.statistics import CodeStatistics
from ml.methods.lifelong.update import learn_increment
from ml.methods.lifelong.word_base import with_words
from ml.training.loop import Progress
from searchapp.exceptions import Conflict
from searchapp.failpoints import failpoint
from searchapp.models import Category, ModelVersion
from searchapp.services import code_statistics, versions
from searchapp.services.gallery import gallery_transaction
from searchapp.services.holding_out import hold_out
from searchapp.services.jobs import JobRun
from searchapp.services.learning import MovedMeanwhile, has_photos, waiting_categories
from searchapp.services.learning_gates import Judged, NewCodes, judged
from searchapp.services.learning_material import WORDS, Material, material_of, photos_of
from searchapp.services.learning_proof import OldCodes, old_codes_noted, old_codes_now
from searchapp.services.learning_publishing import Published, published

UNITS = 1000
SHARES = {
    "waiting": (0, 20),
    "reading": (20, 250),
    "training": (250, 800),
    "checking": (800, 960),
    "publishing": (960, UNITS),
}
COUNTED_AT_ONCE = 500
CHECKPOINT_FILE, BUNDLE_FOLDER = "fit.safetensors", "bundle"
# Chosen on the validation classes of grocery and places_indoor, as is what is stored: docs/adr/0008.
REPLAY_SHARE = 6.0  # old samples to a new one
SETTLED = 0.85  # of the way from the parent's image head to the learned one
ATTEMPTS = 3  # a version put in use while this one is learned makes it begin anew
WORDS_EPOCHS = 10  # what learning words takes, in epochs of the other, for the bar
SEED = 0

logger = logging.getLogger(__name__)


def learning_run(run: JobRun) -> dict[str, Any]:
    """Handler of "learn_categories". Its result has the contract's shape (services.learning)."""
    folder = Path(settings.TRAINING_DIR) / str(run.job.pk)
    result = run.checkpoint.get("published") or _learned(run, folder)
    shutil.rmtree(folder, ignore_errors=True)
    return dict(result)


def _learned(run: JobRun, folder: Path) -> dict[str, Any]:
    for _ in range(ATTEMPTS):
        versions.bundle_drop(run.checkpoint.get("bundle", ""))  # of an attempt killed before it was published
        try:
            return _Learning(run, folder).run()
        except MovedMeanwhile as moved:
            logger.warning("job %s begins anew: %s", run.job.pk, moved)
    raise Conflict("Version or catalogue kept changing while the new categories were learned; try again.")


class _Learning:
    """One attempt."""

    def __init__(self, job_run: JobRun, folder: Path) -> None:
        self.job = job_run
        self.folder = folder
        self.state: dict[str, Any] = {"stage": "waiting", "history": []}
        self.earlier: list[dict[str, Any]] = job_run.checkpoint.get("history", [])  # of an attempt before
        self.furthest = max((point["epoch"] for point in self.earlier), default=0)
        self.started = time.monotonic()

    def run(self) -> dict[str, Any]:
        self._await_more()
        versions.default_version_ensure()
        live = versions.champion()
        version, categories = live.version, self._categories(live.version)
        if not categories:  # another job was first: two clicks, or a category that came while that one waited
            self.job.progress(UNITS, UNITS, "nothing was left to learn")
            return {"categories": []}
        material = self._read(version, categories)
        old = sorted(set(code_statistics.counted_items(version.lineage)) - {c.pk for c in categories})
        noted = old_codes_noted(version.lineage, old)
        heads, seconds = self._trained(version, material)
        bundle, new = self._written(version, material, heads, seconds)
        self._enter("checking")
        learned = {category.pk for category in categories}
        verdict = self._judged(version, bundle, new, old_codes_now(noted), learned)
        self._enter("publishing")
        failpoint("learning.before_publish")
        said = self._said(version, categories, verdict, seconds)
        result = published(
            self.job,
            live,
            bundle,
            new,
            Published(tuple(categories), noted, self.state, said, self.started),
        )
        failpoint("learning.after_publish")
        self.job.progress(UNITS, UNITS, f"version {result['version']} is in use")
        return result

    # --- what is to be learned

    def _await_more(self) -> None:
        """Categories that are added within a short window are learned together."""
        self._save()
        if self.job.payload.get("categories"):
            return
        began = time.monotonic()
        while time.monotonic() - began < settings.LEARN_WINDOW_SECONDS * 3:
            newest = waiting_categories(versions.default_version_ensure()).last()
            asked = newest.learn_asked_at if newest is not None else None
            if asked is None or (timezone.now() - asked).total_seconds() >= settings.LEARN_WINDOW_SECONDS:
                return
            self._progress("waiting", 0, 1, "waiting a moment for more categories")
            time.sleep(0.25)

    def _categories(self, version: ModelVersion) -> list[Category]:
        """Those to learn; none when nothing waits any more."""
        waiting = waiting_categories(version).filter(has_photos())
        if wanted := self.job.payload.get("categories"):
            waiting = waiting.filter(slug__in=wanted)
        categories = list(waiting)
        hold_out([category.path for category in categories])
        trained = {photo.category_id for photo in photos_of(categories) if photo.is_trained}
        learned = [category for category in categories if category.pk in trained]
        if categories and not learned:
            raise Conflict(
                "There is nothing to learn: no category that waits has a photo that may be trained on. One photo in "
                "eight, by its content, is kept aside as a question for when there are more. Add photos."
            )
        return learned

    def _read(self, version: ModelVersion, categories: list[Category]) -> Material:
        photos = photos_of(categories)
        self._enter("reading", categories=[category.slug for category in categories], photos=len(photos))
        self._count(version)

        def heard(done: int, total: int) -> None:
            self._progress("reading", done, total, f"reading photo {done + 1:,} of {total:,}")

        return material_of(version, categories, photos, heard=heard)

    def _count(self, version: ModelVersion) -> None:
        """Stored codes that are not in the statistics yet: those of photos that came since the last increment."""
        missing = code_statistics.uncounted(version)
        for start in range(0, len(missing), COUNTED_AT_ONCE):
            self._progress(
                "reading", start, len(missing), f"counting stored codes, {start:,} of {len(missing):,}"
            )
            with gallery_transaction():
                self.job.guard()
                code_statistics.entries_count(
                    version=version, image_ids=missing[start : start + COUNTED_AT_ONCE]
                )
            failpoint("learning.after_count")

    # --- training

    def _trained(self, version: ModelVersion, material: Material) -> tuple[CrossModalHeads, float]:
        """The new version's heads and the seconds they took. Nothing stored depends on words: they come last."""
        manifest = versions.bundle_of(version).manifest
        config = LifelongConfig(
            code_bits=version.code_bits,
            hidden=manifest.encoder_config.code_hidden,
            replay_share=REPLAY_SHARE,
        )
        self._enter("training", epochs=config.epochs)
        began = time.monotonic()
        with _one_thread():
            lesson = self._learned(material, config)
            heads = settled(material.parent.heads, lesson.heads, SETTLED)
            heads = self._spoken(material, heads, config)
        failpoint("learning.after_training")
        return heads, time.monotonic() - began

    def _learned(self, material: Material, config: LifelongConfig) -> Lesson:
        """From where an attempt before stopped, if it learned the very same."""
        checkpoint = self.folder / CHECKPOINT_FILE

        def heard() -> bool:
            done = max((point["epoch"] for point in self.state["history"]), default=0)
            message = f"epoch {min(done + 1, config.epochs)} of {config.epochs}"
            return self._heard(message, done, config.epochs + WORDS_EPOCHS)

        def learn() -> Lesson:
            return learn_increment(
                material.parent, material.registry, material.items, None, config, seed=SEED,
                checkpoint=checkpoint, on_epoch=self._epoch_done, is_cancelled=heard,
            )  # fmt: skip

        if not checkpoint.exists():
            return learn()
        try:
            return learn()
        except ValueError:  # of other photos, or of other codes: something changed since
            checkpoint.unlink()
            return learn()

    def _spoken(self, material: Material, heads: CrossModalHeads, config: LifelongConfig) -> CrossModalHeads:
        """The heads with words taught the codes that are stored, those of the new photos among them."""
        if material.texts is None:
            return heads
        codes = signs_of_logits(outputs_of(heads.image, material.items.features))
        statistics = material.parent.statistics + CodeStatistics.of(material.items.sets, codes)
        total = config.epochs + WORDS_EPOCHS
        return with_words(
            heads, material.texts, statistics, words=WORDS, config=config, seed=SEED,
            is_cancelled=lambda: self._heard("learning words", config.epochs, total),
        )  # fmt: skip

    def _heard(self, message: str, done: int, epochs: int) -> bool:
        """Called at every step: a cancel, a lost lease or a shutdown ends training by its own exception."""
        self._progress("training", done, epochs, message)
        return False

    def _epoch_done(self, progress: Progress) -> None:
        point = {"epoch": progress.epoch, "loss": round(progress.logs["loss"], 4)}
        before = [row for row in self.state["history"] or self.earlier if row["epoch"] < point["epoch"]]
        self._save(history=[*before, point])
        failpoint("learning.after_epoch")

    def _written(
        self, version: ModelVersion, material: Material, heads: CrossModalHeads, seconds: float
    ) -> tuple[Bundle, NewCodes]:
        """The bundle, and the codes that its heads give all photos of the new categories."""
        parent = versions.bundle_of(version)
        target = self.folder / f"{BUNDLE_FOLDER}.{self.job.job.fence}"  # of this claim alone
        shutil.rmtree(target, ignore_errors=True)
        slugs, known = dict(Category.objects.values_list("pk", "slug")), set(material.known)
        learned = sorted(slug for pk, slug in slugs.items() if pk in known)
        learned += [category.slug for category in material.categories]
        labels = list(dict.fromkeys((*version.label_registry, *learned)))
        own = parent.calibration
        bundle = write_increment(
            target, parent, heads, labels=labels,
            calibration={**parent.manifest.calibration, parent.digest: own, "self": own},
            metrics={},
            training={
                "command": "manage.py learn_categories", "job": str(self.job.job.pk), "seed": SEED,
                "seconds": round(seconds, 2), "photos": len(material.items),
                "categories": [c.slug for c in material.categories],
            },
        )  # fmt: skip
        features = np.stack([material.features[photo.image_sha256] for photo in material.photos])
        encoded = stored_outputs(bundle, None, features)
        failpoint("learning.after_bundle")
        return bundle, NewCodes(material.photos, encoded.packed_codes, encoded.embeddings)

    # --- judging

    def _judged(
        self, version: ModelVersion, bundle: Bundle, new: NewCodes, codes: OldCodes, learned: set[int]
    ) -> Judged:

        def heard(done: int, total: int) -> None:
            self._progress("checking", done, total, f"reading held-out photo {done + 1:,} of {total:,}")

        self._progress("checking", 0, 1, "asking held-out photos")
        verdict = judged(version, bundle, new, codes, learned, heard=heard)
        self._save(gates=[gate.as_json() for gate in verdict.gates])
        if not may_publish(verdict.gates):
            failed = "; ".join(gate.note for gate in verdict.gates if gate.verdict == "fail")
            raise Conflict(f"The new version was not put in use, and nothing was changed: {failed}.")
        failpoint("learning.after_gates")
        return verdict

    def _said(
        self, version: ModelVersion, categories: list[Category], verdict: Judged, seconds: float
    ) -> dict[str, Any]:
        """The part of the result that is known before the publication."""
        old, new = verdict.old, verdict.new
        return {
            "parent": version.name,
            "categories": [category.slug for category in categories],
            "training_seconds": round(seconds, 2),
            "old_query_map_before": old.get("map_before"),
            "old_query_map_after": old.get("map_after"),
            "new_query_map_before": new.get("map_before"),
            "new_query_map_after": new.get("map_after"),
            "old_queries": old,
            "new_queries": new,
            "gates": [gate.as_json() for gate in verdict.gates],
        }

    # --- the job's row

    def _enter(self, stage: str, **more: Any) -> None:
        self._save(stage=stage, **more)
        self._progress(stage, 0, 1, stage)

    def _save(self, **changes: Any) -> None:
        """An epoch that nobody had come to is a step forward; all else an attempt writes again after a kill."""
        self.state |= changes
        epoch = max((point["epoch"] for point in self.state["history"]), default=0)
        self.job.save(self.state, is_step=epoch > self.furthest)
        self.furthest = max(self.furthest, epoch)

    def _progress(self, stage: str, done: int, total: int, message: str) -> None:
        low, high = SHARES[stage]
        at = low + (high - low) * done // max(1, total)
        self.job.progress(min(at, UNITS - 1), UNITS, message)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Shoppers search meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
