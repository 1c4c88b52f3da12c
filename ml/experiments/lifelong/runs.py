"""One run: an arm through its chain, asked at every stage; from generations to a row and its per-query values."""

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ml.evaluation.codes import code_diagnostics
from ml.evaluation.metrics import mean_of
from ml.experiments.ledger import RunRecord
from ml.experiments.lifelong import fusing
from ml.experiments.lifelong.arms import Arm, Store
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.curriculum import packed
from ml.experiments.lifelong.measuring import Codes, Exam, Values
from ml.experiments.lifelong.stages import Stage, stages

Row = dict[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Task:
    """One chain of one arm. is_staged: the fused answer of two stages is measured at every increment too."""

    arm: Arm
    place: Place
    store: Store
    setting: str
    seed: int
    is_staged: bool


def measure(task: Task, _checkpoint: Path) -> RunRecord:
    """The row. `old_map_before_k` and `_after_k`: queries of classes known before increment k among entries that
    were there before it, by the heads before and after it. `base_map_before`, `_after`: base queries among base
    entries, by the first and by the last heads. `map_all`, `_old`, `_new`: at the end, among all entries, new being
    everything but the base; `map_all_k`, ...: after increment k, new being what it learned.
    """
    started = time.monotonic()
    exam = Exam(task.place.curriculum(task.arm.scheme))
    ends = task.place.features.chain.ends
    per_query: dict[str, Values] = {}
    values: Row = {} if task.arm.kind == "retrain" else {"old_codes_changed": 0}  # all of them, by design
    seen = list(stages(task.place, task.arm, task.store, seed=task.seed))
    codes = [exam.codes(stage.heads) for stage in seen]
    for place, (parent, stage) in enumerate(pairwise(seen)):
        if stage.number != parent.number + 1:
            continue  # full retraining at the end alone
        increment = _Increment(exam, parent, stage, ends[parent.number], ends[stage.number])
        per_query |= increment.old_queries(codes[place], codes[place + 1])
        values |= increment.means(codes[place + 1])
        if task.arm.kind != "retrain":
            values["old_codes_changed"] = int(values["old_codes_changed"]) + stage.old_codes_changed
        if task.is_staged:
            per_query |= increment.two_stages()
    per_query |= _at_the_end(exam, seen, codes, ends, task)
    values |= _structure(exam, seen[-1])
    values["training_seconds"] = round(sum(stage.seconds + stage.remembering for stage in seen[1:]), 3)
    means = {metric: mean_of(own)[0] for metric, own in per_query.items()}
    return RunRecord(
        name=task.arm.name, setting=task.setting, seed=task.seed, values=values | means, per_query=per_query,
        seconds=time.monotonic() - started, items=exam.items,
    )  # fmt: skip


def _at_the_end(
    exam: Exam, seen: list[Stage], codes: list[Codes], ends: tuple[int, ...], task: Task
) -> dict[str, Values]:
    """After the last increment: all ways of asking, and what the base has come to."""
    base, last = seen[0], seen[-1]
    found: dict[str, Values] = {}
    asked = exam.asked(codes[-1], last, known=ends[-1])
    found |= exam.by_kind(exam.photos_only(asked), "map", old=ends[0], known=ends[-1])
    if exam.words:
        found |= exam.by_kind(exam.words_only(asked), "words_map", old=ends[0], known=ends[-1])
        if task.store == "encoded":  # solved codes are one to an item, so texts would be asked as images are
            texts = exam.asking_words(codes[-1], ends[-1])
            found |= exam.by_kind(texts, "to_words_map", old=ends[0], known=ends[-1])
    found["base_map_before"] = exam.photos_only(exam.asked(codes[0], base, known=ends[0]))
    kept = exam.asked(codes[-1], last, known=ends[0], entries=len(base.rows))
    return found | {"base_map_after": exam.photos_only(kept)}


@dataclass(frozen=True, slots=True)
class _Increment:
    """One increment as its queries see it: `known` classes before it, `learned` after."""

    exam: Exam
    parent: Stage
    stage: Stage
    known: int
    learned: int

    def old_queries(self, before: Codes, after: Codes) -> dict[str, Values]:
        """Of old classes among the entries there were, by the codes (Q, c / 8) of the heads before and after."""
        exam, number = self.exam, self.stage.number
        earlier = exam.asked(before, self.parent, known=self.known)
        later = exam.asked(after, self.stage, known=self.known, entries=self.stage.learned)
        return {
            f"old_map_before_{number}": exam.photos_only(earlier),
            f"old_map_after_{number}": exam.photos_only(later),
        }

    def means(self, codes: Codes) -> Row:
        """Among all entries after it, and what it took."""
        exam, number = self.exam, self.stage.number
        asked = exam.photos_only(exam.asked(codes, self.stage, known=self.learned))
        kinds = exam.by_kind(asked, "map", old=self.known, known=self.learned)
        found: Row = {f"{name}_{number}": mean_of(own)[0] for name, own in kinds.items()}
        return found | {f"training_seconds_{number}": round(self.stage.seconds + self.stage.remembering, 4)}

    def two_stages(self) -> dict[str, Values]:
        """The fused answer for photos of the new classes, and of the old ones, before and after."""
        exam, known, learned, number = self.exam, self.known, self.learned, self.stage.number
        before = fusing.before(exam, self.parent, self.stage.rows, known=known, learned=learned)
        after = fusing.after(exam, self.stage, known=known, learned=learned)
        is_new = exam.labels >= known
        return {
            f"fused_new_before_{number}": np.where(is_new, before, np.nan),
            f"fused_new_after_{number}": np.where(is_new, after, np.nan),
            f"fused_old_before_{number}": np.where(is_new, np.nan, before),
            f"fused_old_after_{number}": np.where(is_new, np.nan, after),
        }


def _structure(exam: Exam, stage: Stage) -> dict[str, float]:
    """How the code space is used at the end."""
    found = code_diagnostics(packed(stage.codes), exam.curriculum.labels[stage.rows])
    kept = ("distance_ratio", "bit_entropy", "distinct_codes", "inter_class_distance")
    return {name: found[name] for name in kept}
