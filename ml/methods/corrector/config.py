"""Every setting of the method, with the defaults of the method file."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How a map is fitted to pairs of a stale and a fresh embedding."""

    hidden: int | None = None  # m, width of the residual branch, >= 1; None: 2 D
    # Tried in this order, each in units of the mean squared entry of the stale vectors times their number; > 0.
    ridges: tuple[float, ...] = (1e-7, 1e-5, 1e-3, 1e-2, 0.1, 1.0, 10.0)
    steps: int = 500  # of Adam on the whole map, after the ridge; 0: the affine map at most
    batch: int = 256  # >= 1
    learning_rate: float = 1e-3  # > 0
    weight_decay: float = 1e-4  # decoupled, >= 0: pulls towards the identity
    check_every: int = 50  # steps from one look at the probe to the next, >= 1; the best seen is kept
    helps_below: float = 0.9  # of the identity's probe error: a map above it is not used, (0, 1]

    def __post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(
                f"hidden is {self.hidden}, it must be at least 1, or None for twice the dimension"
            )
        if not self.ridges or min(self.ridges) <= 0:
            raise ValueError(f"ridges are {self.ridges}, expected at least one, all above 0")
        if self.steps < 0 or min(self.batch, self.check_every) < 1:
            raise ValueError(
                f"steps is {self.steps} (>= 0), batch {self.batch} and check_every {self.check_every} (>= 1)"
            )
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"learning_rate is {self.learning_rate} (> 0), weight_decay {self.weight_decay} (>= 0)"
            )
        if not 0 < self.helps_below <= 1:
            raise ValueError(f"helps_below is {self.helps_below}, allowed above 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which targets of the catalogue a query is trained against."""

    count: int = 8  # k, targets per query, >= 0
    sampling: Literal["top", "gumbel"] = "top"  # the k highest, or k drawn without replacement
    inverse_temperature: float = 20.0  # beta of what is drawn from, >= 0; 0 draws uniformly
    # Cosine above which an item of another label is taken for one that was not marked as the query's.
    ceiling: float = float("inf")
    chunk: int = 65_536  # catalogue columns scored at a time, >= 1

    def __post_init__(self) -> None:
        if self.sampling not in ("top", "gumbel"):
            raise ValueError(f"sampling is {self.sampling!r}, allowed: top, gumbel")
        if self.count < 0 or self.chunk < 1 or self.inverse_temperature < 0:
            raise ValueError(
                f"count is {self.count} (>= 0), chunk {self.chunk} (>= 1), "
                f"inverse_temperature {self.inverse_temperature} (>= 0)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class HardNegatives:
    """How training asks the whole catalogue for hard negatives beside its own losses.

    No recipe does so by default: at equal cost plain training reached more (docs/results.md, hard negatives in the
    product's trainer).
    """

    weight: float = 0.5  # of the truncated softmax beside the other losses, > 0
    queries: int = 16  # images of a batch that ask, evenly spaced among those with a label, >= 1
    count: int = 1  # k, negatives chosen for each, >= 1
    from_epoch: int = 2  # the cache is made as it begins; before, the encoder moves too fast for any; >= 0
    refresh: int = 100  # as JointConfig, like the next two
    uniform_share: float = 0.1
    hidden: int | None = None

    def __post_init__(self) -> None:
        if self.weight <= 0 or min(self.queries, self.count) < 1 or self.from_epoch < 0:
            raise ValueError(
                f"weight is {self.weight} (> 0), queries {self.queries} and count {self.count} (both >= 1), "
                f"from_epoch {self.from_epoch} (>= 0)"
            )
        self.joint()

    def joint(self) -> "JointConfig":
        """How the corrector learns. Raises ValueError on what that does not allow."""
        return JointConfig(hidden=self.hidden, refresh=self.refresh, uniform_share=self.uniform_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class JointConfig:
    """How the corrector learns while the encoder does."""

    hidden: int | None = None  # as FitConfig
    learning_rate: float = 1e-3  # of the corrector's own Adam, > 0
    weight_decay: float = 1e-4  # >= 0
    steps: int = 1  # c, of the corrector per step of the encoder, >= 1
    refresh: int = 100  # r, steps from one correction of the whole cache to the next, >= 1
    # Steps for which what the loss encoded stands in the view as it was encoded, >= 0; ours, and free.
    remembered: int = 0
    matching_weight: float = 0.0  # mu, of the logit-matching term beside the squared distance, >= 0
    uniform_share: float = (
        0.2  # rho_u, uniformly drawn targets per selected one, >= 0; each is encoded for this
    )
    probe: int = 200  # items of the permanent probe, encoded anew at each check; >= 1
    check_every: int = 200  # steps from one check to the next, >= 1
    checks: int = 3  # in a row without help before the map is given up, >= 1
    helps_below: float = 0.9  # as FitConfig

    def __post_init__(self) -> None:
        counts = {
            name: getattr(self, name) for name in ("steps", "refresh", "probe", "check_every", "checks")
        }
        if min(counts.values()) < 1 or (self.hidden is not None and self.hidden < 1):
            raise ValueError(f"{counts} and hidden {self.hidden} must be at least 1")
        least = {
            name: getattr(self, name)
            for name in ("weight_decay", "uniform_share", "remembered", "matching_weight")
        }
        if self.learning_rate <= 0 or min(least.values()) < 0:
            raise ValueError(f"learning_rate is {self.learning_rate} (> 0) and {least} (all >= 0)")
        if not 0 < self.helps_below <= 1:
            raise ValueError(f"helps_below is {self.helps_below}, allowed above 0 to 1")
