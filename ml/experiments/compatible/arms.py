"""The ways to train a new encoder that the experiment compares: this method, its zero, free training, and rivals."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ml.base_version.recipe import Stored
from ml.experiments.compatible.heads import HeadConfig
from ml.methods.compact_metric import CompactMetricTrainer
from ml.methods.compatible.alignment import Alignment
from ml.methods.compatible.config import Compatibility
from ml.methods.compatible.perturbation import PrototypeAlignment
from ml.methods.compatible.rivals import (
    BctAlignment,
    HotRefreshAlignment,
    LceAlignment,
    UniBctAlignment,
)
from ml.methods.compatible.rivals_adversarial import AdvBctAlignment

Rule = Literal["free", "prototypes", "bct", "unibct", "lce", "hot-refresh", "advbct"]

CLAIMED_SEEDS, DESCRIBED_SEEDS, ABLATION_SEEDS = 10, 3, 1
WHOLE_SEEDS = 3  # of which codes and fused answers are measured too
OLD, FREE, PLAIN, NDPP, ODPP = "old", "independent", "prototype-bct", "ndpp", "odpp"
CODES_ALONE = "held codes alone"
PUBLISHED_SCALE, TUNED_SCALE = 30.0, 10.0  # the latter: 1 / the temperature of this method
OURS = "ours: ndpp and stored entries"
STRENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # 0 is `prototype-bct`
NOISES = (0.1, 0.2, 0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One row. is_whole: code stage and fused answer are measured too, which takes longer."""

    name: str
    rule: Rule = "prototypes"
    settings: Compatibility = field(default_factory=Compatibility)
    seeds: int = DESCRIBED_SEEDS
    is_whole: bool = False
    is_tuned: bool = False  # a rival at the scale that suits the trainings here instead of the published one

    def as_values(self) -> dict[str, Any]:
        """What decides the encoder, for a run's identity."""
        settings = self.settings.as_values() if self.rule == "prototypes" else {}
        values = {"rule": self.rule, "settings": settings, "is_whole": self.is_whole}
        return values | ({"is_tuned": True} if self.is_tuned else {})

    def at(self, seed: int) -> "Arm":
        """As it is measured with this seed."""
        return self if seed < WHOLE_SEEDS else replace(self, is_whole=False)

    @property
    def scale(self) -> float:
        """Of a rival's cosine classifier."""
        return TUNED_SCALE if self.is_tuned else PUBLISHED_SCALE

    def alignment(
        self,
        stored: Stored,
        rows: NDArray[np.float32],
        known: NDArray[np.bool_],
        heads: HeadConfig,
        seed: int,
    ) -> Callable[[CompactMetricTrainer], Alignment]:
        """rows (C, D): the old encoder's classifier; known (C,): which of them it learned."""
        space = stored.space

        def made(student: CompactMetricTrainer) -> Alignment:
            match self.rule:
                case "bct":
                    return BctAlignment(
                        space, torch.from_numpy(rows), torch.from_numpy(known), scale=self.scale
                    )
                case "unibct":
                    return UniBctAlignment(space, scale=self.scale)
                case "lce":
                    return LceAlignment(space, student.parts.embedding_centres)
                case "hot-refresh":
                    return HotRefreshAlignment(space, temperature=0.05 if self.is_tuned else 0.01)
                case "advbct":
                    return AdvBctAlignment(space, epochs=heads.epochs, steps_per_epoch=heads.steps, seed=seed)
                case _:
                    return PrototypeAlignment(stored.space, self.settings, entries=stored.entries, seed=seed)

        return made


def claimed_arms(seeds: int = CLAIMED_SEEDS) -> Iterator[Arm]:
    """What claims name."""
    yield Arm(name=FREE, rule="free", seeds=seeds, is_whole=True)
    yield Arm(name=PLAIN, settings=Compatibility(kind="none"), seeds=seeds, is_whole=True)
    yield Arm(name=NDPP, settings=Compatibility(kind="ndpp"), seeds=seeds, is_whole=True)
    yield Arm(name=ODPP, settings=Compatibility(kind="odpp"), seeds=seeds, is_whole=True)


def tuned_rivals() -> Iterator[Arm]:
    """Those whose published temperature is far from what suits the trainings here."""
    yield Arm(name="bct, scale 10", rule="bct", is_tuned=True)
    yield Arm(name="unibct, scale 10", rule="unibct", is_tuned=True)
    yield Arm(name="hot-refresh, temperature 0.05", rule="hot-refresh", is_tuned=True)


def held_codes_alone() -> Arm:
    """No alignment of embeddings: what holding codes does to them through the shared layer below."""
    return Arm(name=CODES_ALONE, settings=Compatibility(kind="none", weight=0.0))


def ours(seeds: int = DESCRIBED_SEEDS) -> Arm:
    """The variant of our own."""
    return Arm(name=OURS, settings=Compatibility(kind="ndpp", entry_weight=1.0), seeds=seeds, is_whole=True)


def rivals() -> Iterator[Arm]:
    """Published ones, described."""
    yield Arm(name="bct", rule="bct")
    yield Arm(name="unibct", rule="unibct")
    yield Arm(name="lce", rule="lce")
    yield Arm(name="hot-refresh", rule="hot-refresh")
    yield Arm(name="advbct", rule="advbct")


def strengths(seeds: int) -> Iterator[Arm]:
    """NDPP's curve."""
    for strength in STRENGTHS:
        yield Arm(name=f"ndpp {strength:g}", settings=Compatibility(strength=strength), seeds=seeds)


def variants() -> Iterator[Arm]:
    """What each part is worth: ours with one thing changed."""
    ndpp, odpp = Compatibility(kind="ndpp"), Compatibility(kind="odpp")
    yield Arm(name="ndpp, positives alone", settings=replace(ndpp, has_perturbed_negatives=False))
    yield Arm(name="odpp, all perturbed", settings=replace(odpp, has_perturbed_negatives=True))
    yield Arm(name="ndpp, old neighbours alone", settings=replace(ndpp, new_strength=0.0))
    yield Arm(name="ndpp, new neighbours alone", settings=replace(ndpp, strength=0.0))
    unmoved = Compatibility(kind="none", entry_weight=1.0)
    yield Arm(name=f"{OURS}, nothing perturbed", settings=unmoved, seeds=ABLATION_SEEDS)
    yield Arm(name=f"{OURS}, no prototypes", settings=replace(unmoved, weight=0.0), seeds=ABLATION_SEEDS)
