"""What the experiment compares: the modes of an update, what they are judged by, and what each part is worth."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ml.experiments.lifelong.curriculum import LabelScheme
from ml.methods.lifelong.config import LifelongConfig

CLAIMED_SEEDS = 10  # tier A, of the arms that claims name
DESCRIBED_SEEDS = 3
ABLATION_SEEDS = 1
WORDS = 2048  # buckets of hashed texts
RANDOM_FEATURES = 2048  # a hidden layer that is drawn and never trained: only its last layer is solved
UNTRAINED = 1e-9  # a rate that moves nothing
UNBOUNDED = 1e6  # replayed features to a new one: as many as there are

Kind = Literal["update", "retrain", "frozen"]
Store = Literal["solved", "encoded"]
STORES: dict[Store, str] = {"solved": "codes solved with labels", "encoded": "codes from the network"}

BASE = LifelongConfig(rounds=8, learning_rate=4e-3)  # first generations, and full retraining
UPDATE = LifelongConfig()
SHIPPED = "gaussians"  # the arm that claims are asked of


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One row per seed. kind: updates along the chain; trains anew on everything; or never updates, new items being
    coded by the frozen heads. base: settings of the first generation. renews: heads start anew at each update.
    """

    name: str
    config: LifelongConfig = UPDATE
    base: LifelongConfig = BASE
    kind: Kind = "update"
    is_last_only: bool = False  # trains anew at the end of the chain alone
    seeds: int = DESCRIBED_SEEDS
    renews: bool = False
    scheme: LabelScheme = field(default_factory=LabelScheme)


def main_arms(seeds: int) -> Iterator[Arm]:
    """The shipped mode and what claims measure it against."""
    yield Arm(name=SHIPPED, seeds=seeds)
    yield Arm(name="full retraining", config=BASE, kind="retrain", seeds=seeds)
    yield Arm(name="analytic", config=replace(UPDATE, mode="analytic"), seeds=seeds)


def described_arms() -> Iterator[Arm]:
    """The other modes, and rivals."""
    yield Arm(name="no update", kind="frozen")
    yield Arm(name="new only", config=replace(UPDATE, mode="new_only"))
    yield Arm(name="exemplars", config=replace(UPDATE, mode="exemplar"))
    yield Arm(name="all features kept", config=replace(UPDATE, mode="exemplar", exemplars=None))
    yield Arm(
        name="fine-tuning, not held to stored codes",
        config=replace(UPDATE, mode="new_only", holds_stored_codes=False),
    )
    yield Arm(name="DIHN's form", config=_dihn(), renews=True)
    yield Arm(
        name="analytic, random features", config=replace(UPDATE, mode="analytic", hidden=RANDOM_FEATURES),
        base=replace(
            BASE, rounds=0, final_epochs=1, learning_rate=UNTRAINED, hidden=RANDOM_FEATURES
        ),
    )  # fmt: skip


def _dihn() -> LifelongConfig:
    """Heads anew, every old feature replayed, no clean targets, DIHN's weights in our normalisation: gamma = 200 and
    mu = 50 are divided by n * c there, so next to nothing is left of them; its linear balance term is mended.
    """
    return replace(
        UPDATE, mode="exemplar", exemplars=None, replay_share=UNBOUNDED, has_clean_targets=False,
        own_code_weight=6e-4, balance_weight=1e-4, alignment_weight=0.0, starts_from_labels=False,
        rounds=BASE.rounds, learning_rate=BASE.learning_rate,
    )  # fmt: skip


def ablations() -> Iterator[Arm]:
    """Section 11 of the method file; each differs from the shipped arm in what its name says."""
    changes: dict[str, dict[str, Any]] = {
        "base without refit": {"refits": False},
        "plain cosine": {"is_centred": False},
        "likelihood": {"pair_loss": "likelihood"},
        "no own codes": {"own_code_weight": 0.0},
        "no balance": {"balance_weight": 0.0},
        "no alignment": {"alignment_weight": 0.0},
        "noisy targets": {"has_clean_targets": False},
        "replay one to one": {"replay_share": 1.0},
        "all of the old replayed": {"replay_share": UNBOUNDED},
        "five Gaussians from 20 items": {"gaussians_from": 20},
        "codes start as signs": {"starts_from_labels": False},
        "no code step": {"sweeps": 0},
        "100 samples in the code step": {"code_samples": 100},
        "all items alike": {"rarity_exponent": 0.0},
    }
    for name, change in changes.items():
        own = replace(UPDATE, **change)
        base = replace(BASE, **{key: value for key, value in change.items() if key != "replay_share"})
        yield Arm(name=f"{SHIPPED}, {name}", config=own, base=base, seeds=ABLATION_SEEDS)
    for bits in (16, 32, 64):
        yield Arm(
            name=f"{SHIPPED}, {bits} bits", config=replace(UPDATE, code_bits=bits),
            base=replace(BASE, code_bits=bits), seeds=ABLATION_SEEDS,
        )  # fmt: skip
    schemes = {
        "class alone": LabelScheme(ancestor=0.0, tag=0.0),
        "all labels alike": LabelScheme(ancestor=1.0, tag=1.0),
    }
    for name, scheme in schemes.items():
        yield Arm(name=f"{SHIPPED}, {name}", scheme=scheme, seeds=ABLATION_SEEDS)
