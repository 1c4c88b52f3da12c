"""Where arms are compared: a split, who knew what before and after, and what both trunks say of every image."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.experiments.compatible.heads import HeadConfig
from ml.experiments.compatible.settings import Upgrade, learned_classes
from ml.experiments.compatible.trunks import Features, features_of, planned_trunk
from ml.experiments.data import ClassSplit
from ml.experiments.protocol import Options, PlannedRun

SMOKE = HeadConfig(epochs=2, steps=3)


@dataclass(frozen=True)
class Place:
    """One setting. noise: share of wrong labels in what new encoders learn from."""

    split: ClassSplit
    upgrade: Upgrade
    options: Options
    noise: float = 0.0
    heads: HeadConfig = field(default_factory=HeadConfig)

    @property
    def title(self) -> str:
        """As rows name the setting."""
        name = self.upgrade.name if self.split.name == "union" else f"{self.split.name}/{self.upgrade.name}"
        return name if not self.noise else f"{name}, {self.noise:.0%} wrong labels"

    @cached_property
    def trunks(self) -> tuple[PlannedRun, PlannedRun]:
        """The old one's and the new one's."""
        old, new = self.upgrade.old, self.upgrade.new
        return planned_trunk(self.split, old, self.options), planned_trunk(self.split, new, self.options)

    @cached_property
    def features(self) -> tuple[Features, Features]:
        """Of both, trained now if the ledger lacks them."""
        generations = (self.upgrade.old, self.upgrade.new)
        old, new = (
            features_of(self.split, generation, run, self.options)
            for generation, run in zip(generations, self.trunks)
        )
        return old, new

    @cached_property
    def old_classes(self) -> NDArray[np.bool_]:
        """(C,) base classes that the old encoder learned."""
        return learned_classes(self.split, self.upgrade.old.classes)

    def identity(self) -> dict[str, Any]:
        """What decides everything but the arm."""
        return {
            "old": dict(self.trunks[0].identity), "new": dict(self.trunks[1].identity), "noise": self.noise,
            "heads": asdict(self.heads),
        }  # fmt: skip
