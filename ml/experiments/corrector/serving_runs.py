"""The rows of the serving half: encoders, upgrades between them, and curves, of several packs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ml.experiments.corrector.serving_curves import (
    BACKFILL,
    COUNTS,
    PAIRS,
    SHARES,
    measured_backfill,
    measured_pairs,
)
from ml.experiments.corrector.serving_encoders import SUCCESSORS, planned_encoders
from ml.experiments.corrector.serving_gallery import Task
from ml.experiments.corrector.serving_heads import planned_heads
from ml.experiments.corrector.serving_ladder import NAME, measured_upgrade
from ml.experiments.corrector.serving_maps import CONFIG
from ml.experiments.data import ClassSplit, Dataset, class_split, few, joined_dataset
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import Options, PlannedRun

UNION, ALONE = "union", "grocery"
SEEDS, CURVE_SEEDS = 4, 2
VERSION = 2  # of the measurement: another one measures anew
SMOKE_IMAGES, SMOKE_CLASSES = 12, 12


def planned_serving(datasets: Sequence[Dataset], options: Options) -> list[PlannedRun]:
    """Encoders and rows, seed by seed, of the packs together and of `grocery` alone."""
    planned = []
    for seed in options.seeds[:SEEDS]:
        for split in _splits(datasets, options):
            runs = planned_encoders(split, seed, options)
            runs["heads"] = planned_heads(split, seed, runs["old"], options)
            tasks = [Task(split, runs, kind, seed, options) for kind in SUCCESSORS]
            planned += [*runs.values(), *(_planned(task, NAME, measured_upgrade) for task in tasks)]
            if seed in options.seeds[:CURVE_SEEDS]:
                planned += [_planned(task, PAIRS, measured_pairs) for task in tasks]
                open_ended = [task for task in tasks if task.kind != "heads"]  # those are mended wholly
                planned += [_planned(task, BACKFILL, measured_backfill) for task in open_ended]
    return planned


def _splits(datasets: Sequence[Dataset], options: Options) -> list[ClassSplit]:
    packs = [dataset for dataset in datasets if dataset.kind == "pack"]
    if options.smoke:
        return [class_split(few(pack, SMOKE_IMAGES, SMOKE_CLASSES)) for pack in packs[:1]]
    alone = [class_split(pack) for pack in packs if pack.name == ALONE]
    return alone + ([class_split(joined_dataset(packs, UNION))] if len(packs) > 1 else [])


def _planned(task: Task, name: str, measure: Callable[[Task, Path], RunRecord]) -> PlannedRun:
    identity: dict[str, Any] = {
        "encoders": {role: dict(task.runs[role].identity) for role in ("old", task.kind)},
        "config": asdict(CONFIG), "counts": COUNTS, "shares": SHARES, "version": VERSION,
    }  # fmt: skip
    setting = task.setting if name == NAME else f"{task.setting}/{name}"
    work = partial(measure, task)
    return PlannedRun(name=name, setting=setting, seed=task.seed, identity=identity, work=work)
