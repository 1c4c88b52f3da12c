"""Every setting of the method."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ml.methods.compatible.guard import Guard
from ml.methods.compatible.optimised import Spreading

Kind = Literal["none", "ndpp", "odpp"]
KINDS: tuple[Kind, ...] = ("none", "ndpp", "odpp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compatibility:
    """How a new encoder is held to an old space. Kind "none" is prototype-BCT: the prototypes as they are."""

    kind: Kind = "ndpp"
    weight: float = 1.0  # of the alignment loss beside the encoder's own, >= 0
    temperature: float = 0.1  # cosine units, > 0
    # Ours: of the loss towards the class's stored entries, moved with their prototype, beside the prototype; >= 0.
    entry_weight: float = 0.0
    entry_temperature: float = 0.1  # cosine units, > 0
    # Whether perturbed prototypes stand for other classes too, and not for the own class alone; None: for NDPP.
    has_perturbed_negatives: bool | None = None
    # NDPP: how far from old neighbours; "auto" as far as the old geometry bears (`automatic_strength`); >= 0.
    strength: float | Literal["auto"] = "auto"
    new_strength: float = 0.1  # NDPP: how far from other classes' new prototypes, >= 0
    neighbours: int | None = None  # NDPP: k, >= 1; None: from the number of classes
    spreading: Spreading = field(default_factory=Spreading)  # ODPP
    guard: Guard = field(default_factory=Guard)
    warmup_epochs: int = 1  # in which new prototypes are noise, and only old ones count; >= 0
    refresh_epochs: int | None = None  # from one perturbation to the next, >= 1; None: 1 (NDPP), 2 (ODPP)
    momentum: float = 0.9  # of new prototypes, per batch that shows the class, [0, 1)
    # A refresh that turns prototypes by more degrees than this in the mean goes half of the way.
    steady_degrees: float = 5.0
    code_weight: float = 1.0  # of the loss that holds the code head to stored codes, >= 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, allowed: {', '.join(KINDS)}")
        if isinstance(self.strength, str):
            if self.strength != "auto":
                raise ValueError(f"strength is {self.strength!r}, allowed: 'auto' or a number >= 0")
        elif self.strength < 0:
            raise ValueError(f"strength is {self.strength}, it must be >= 0, or 'auto'")
        weights = (self.weight, self.entry_weight, self.new_strength, self.code_weight)
        if min(weights) < 0 or min(self.temperature, self.entry_temperature) <= 0:
            raise ValueError(
                f"weight, entry_weight, new_strength and code_weight are {weights}, they must be >= 0; temperatures "
                f"{self.temperature} and {self.entry_temperature} above 0"
            )
        if not 0 <= self.momentum < 1 or self.steady_degrees <= 0:
            raise ValueError(
                f"momentum is {self.momentum} ([0, 1)), steady_degrees {self.steady_degrees} (> 0)"
            )
        if self.warmup_epochs < 0 or min(self.neighbours or 1, self.refresh_epochs or 1) < 1:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} (>= 0), neighbours {self.neighbours} and refresh_epochs "
                f"{self.refresh_epochs} (>= 1, or None)"
            )

    def as_values(self) -> dict[str, Any]:
        """Plain values; those of stored entries only where these count, as before there were any."""
        values = asdict(self)
        if self.entry_weight == 0:
            del values["entry_weight"], values["entry_temperature"]
        return values

    @property
    def perturbs_negatives(self) -> bool:
        """What `has_perturbed_negatives` comes to. Chosen on validation queries, for each kind."""
        chosen = self.has_perturbed_negatives
        return self.kind == "ndpp" if chosen is None else chosen

    @property
    def period(self) -> int:
        """Epochs from one refresh to the next."""
        return self.refresh_epochs or (2 if self.kind == "odpp" else 1)

    def for_stage(self, moved_before: float, *, budget: float = 30.0) -> "Compatibility":
        """The same for a later upgrade of a chain: what all stages move a class together stays within `budget` degrees.

        moved_before: degrees by which earlier stages perturbed the class they moved furthest, summed. With nothing
        left the prototypes stay as they are. Source: method file, section 6 (sequential updates).
        """
        left = min(self.guard.largest_angle, budget - moved_before)
        if left <= 0:
            return replace(self, kind="none")
        return replace(self, guard=replace(self.guard, largest_angle=left))
