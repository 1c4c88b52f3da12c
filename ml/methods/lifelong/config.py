"""Every setting of the method, with the defaults the experiments chose."""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["new_only", "exemplar", "feature_gaussian", "analytic"]
MODES: tuple[Mode, ...] = ("new_only", "exemplar", "feature_gaussian", "analytic")
NEW_ONLY_RATE = 0.01  # of the learning rate: the paper's wording, new data alone, bears no more


@dataclass(frozen=True, slots=True, kw_only=True)
class LifelongConfig:
    """How a generation is learned. Numbers in brackets: what is allowed."""

    mode: Mode = "feature_gaussian"
    code_bits: int = 128  # a multiple of 8
    hidden: int = 512  # width of the image head's hidden layer
    text_hidden: int = 128
    # Losses (method file, section 6.2), each relative to the pair loss over stored and new codes together.
    pair_loss: Literal["squared", "likelihood"] = "squared"
    is_centred: bool = True  # targets are centred cosines; else the plain cosine
    own_code_weight: float = 0.1  # >= 0
    balance_weight: float = 0.01  # >= 0
    alignment_weight: float = 0.1  # of an item's two modalities, and of both with the label network; >= 0
    holds_stored_codes: bool = True  # off: the idea removed, plain fine-tuning
    has_clean_targets: bool = True  # a label set's stored codes count as its majority code
    # What stands for the old in training.
    exemplars: int | None = 20  # features kept per label set; None keeps all
    gaussians: int = 5  # per label set of at least `gaussians_from` items, else one
    gaussians_from: int = 200
    # Old samples per new one: as in the catalogue, n_old / n_new, but this at most. So an update's steps follow what
    # is new: many small increments move the heads little, and the few new items weigh more than they do there.
    replay_share: float = 12.0
    # Schedule.
    rounds: int = 6  # of `round_epochs` epochs and a code step each; >= 0
    round_epochs: int = 2
    final_epochs: int = 3  # the codes rest, the heads catch up
    batch: int = 64
    text_batch: int = 64
    max_new: int = 2_500  # new items an epoch of an update looks at
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    ema_decay: float = 0.95
    patience: int = 0  # epochs without a better validation before training stops; 0: never
    # The code step.
    starts_from_labels: bool = (
        True  # new codes begin as codewords of their label sets, else as the heads' signs
    )
    code_samples: int = 2_000
    sweeps: int = 3  # 0 leaves new codes where they started
    alpha: float = 0.1
    # The image head's last layer, solved anew after a base stage. (Mode `analytic` solves both last layers, and moves
    # nothing else.)
    refits: bool = True
    refit_items: int = 8_000  # items at most that it looks at
    ridge: float = 3.0  # > 0
    rarity_exponent: float = (
        0.5  # an item of a label set of n items counts (30 / n) ** this: 0 = all items alike
    )

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}, allowed: {', '.join(MODES)}")
        if self.code_bits < 8 or self.code_bits % 8:
            raise ValueError(f"code_bits is {self.code_bits}, it must be a positive multiple of 8")
        weights = (self.own_code_weight, self.balance_weight, self.alignment_weight, self.alpha)
        if min(weights) < 0 or self.ridge <= 0:
            raise ValueError(f"loss weights {weights} must be >= 0, ridge {self.ridge} above 0")
        counts = (
            self.hidden,
            self.text_hidden,
            self.round_epochs,
            self.batch,
            self.text_batch,
            self.gaussians,
        )
        if min(*counts, self.max_new, self.code_samples, self.refit_items) < 1:
            raise ValueError(
                f"sizes {(*counts, self.max_new, self.code_samples, self.refit_items)} must be at least 1"
            )
        if self.gaussians > self.gaussians_from:
            raise ValueError(
                f"{self.gaussians} Gaussians of label sets from {self.gaussians_from} items on: "
                "there must be an item for each"
            )
        if min(self.rounds, self.final_epochs, self.sweeps, self.patience) < 0:
            raise ValueError("rounds, final_epochs, sweeps and patience must be >= 0")
        if self.epochs < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"{self.epochs} epochs at a rate of {self.learning_rate}: nothing would be learned"
            )
        if self.exemplars is not None and self.exemplars < 1:
            raise ValueError(f"exemplars is {self.exemplars}, it must be at least 1, or None for all")
        if not self.replay_share > 0:
            raise ValueError(f"replay_share is {self.replay_share}, it must be above 0")

    @property
    def epochs(self) -> int:
        """Of one training."""
        return self.rounds * self.round_epochs + self.final_epochs
