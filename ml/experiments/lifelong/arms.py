"""What the experiment compares: the four modes of an update, what they are judged by, and what each part is worth."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from ml.experiments.lifelong.curriculum import LabelScheme
from ml.methods.lifelong.config import LifelongConfig

CLAIMED_SEEDS = 10  # tier A, of the arms that claims name
DESCRIBED_SEEDS = 3
ABLATION_SEEDS = 1
WORDS = 2048  # buckets of hashed texts

Kind = Literal["update", "retrain", "frozen", "random features"]
Store = Literal["solved", "encoded"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One row per seed. kind: updates along the chain, trains anew on everything at each stage, never updates, or
    updates a ridge layer over random features. base: settings of the first generation, where they are not its own.
    renews: heads start anew at each update. takes_all: the update replays every stored feature.
    """

    name: str
    config: LifelongConfig = field(default_factory=LifelongConfig)
    kind: Kind = "update"
    seeds: int = DESCRIBED_SEEDS
    renews: bool = False
    scheme: LabelScheme = field(default_factory=LabelScheme)
    is_staged: bool = False  # the fused answer of two stages is measured too


BASE = LifelongConfig(rounds=8)  # of every arm's first generation, and of full retraining
UPDATE = LifelongConfig()
FEW_ITEMS = 64  # batch where a stage learns a few dozen items
