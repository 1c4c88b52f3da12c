"""Hard negatives as an option of the product's trainer, against plain training that costs as much.

Trunk and heads of what `train_base` trains, from random weights, `budget` widths at 64 pixels. A step that asks costs
more, so the arm that asks takes fewer: epochs were fixed by step times measured alternately in one process, on one
thread. It asks in the method file's form: one corrector step, nothing remembered. Nothing is claimed; the option is on
by default only where it is better at equal cost.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.base_version.recipe import Recipe, train_encoder
from ml.evaluation.metrics import mean_of
from ml.evaluation.retrieval import retrieval_values
from ml.experiments.corrector.serving_encoders import encode_all
from ml.experiments.data import ClassSplit, Dataset, class_split, few, joined_dataset
from ml.experiments.evidence import Evidence
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import Options, PlannedRun
from ml.experiments.statistics import paired_difference
from ml.experiments.twin_bottleneck.trunks import training_images, trunk_recipe
from ml.methods.corrector.config import HardNegatives
from ml.methods.twin_bottleneck import Config
from ml.training.memory import fastest_precision

PREFIX = "base training"  # of every setting
SEEDS = 3
PLAIN, ASKING, AS_LONG = "plain", "hard negatives", "plain, as many epochs"
METRICS = {"map": "mAP", "recall_at_1": "Recall@1"}
TASKS = ("choosing", "final")
DRAWS_SEED = 0
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Length:
    """Epochs of plain training and of the arm that asks; both cost the same. from_epoch: as HardNegatives."""

    plain: int
    asking: int
    from_epoch: int


# Of a pilot; what both then took stands in the table.
LENGTHS: Mapping[str, Length] = {"grocery": Length(24, 19, 2), "union": Length(8, 6, 1)}
SMOKE_LENGTH = Length(3, 2, 1)
SMOKE_IMAGES, SMOKE_CLASSES = 8, 10
NEGATIVES = HardNegatives(weight=0.5, queries=16, count=1)


@dataclass(frozen=True, slots=True)
class Task:
    """One run."""

    name: str
    seed: int
    split: ClassSplit
    recipe: Recipe

    @property
    def setting(self) -> str:
        return f"{PREFIX}/{self.split.name}"


def planned_base_training(datasets: Sequence[Dataset], options: Options) -> list[PlannedRun]:
    """Every arm on `grocery` alone and on the packs together, seed by seed."""
    tasks = [task for split, length in _places(datasets, options) for task in _tasks(split, length, options)]
    return [
        PlannedRun(
            name=task.name, setting=task.setting, seed=task.seed,
            identity={"recipe": task.recipe.as_values(), "data": task.split.fingerprint},
            work=partial(measure, task),
        )
        for task in sorted(tasks, key=lambda task: task.seed)
    ]  # fmt: skip


def _places(datasets: Sequence[Dataset], options: Options) -> Iterator[tuple[ClassSplit, Length]]:
    packs = [dataset for dataset in datasets if dataset.kind == "pack"]
    if options.smoke:
        for pack in packs[:1]:
            yield class_split(few(pack, SMOKE_IMAGES, SMOKE_CLASSES)), SMOKE_LENGTH
        return
    for pack in packs:
        if pack.name in LENGTHS:
            yield class_split(pack), LENGTHS[pack.name]
    if len(packs) > 1:
        yield class_split(joined_dataset(packs, "union")), LENGTHS["union"]


def _tasks(split: ClassSplit, length: Length, options: Options) -> Iterator[Task]:
    plain = trunk_recipe(
        split.images, len(split.base), len(split.train), precision=fastest_precision(), steps=1
    )
    plain = replace(plain, method=Config(encoder=plain.method.encoder))
    asking = replace(NEGATIVES, from_epoch=length.from_epoch)
    arms = {PLAIN: (length.plain, None), ASKING: (length.asking, asking), AS_LONG: (length.asking, None)}
    for name, (epochs, negatives) in arms.items():
        own = replace(plain, fit=replace(plain.fit, epochs=epochs), negatives=negatives)
        for seed in options.seeds[: 1 if name == AS_LONG else SEEDS]:
            yield Task(name, seed, split, replace(own, seed=seed))


def measure(task: Task, _checkpoint: Path) -> RunRecord:
    """Train and rank both tasks by the embedding. Without a checkpoint: a resumed fit would hide what it cost."""
    started, spent, split = time.monotonic(), time.process_time(), task.split
    trained = train_encoder(training_images(split, split.train_labels), task.recipe)
    spent = time.process_time() - spent
    embeddings = encode_all(trained.encoder, split.images.images.pixels).embeddings
    per_query = _quality(embeddings, split)
    last = {name: value for name, value in trained.history[-1].items() if name.startswith("negatives_")}
    return RunRecord(
        name=task.name, setting=task.setting, seed=task.seed,
        values={"epochs": trained.epochs, "processor_seconds": round(spent, 1)} | last
        | {metric: mean_of(own)[0] for metric, own in per_query.items()},
        per_query=per_query, seconds=time.monotonic() - started,
        items=np.concatenate([getattr(split, name).query_items for name in TASKS]),
    )  # fmt: skip


def _quality(embeddings: NDArray[np.float32], split: ClassSplit) -> dict[str, NDArray[np.float64]]:
    """`<task>_<metric>` -> values of all queries of both tasks, NaN at those of the other one."""
    tasks = {name: getattr(split, name) for name in TASKS}
    total, place, found = sum(len(task.queries) for task in tasks.values()), 0, {}
    for name, task in tasks.items():
        values = retrieval_values(
            embeddings[task.queries], task.query_labels, embeddings[task.gallery], task.gallery_labels
        ).per_query()
        for metric in METRICS:
            own = np.full(total, np.nan)
            own[place : place + len(task.queries)] = values[metric]
            found[f"{name}_{metric}"] = own
        place += len(task.queries)
    return found


def base_training_tables(evidence: Evidence) -> list[dict[str, Any]]:
    """Two tables: what each arm reached, and paired differences to the arm that asks; no rows without runs."""
    settings = [place for name in LENGTHS if (place := f"{PREFIX}/{name}") in evidence.tables]
    return [
        {
            "title": "Hard negatives in the product's trainer, at equal cost",
            "note": "Means over seeds; mAP over the full ranking and Recall@1 of the embedding, in points. `choosing`: "
            "validation images and validation classes; `final`: test images and reserved classes.",
            "rows": [_reached(evidence, place, arm) for place in settings for arm in (PLAIN, ASKING, AS_LONG)],
        },
        {
            "title": "Hard negatives minus plain training, in points (95 %)",
            "note": "Paired over seeds and queries, items resampled. Against as many epochs the arm that asks has the "
            "advantage of its dearer steps.",
            "rows": [
                row for place in settings for rival in (PLAIN, AS_LONG)
                if (row := _difference(evidence, place, rival))
            ],
        },
    ]  # fmt: skip


def _reached(evidence: Evidence, place: str, arm: str) -> dict[str, Any]:
    def mean(metric: str) -> float:
        found = list(evidence.values(setting=place, name=arm, metric=metric).values())
        return float(np.mean(found)) if found else float("nan")

    row: dict[str, Any] = {"data": place.removeprefix(f"{PREFIX}/"), "arm": arm, "epochs": round(mean("epochs")),
                           "processor seconds": round(mean("processor_seconds"), 1)}  # fmt: skip
    for task in TASKS:
        for metric, title in METRICS.items():
            row[f"{title}, {task}"] = round(100 * mean(f"{task}_{metric}"), 1)
    return row


def _difference(evidence: Evidence, place: str, rival: str) -> dict[str, Any]:
    """Empty where the two share no seed."""
    row: dict[str, Any] = {"data": place.removeprefix(f"{PREFIX}/"), "against": rival}
    items = evidence.tables[place].items
    for task in TASKS:
        for metric, title in METRICS.items():
            own, other = (
                evidence.queries(setting=place, name=name, metric=f"{task}_{metric}")
                for name in (ASKING, rival)
            )
            seeds = sorted(own.keys() & other.keys())
            if not seeds:
                return {}
            a, b = (np.stack([side[seed] for seed in seeds]) for side in (own, other))
            found = paired_difference(a, b, items, seed=DRAWS_SEED)
            row["seeds"] = len(seeds)
            row[f"{title}, {task}"] = (
                f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
            )
    return row
