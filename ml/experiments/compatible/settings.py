"""Who knew what: the generations of encoders between which a setting upgrades."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ml.experiments.corrector.serving_encoders import LARGE, SMALL, share_of_images
from ml.experiments.data import ClassSplit, Ids

Width = Literal["small", "large"]
Classes = Literal["all", "known", "rest"]
WIDTHS: Mapping[Width, tuple[int, ...]] = {"small": SMALL, "large": LARGE}
KNOWN_SHARE = 0.3  # of the base classes, drawn by seed 0
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What an encoder is and what it learned from. images: share of each class's training images, (0, 1]; those of a
    smaller share are among those of a larger one.
    """

    width: Width = "small"
    images: float = 1.0
    classes: Classes = "all"

    @property
    def title(self) -> str:
        """As rows name it."""
        return f"{self.width}, {self.images:.0%} of images, {self.classes} classes"

    def known(self, split: ClassSplit) -> Ids:
        """(n,) labels of the split's training images, -1 for what it does not learn from."""
        learned = learned_classes(split, self.classes)[split.train_labels]
        learned &= share_of_images(split.train_labels, self.images, _SEED)
        return np.where(learned, split.train_labels, -1)

    def as_values(self) -> dict[str, Any]:
        """For a run's identity."""
        return asdict(self)


def learned_classes(split: ClassSplit, classes: Classes) -> NDArray[np.bool_]:
    """(C,) whether a base class is learned."""
    count = len(split.base)
    known = np.zeros(count, np.bool_)
    known[np.random.default_rng(_SEED).permutation(count)[: round(KNOWN_SHARE * count)]] = True
    return {"all": np.ones(count, np.bool_), "known": known, "rest": ~known}[classes]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """From an old generation to a new one."""

    name: str
    old: Generation
    new: Generation


FEW_IMAGES, FEW_CLASSES = Generation(images=0.3), Generation(classes="known")
UPGRADES = (
    Upgrade("more-data", FEW_IMAGES, Generation()),
    Upgrade("more-classes", FEW_CLASSES, Generation()),
    Upgrade("new-classes", FEW_CLASSES, Generation(classes="rest")),
    Upgrade("larger-trunk", FEW_IMAGES, Generation(width="large")),
)
ALONE = ("more-classes", "larger-trunk")  # of grocery by itself
CHAIN = (Generation(images=0.1), FEW_IMAGES, Generation(), Generation(width="large"))
