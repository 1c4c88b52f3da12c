"""A real experiment of seconds: photos found by their mean colour, and by their pixels made small."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.retrieval import retrieval_values
from ml.experiments.claims import Question, Side
from ml.experiments.data import Dataset, Part
from ml.experiments.evidence import Evidence
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import Options, PlannedRun

BLOCKS = {"colour": 1, "pixels": 8}  # blocks a side that are averaged


class Colours:
    name = "colours"
    seeds = 3

    def plan(self, datasets: Sequence[Dataset], options: Options) -> list[PlannedRun]:
        return [
            PlannedRun(
                name=name,
                setting=dataset.name,
                seed=seed,
                identity={"blocks": blocks, "data": dataset.fingerprint},
                work=_work(dataset, name, blocks, seed),
            )
            for dataset in datasets
            for seed in options.seeds
            for name, blocks in BLOCKS.items()
        ]

    def questions(self, evidence: Evidence) -> list[Question]:
        (setting,) = evidence.tables
        sides = (Side("pixels", "recall_at_1"), Side("colour", "recall_at_1"))
        return [
            Question(
                id="T1",
                cell="pixels - colour",
                statistic="paired_recall_at_1",
                setting=setting,
                a=sides[0],
                b=sides[1],
                target="low > 0",
            )
        ]

    def present(self, evidence: Evidence) -> dict[str, Any]:
        return {"title": "Colours", "about": f"{len(evidence.rows)} rows."}


EXPERIMENT = Colours()


def _work(dataset: Dataset, name: str, blocks: int, seed: int) -> Callable[[Path], RunRecord]:
    def work(_: Path) -> RunRecord:
        started = time.monotonic()
        kept = np.random.default_rng(seed).permutation(len(dataset.train))[: len(dataset.train) * 3 // 4]
        gallery, queries = _vectors(dataset.train, blocks)[kept], _vectors(dataset.test, blocks)
        labels = dataset.train.labels()[kept]
        found = retrieval_values(queries, dataset.test.labels(), gallery, labels, deep=False).per_query()
        per_query = {metric: found[metric] for metric in ("recall_at_1", "map_at_100")}
        values = {metric: float(np.nanmean(of)) for metric, of in per_query.items()}
        seconds = time.monotonic() - started
        return RunRecord(name, dataset.name, seed, values, per_query, seconds, dataset.test.items)

    return work


def _vectors(part: Part, blocks: int) -> NDArray[np.float32]:
    """(N, D) unit vectors of block means."""
    pixels = part.images.pixels.numpy().astype(np.float32) / 255
    side = pixels.shape[-1] // blocks
    means = (
        pixels.reshape(len(pixels), -1, blocks, side, blocks, side).mean(axis=(3, 5)).reshape(len(pixels), -1)
    )
    vectors: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return vectors
