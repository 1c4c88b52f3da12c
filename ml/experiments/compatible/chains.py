"""A chain of four generations of tier A, each held to what the one before stored, and a gallery of them all."""

import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ml.evaluation.metrics import mean_of
from ml.evaluation.retrieval import retrieval_values
from ml.experiments.compatible.arms import Arm
from ml.experiments.compatible.heads import HeadConfig, Holding, TrainedHeads, train_heads
from ml.experiments.compatible.judging import stored_by
from ml.experiments.compatible.measuring import Values, found_by
from ml.experiments.compatible.new_rows import NEW_SEED
from ml.experiments.compatible.old_rows import as_stored
from ml.experiments.compatible.settings import CHAIN
from ml.experiments.compatible.trunks import Features, features_of, planned_trunk
from ml.experiments.corrector.serving_encoders import Encoded
from ml.experiments.data import ClassSplit
from ml.experiments.ledger import RunRecord
from ml.experiments.protocol import Options, PlannedRun

SETTING = "chain"


@dataclass(frozen=True)
class Chain:
    """Of one split."""

    split: ClassSplit
    options: Options
    heads: HeadConfig

    @cached_property
    def trunks(self) -> list[PlannedRun]:
        """One for each generation."""
        return [planned_trunk(self.split, generation, self.options) for generation in CHAIN]

    @cached_property
    def features(self) -> list[Features]:
        """What each says."""
        return [features_of(self.split, own, run, self.options) for own, run in zip(CHAIN, self.trunks)]

    def planned(self, arm: Arm, seed: int) -> PlannedRun:
        """The row of an arm: all generations after the first are trained by it."""
        identity: dict[str, Any] = {
            "trunks": [dict(run.identity) for run in self.trunks], "arm": arm.as_values(),
            "heads": asdict(self.heads),
        }  # fmt: skip
        work = partial(_measured, self, arm, seed)
        return PlannedRun(name=arm.name, setting=SETTING, seed=seed, identity=identity, work=work)


def _measured(chain: Chain, arm: Arm, seed: int, _checkpoint: Path) -> RunRecord:
    """`map_q_g`: queries of generation q among entries of generation g <= q. `map_q_mixed`: among entries of all
    generations up to q, an equal share of each.
    """
    started, split = time.monotonic(), chain.split
    generations, degrees = _generations(chain, arm, seed)
    per_query: dict[str, Values] = {}
    for asking, new in enumerate(generations):
        for answering, stored in enumerate(generations[: asking + 1]):
            per_query[f"map_{asking}_{answering}"] = found_by(split.final, new, stored, "own")["own_map"]
        if asking:
            per_query[f"map_{asking}_mixed"] = _mixed(split, new, generations[: asking + 1])
    values: dict[str, Any] = {metric: mean_of(own)[0] for metric, own in per_query.items()}
    values |= {f"furthest_degrees_{place}": moved for place, moved in enumerate(degrees, start=1)}
    return RunRecord(
        name=arm.name, setting=SETTING, seed=seed, values=values, per_query=per_query,
        seconds=time.monotonic() - started, items=split.final.query_items,
    )  # fmt: skip


def _generations(chain: Chain, arm: Arm, seed: int) -> tuple[list[Encoded], list[float]]:
    """What each generation makes of every image, and the degrees of the class that each stage moved furthest."""
    split, classes = chain.split, len(chain.split.base)
    heads = [train_heads(chain.features[0], chain.heads, classes=classes, seed=seed)]
    degrees: list[float] = []
    for stage, features in enumerate(chain.features[1:], start=1):
        old = as_stored(heads[-1])
        holding = None
        if arm.rule != "free":
            stored = stored_by(split, old)
            assert stored.codes is not None
            own = replace(arm, settings=arm.settings.for_stage(sum(degrees)))
            every = np.ones(classes, np.bool_)
            made = own.alignment(stored, heads[-1].centres, every, chain.heads, seed)
            holding = Holding(old.embeddings, stored.codes, made)
        trained = train_heads(
            features, chain.heads, classes=classes, seed=seed + stage * NEW_SEED, holding=holding
        )
        degrees.append(_moved(trained))
        heads.append(trained)
    return [as_stored(own) for own in heads], degrees


def _moved(trained: TrainedHeads) -> float:
    return trained.history[-1].get("furthest_degrees", 0.0)


def _mixed(split: ClassSplit, asking: Encoded, generations: list[Encoded]) -> Values:
    """Entries in turn by each generation, in an order drawn by seed 0."""
    task = split.final
    turn = np.random.default_rng(0).permutation(len(task.gallery)) % len(generations)
    every = np.stack([own.embeddings[task.gallery] for own in generations])
    gallery = every[turn, np.arange(len(task.gallery))]
    found = retrieval_values(asking.embeddings[task.queries], task.query_labels, gallery, task.gallery_labels)
    assert found.map is not None
    return found.map


def pairs() -> list[tuple[int, int]]:
    """(asking, answering) of different generations, the nearest first."""
    count = len(CHAIN)
    return [(old + apart, old) for apart in range(1, count) for old in range(count - apart)]
