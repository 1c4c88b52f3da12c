"""Claim C6d: what an update costs beside full retraining, by one code path, one frozen trunk and one stopping rule.

Full retraining is given several lengths, each with its own decay, so that it is judged by the *cheapest* one that is
within a point of the best on validation photos, not by one that was left to run. Entries are seen in several augmented
views, as the trunk sees pictures, so that full retraining is long enough to be timed; an update's epoch looks at no
more than `max_new` of the new ones, however many views there are. Seconds are the processor's, on one thread, for those
of the clock would be a busy neighbour's too, and hold everything: replay fitting of old and of new classes, code steps,
validation, the ridge refit. Feature extraction is timed apart.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ml.evaluation.hamming import hamming_values
from ml.evaluation.metrics import mean_of
from ml.experiments.data import Ids
from ml.experiments.evidence import Evidence
from ml.experiments.ledger import RunRecord
from ml.experiments.lifelong.arms import BASE, UPDATE
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.curriculum import Curriculum, LabelScheme, packed
from ml.experiments.protocol import PlannedRun
from ml.methods.lifelong.config import LifelongConfig, Mode
from ml.methods.lifelong.heads import outputs_of, signs_of_logits
from ml.methods.lifelong.lesson import Items, Lesson
from ml.methods.lifelong.statistics import Signs
from ml.methods.lifelong.update import generation_after, learn_base, learn_increment

SEEDS = 3
LENGTHS = (0, 1, 2)  # rounds that full retraining may take
PATIENCE = 3  # epochs without a better validation: the one rule by which everything stops
MODES: tuple[Mode, ...] = ("feature_gaussian", "analytic", "exemplar")
WITHIN = 0.01  # of the best full retraining's mAP on validation photos

Row = dict[str, float | int | str]


def planned_timing(place: Place, stage: int, scheme: LabelScheme) -> list[PlannedRun]:
    """One run per seed: a base, every length of full retraining, every mode of the update to `stage`."""
    setting = f"{place.title}/time of an update"
    full = {rounds: replace(BASE, rounds=rounds, patience=PATIENCE) for rounds in LENGTHS}
    updates = {mode: replace(UPDATE, mode=mode, patience=PATIENCE) for mode in MODES}
    identity = {
        **place.identity(scheme), "stage": stage, "full": [asdict(config) for config in full.values()],
        "updates": [asdict(config) for config in updates.values()], "clock": "processor",
    }  # fmt: skip

    def work_of(seed: int) -> Callable[[Path], RunRecord]:
        def work(_checkpoint: Path) -> RunRecord:
            started = time.monotonic()
            exam = _Exam(place.curriculum(scheme), stage, seed)
            values: Row = {"stored": len(exam.old), "new": len(exam.new), "views": exam.views}
            for rounds, config in full.items():
                values |= exam.full(f"full_{rounds}", config)
            base = exam.base(full[LENGTHS[1]])
            for mode, config in updates.items():
                values |= exam.update(mode, base, config)
            seconds = time.monotonic() - started
            return RunRecord(name="timing", setting=setting, seed=seed, values=values, seconds=seconds)

        return work

    return [
        PlannedRun(name="timing", setting=setting, seed=seed, identity=identity, work=work_of(seed))
        for seed in place.options.seeds[:SEEDS]
    ]


class _Exam:
    """One seed's catalogue before and after increment `stage`, and what is asked of it."""

    def __init__(self, curriculum: Curriculum, stage: int, seed: int) -> None:
        self.curriculum, self.stage, self.seed = curriculum, stage, seed
        self.old = np.concatenate([curriculum.entries(one) for one in range(stage)])
        self.new = curriculum.entries(stage)
        self.views = 1 + len(curriculum.features.views)
        self.entries = {row: place for place, row in enumerate(curriculum.features.chain.gallery)}

    def full(self, name: str, config: LifelongConfig) -> Row:
        """Everything anew."""
        items = self._viewed(np.concatenate([self.old, self.new]))
        started = time.process_time()
        lesson = learn_base(
            self.curriculum.registries[self.stage], items, None, config, seed=self.seed,
            validation=self._held_out(range(self.stage + 1)),
        )  # fmt: skip
        return self._judged(name, lesson, time.process_time() - started, self._codes(lesson.solved))

    def base(self, config: LifelongConfig) -> Lesson:
        """The generation that the updates stand on; not part of their time."""
        items, registry = self._viewed(self.old), self.curriculum.registries[self.stage - 1]
        return learn_base(
            registry, items, None, config, seed=self.seed, validation=self._held_out(range(self.stage))
        )

    def update(self, mode: Mode, base: Lesson, config: LifelongConfig) -> Row:
        """Everything counted: what is kept of the old classes, the training, what is kept of the new ones."""
        registries, stage, seed = self.curriculum.registries, self.stage, self.seed
        items, fresh = self._viewed(self.old), self._viewed(self.new)
        started = time.process_time()
        parent = generation_after(
            None, registries[stage - 1], base, items, None, base.solved, config, seed=seed
        )
        lesson = learn_increment(
            parent, registries[stage], fresh, None, config, seed=seed,
            validation=self._held_out(range(stage, stage + 1)),
        )  # fmt: skip
        generation_after(parent, registries[stage], lesson, fresh, None, lesson.solved, config, seed=seed)
        seconds = time.process_time() - started
        codes = np.concatenate([self._codes(base.solved), self._codes(lesson.solved)])
        return self._judged(mode, lesson, seconds, codes)

    def _judged(self, name: str, lesson: Lesson, seconds: float, codes: Signs) -> Row:
        """Solved codes, asked by validation photos (to choose) and by test photos (to report)."""
        chain, labels = self.curriculum.features.chain, self.curriculum.labels
        rows = np.concatenate([self.old, self.new])
        found: Row = {f"{name}_seconds": round(seconds, 3), f"{name}_epochs": lesson.epochs}
        for title, asking in (("choosing_", chain.validation), ("", chain.queries)):
            known = asking[labels[asking] < chain.ends[self.stage]]
            asked = packed(
                signs_of_logits(outputs_of(lesson.heads.image, self.curriculum.features.vectors[known]))
            )
            values = hamming_values(asked, labels[known], packed(codes), labels[rows]).map
            found[f"{name}_{title}map"] = mean_of(values)[0]
        curve = [logs["validation"] for logs in lesson.history if "validation" in logs]
        return found | ({f"{name}_curve": " ".join(f"{value:.5f}" for value in curve)} if curve else {})

    def _viewed(self, rows: Ids) -> Items:
        """Every view of every entry, view by view."""
        vectors = [self.curriculum.features.vectors[rows]]
        places = np.array([self.entries[row] for row in rows], np.int64)
        vectors += [view[places] for view in self.curriculum.features.views]
        keys = [f"{view}/{row:08d}" for view in range(self.views) for row in rows]
        sets = [self.curriculum.sets[row] for row in rows] * self.views
        return Items(np.concatenate(vectors), sets, keys)

    def _codes(self, codes: Signs) -> Signs:
        """Those of the entries themselves, which come first."""
        return codes[: len(codes) // self.views]

    def _held_out(self, stages: range) -> Items:
        found = [self.curriculum.validation(stage) for stage in stages]
        return self.curriculum.items(np.concatenate([_rows(items) for items in found if items is not None]))


def _rows(items: Items) -> Ids:
    return np.array([int(key) for key in items.keys], np.int64)


def cheapest_full(evidence: Evidence, setting: str) -> int:
    """Rounds of the quickest full retraining whose mAP on validation photos is within a point of the best."""

    def mean(metric: str) -> float:
        return float(np.mean(list(evidence.values(setting=setting, name="timing", metric=metric).values())))

    quality = {rounds: mean(f"full_{rounds}_choosing_map") for rounds in LENGTHS}
    enough = [rounds for rounds in LENGTHS if quality[rounds] >= max(quality.values()) - WITHIN]
    return min(enough, key=lambda rounds: mean(f"full_{rounds}_seconds"))
