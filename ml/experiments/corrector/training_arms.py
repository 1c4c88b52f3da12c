"""The ways to choose negatives that fine-tunings are compared by, each a policy of ml.methods.corrector."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from torch import Tensor

from ml.methods.corrector.baselines import CachedTargets, InBatch, Landmarks, NegativeCache, UniformTargets
from ml.methods.corrector.catalogue import Catalogue
from ml.methods.corrector.closed_form import ridge_map, rotation_map
from ml.methods.corrector.config import JointConfig, Selection
from ml.methods.corrector.joint import CorrectedCache
from ml.methods.corrector.training import Policy

Kind = Literal[
    "in batch", "uniform", "stale", "re-embedded", "negative cache", "landmarks", "rotated", "corrected"
]

SEEDS = 3
STEPS = 400  # T
CHECKS = 4  # looks at the probe in one training
OURS, PLAIN = "corrected", "corrected, nothing remembered"
FASTER, ALONE = "corrected, learning rate 0.001", "corrected, remembered alone"
PERIODIC, STALE, EXHAUSTIVE = "re-embedded 20 times", "stale", "re-embedded every step"
LANDMARK_RIDGE = 1e-3
RENEWED = 10  # items of the negative cache encoded anew before each step
NOISES = (0.1, 0.2, 0.4)

# Chosen on validation photos of Fashion-MNIST; the rest are the method file's defaults.
JOINT = JointConfig(steps=4, refresh=20, remembered=50, uniform_share=0.02, check_every=STEPS // CHECKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way. times: full re-embeddings of the catalogue in one training, or solutions of a landmark map."""

    name: str
    kind: Kind
    times: int = 0
    joint: JointConfig = JOINT
    selection: Selection = field(default_factory=Selection)
    learning_rate: float = 3e-4
    noise: float = 0.0  # share of wrong labels, [0, 1)
    seeds: int = SEEDS
    steps: int = STEPS

    @property
    def has_view(self) -> bool:
        """Whether it chooses by similarity to a view of the catalogue."""
        return self.kind not in {"in batch", "uniform"}

    def policy(self, catalogue: Catalogue, cache: Tensor, seed: int) -> Policy:
        """The policy, over the stale cache (N, D)."""
        made: Callable[..., Policy]
        period = max(1, self.steps // self.times) if self.times else 0
        match self.kind:
            case "in batch":
                return InBatch()
            case "uniform":
                made = UniformTargets
            case "negative cache":
                made = partial(NegativeCache, renewed=RENEWED)
            case "landmarks":
                made = partial(Landmarks, solve=partial(ridge_map, ridge=LANDMARK_RIDGE), period=period)
            case "rotated":
                made = partial(Landmarks, solve=rotation_map, period=period)
            case "corrected":
                return CorrectedCache(catalogue, cache, self.selection, self.joint, seed=seed)
            case _:
                made = partial(CachedTargets, period=period)
        return made(catalogue, cache, self.selection, seed=seed)


def main_arms() -> Iterator[Arm]:
    """What claims name, and what shows where they stand."""
    yield Arm(name=OURS, kind="corrected")
    yield Arm(name=PLAIN, kind="corrected", joint=replace(JOINT, remembered=0))
    yield Arm(name=PERIODIC, kind="re-embedded", times=20)
    yield Arm(name=STALE, kind="stale")
    yield Arm(name="in batch", kind="in batch")
    yield Arm(name="uniform", kind="uniform")


def claimed_arms() -> Iterator[Arm]:
    """What claims name, and the stale cache."""
    yield from (arm for arm in main_arms() if arm.name in {OURS, PERIODIC, STALE})


def small_arms() -> Iterator[Arm]:
    """For a catalogue so small that its embeddings can be made anew at every step."""
    yield from (arm for arm in claimed_arms() if arm.name != STALE)
    yield Arm(name=EXHAUSTIVE, kind="re-embedded", times=STEPS, seeds=1)


def described_arms() -> Iterator[Arm]:
    """The other baselines."""
    for times in (2, 4, 10):
        yield Arm(name=f"re-embedded {times} times", kind="re-embedded", times=times)
    yield Arm(name="negative cache", kind="negative cache")
    yield Arm(name="landmarks, ridge", kind="landmarks", times=20)
    yield Arm(name="landmarks, rotation", kind="rotated", times=20)


def ablations() -> Iterator[Arm]:
    """Ours, with what the name says changed; one seed each."""
    ours = Arm(name=OURS, kind="corrected", seeds=1)
    for name, joint in {
        "remembered alone": replace(JOINT, learning_rate=1e-12, steps=1, checks=STEPS),
        "1 step": replace(JOINT, steps=1),
        "no uniform share": replace(JOINT, uniform_share=0.0),
        "logit matching 0.1": replace(JOINT, matching_weight=0.1),
    }.items():
        yield replace(ours, name=f"{OURS}, {name}", joint=joint)
    yield replace(ours, name=f"{OURS}, learning rate 0.0001", learning_rate=1e-4)
    yield replace(ours, name=FASTER, learning_rate=1e-3, seeds=SEEDS)
    yield Arm(name="in batch, learning rate 0.001", kind="in batch", learning_rate=1e-3, seeds=1)


def noisy_arms() -> Iterator[Arm]:
    """Ours, taught by labels of which some are wrong; one seed each."""
    for share in NOISES:
        name = f"{OURS}, {share:.0%} wrong labels"
        yield Arm(name=name, kind="corrected", noise=share, seeds=1)
