"""One increment: read, train, check, publish. A refused one leaves all as it was.

Nothing is kept between attempts but the training's own checkpoint: what is new is little, so a killed attempt reads it
again. Publishing is one transaction that looks again at everything that may have changed meanwhile.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from searchapp.models import Category
from searchapp.services import code_statistics, versions
from searchapp.services.gallery import gallery_transaction
from searchapp.services.learning_gates import Judged, NewCodes, judged
from searchapp.services.learning_material import WORDS, Material, material_of, photos_of
from searchapp.services.learning_plan import Notes, Plan
from searchapp.services.learning_proof import OldCodes, old_codes_noted, old_codes_now
from searchapp.services.learning_publishing import Published, published

COUNTED_AT_ONCE = 500
CHECKPOINT_FILE, BUNDLE_FOLDER = "fit.safetensors", "bundle"
# Chosen on the validation classes of grocery and places_indoor, as is what is stored: docs/adr/0008.
REPLAY_SHARE = 6.0  # old samples to a new one
SETTLED = 0.85  # of the way from the parent's image head to the learned one
WORDS_EPOCHS = 10  # what learning words takes, in epochs of the other, for the bar
SEED = 0


class Increment:
    """One attempt. Whoever came to an end before is not asked: that stands in `notes.kept`."""

    def __init__(self, plan: Plan, notes: Notes, folder: Path) -> None:
        self.plan, self.notes, self.folder = plan, notes, folder
        self.started = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Learn and publish; returns what learning_publishing.published does. Raises Conflict when a gate fails."""
        material = self._read()
        noted = old_codes_noted(self.plan.parent.lineage)
        heads, seconds = self._trained(material)
        bundle, new = self._written(material, heads, seconds)
        self.notes.enter("checking")
        verdict = self._judged(bundle, new, old_codes_now(noted))
        self.notes.enter("publishing")
        failpoint("learning.before_publish")
        about = Published(noted, self._said(verdict, seconds), self.started)
        result = published(self.notes, self.plan, bundle, new, about)
        failpoint("learning.after_publish")
        return result

    # --- what is to be learned

    def _read(self) -> Material:
        categories = self.plan.categories
        photos = photos_of(categories)
        self.notes.enter("reading", categories=[category.slug for category in categories], photos=len(photos))
        self._count()

        def heard(done: int, total: int) -> None:
            self.notes.progress("reading", done, total, f"reading photo {done + 1:,} of {total:,}")

        return material_of(self.plan.parent, categories, photos, heard=heard)

    def _count(self) -> None:
        """Stored codes that are not in the statistics yet: those of photos that came since the last increment."""
        version = self.plan.counted_by
        missing = code_statistics.uncounted(version)
        for start in range(0, len(missing), COUNTED_AT_ONCE):
            message = f"counting stored codes, {start:,} of {len(missing):,}"
            self.notes.progress("reading", start, len(missing), message)
            with gallery_transaction():
                self.notes.run.guard()
                code_statistics.entries_count(
                    version=version, image_ids=missing[start : start + COUNTED_AT_ONCE]
                )
            failpoint("learning.after_count")

    # --- training

    def _trained(self, material: Material) -> tuple[CrossModalHeads, float]:
        """The new version's heads and the seconds they took. Nothing stored depends on words: they come last."""
        parent = self.plan.parent
        config = LifelongConfig(
            code_bits=parent.code_bits,
            hidden=versions.bundle_of(parent).manifest.encoder_config.code_hidden,
            replay_share=REPLAY_SHARE,
        )
        self.notes.enter("training", epochs=config.epochs)
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
            done = max((point["epoch"] for point in self.notes.state["history"]), default=0)
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
        self.notes.progress("training", done, epochs, message)
        return False

    def _epoch_done(self, progress: Progress) -> None:
        point = {"epoch": progress.epoch, "loss": round(progress.logs["loss"], 4)}
        before = [
            row for row in self.notes.state["history"] or self.notes.earlier if row["epoch"] < point["epoch"]
        ]
        self.notes.save(history=[*before, point])
        failpoint("learning.after_epoch")

    def _written(self, material: Material, heads: CrossModalHeads, seconds: float) -> tuple[Bundle, NewCodes]:
        """The bundle, and the codes that its heads give all photos of the new categories."""
        parent, job = versions.bundle_of(self.plan.parent), self.notes.run.job
        target = self.folder / f"{BUNDLE_FOLDER}.{job.fence}"  # of this claim alone
        shutil.rmtree(target, ignore_errors=True)
        slugs, known = dict(Category.objects.values_list("pk", "slug")), set(material.known)
        learned = sorted(slug for pk, slug in slugs.items() if pk in known)
        learned += [category.slug for category in material.categories]
        labels = list(dict.fromkeys((*self.plan.parent.label_registry, *learned)))
        own = parent.calibration
        bundle = write_increment(
            target, parent, heads, labels=labels,
            calibration={**parent.manifest.calibration, parent.digest: own, "self": own},
            metrics={},
            training={
                "command": "manage.py learn_categories", "job": str(job.pk), "seed": SEED,
                "seconds": round(seconds, 2), "photos": len(material.items),
                "categories": [c.slug for c in material.categories],
            },
        )  # fmt: skip
        features = np.stack([material.features[photo.image_sha256] for photo in material.photos])
        encoded = stored_outputs(bundle, None, features)
        failpoint("learning.after_bundle")
        return bundle, NewCodes(material.photos, encoded.packed_codes, encoded.embeddings)

    # --- judging

    def _judged(self, bundle: Bundle, new: NewCodes, codes: OldCodes) -> Judged:
        def heard(done: int, total: int) -> None:
            self.notes.progress("checking", done, total, f"reading held-out photo {done + 1:,} of {total:,}")

        self.notes.progress("checking", 0, 1, "asking held-out photos")
        learned = {category.pk for category in self.plan.categories}
        verdict = judged(
            self.plan.parent, bundle, new, codes, learned,
            corrector_digest=self.plan.corrector_digest, heard=heard,
        )  # fmt: skip
        self.notes.save(gates=[gate.as_json() for gate in verdict.gates])
        if not may_publish(verdict.gates):
            failed = "; ".join(gate.note for gate in verdict.gates if gate.verdict == "fail")
            raise Conflict(f"{self.plan.refusal}, and nothing was changed: {failed}.")
        failpoint("learning.after_gates")
        return verdict

    def _said(self, verdict: Judged, seconds: float) -> dict[str, Any]:
        """The part of the result that is known before the publication."""
        old, new = verdict.old, verdict.new
        return {
            "parent": self.plan.parent.name,
            "categories": [category.slug for category in self.plan.categories],
            "training_seconds": round(seconds, 2),
            "old_query_map_before": old.get("map_before"),
            "old_query_map_after": old.get("map_after"),
            "new_query_map_before": new.get("map_before"),
            "new_query_map_after": new.get("map_after"),
            "old_queries": old,
            "new_queries": new,
            "gates": [gate.as_json() for gate in verdict.gates],
        }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Shoppers search meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
