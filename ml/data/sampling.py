"""Draws training batches: P classes times K images, classes by a power of their size."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.data.augmentation import AugmentationConfig, augment
from ml.data.images import ImageSet


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch: images (B, 3, S, S) float in [0, 1], labels (B,) int64, -1 where there is none."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How batches are drawn and how large the pictures are at each stage of training."""

    classes_per_batch: int = 32  # P >= 2
    images_per_class: int = 4  # K >= 2, so that every anchor has a positive
    # Class i is drawn with weight n_i ** exponent: 0 = all alike, 1 = by frequency; [0, 1].
    frequency_exponent: float = 0.7
    # (until this share of the epochs, pixels a side), shares rising to 1.0
    sizes: tuple[tuple[float, int], ...] = ((0.75, 64), (0.9, 80), (1.0, 96))
    # Packs whose pictures are mirrored half of the time; a mirrored corridor is another corridor.
    mirrored_packs: tuple[str, ...] = ("grocery", "clothing")

    def __post_init__(self) -> None:
        if self.classes_per_batch < 2 or self.images_per_class < 2:
            raise ValueError(
                f"classes_per_batch is {self.classes_per_batch} and images_per_class "
                f"{self.images_per_class}, both must be >= 2"
            )
        if not 0 <= self.frequency_exponent <= 1:
            raise ValueError(f"frequency_exponent is {self.frequency_exponent}, allowed 0 to 1")
        shares = [share for share, _ in self.sizes]
        if not shares or shares != sorted(set(shares)) or shares[0] <= 0 or shares[-1] != 1.0:
            raise ValueError(f"sizes are {self.sizes}: shares must rise and end at 1.0")


class BatchSource:
    """Batches of one ImageSet. An epoch depends on (seed, epoch) alone: a resumed run sees the same ones.

    Where some images have no label, each batch holds as many of those again as it has labelled ones.
    """

    def __init__(
        self,
        images: ImageSet,
        sampling: SamplingConfig,
        augmentation: AugmentationConfig,
        *,
        seed: int,
        epochs: int,
    ) -> None:
        self.sampling, self.augmentation, self.seed, self.epochs = sampling, augmentation, seed, epochs
        self.labels = images.labels
        self.members = [torch.nonzero(images.labels == label).flatten() for label in range(len(images.names))]
        empty = [images.names[label] for label, rows in enumerate(self.members) if len(rows) == 0]
        if empty or len(self.members) < sampling.classes_per_batch:
            raise ValueError(
                f"{len(self.members)} classes ({len(empty)} empty: {empty[:3]}), "
                f"a batch needs {sampling.classes_per_batch} that are not empty"
            )
        self.unlabelled = torch.nonzero(images.labels < 0).flatten()
        counts = torch.tensor([len(rows) for rows in self.members], dtype=torch.float64)
        self.weights = counts.pow(sampling.frequency_exponent)
        self.flip = torch.tensor([0.5 if pack in sampling.mirrored_packs else 0.0 for pack in images.packs])
        self.pixels = images.pixels
        self._resized: dict[int, Tensor] = {}

    @property
    def steps_per_epoch(self) -> int:
        """As many batches as would show every image once if none were shown twice."""
        of_batch = self.sampling.classes_per_batch * self.sampling.images_per_class
        return max(1, len(self.labels) // (of_batch * (2 if len(self.unlabelled) else 1)))

    def size_at(self, epoch: int) -> int:
        """Pixels a side in epoch `epoch`, counted from 0."""
        done = (epoch + 1) / self.epochs
        return next(size for share, size in self.sampling.sizes if done <= share + 1e-9)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of epoch `epoch`, counted from 0."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        size = self.size_at(epoch)
        pixels = self._source_pixels(size)
        for _ in range(self.steps_per_epoch):
            rows = self.draw(generator)
            yield Batch(
                images=augment(pixels[rows], size, self.augmentation, self.flip[rows], generator),
                labels=self.labels[rows],
            )

    def draw(self, generator: torch.Generator) -> Tensor:
        """(P * K,) image rows: P distinct classes, K images each, repeated when a class has fewer than K.

        Twice as many where there are images without label: those follow, drawn with replacement.
        """
        chosen = torch.multinomial(self.weights, self.sampling.classes_per_batch, generator=generator)
        wanted = self.sampling.images_per_class
        drawn = []
        for label in chosen.tolist():
            members = self.members[label]
            order = torch.randperm(len(members), generator=generator)
            drawn.append(members[order.repeat(-(-wanted // len(members)))[:wanted]])
        if len(self.unlabelled):
            count = self.sampling.classes_per_batch * wanted
            drawn.append(self.unlabelled[torch.randint(len(self.unlabelled), (count,), generator=generator)])
        return torch.cat(drawn)

    def _source_pixels(self, size: int) -> Tensor:
        """The stored pixels, shrunk first when they are far larger than the crop: bilinear would alias."""
        stored = self.pixels.shape[-1]
        target = round(size * 7 / 6)
        if stored <= target * 1.2:
            return self.pixels
        if target not in self._resized:
            self._resized = {
                target: torch.cat(
                    [
                        F.interpolate(part.float(), (target, target), mode="bilinear", antialias=True)
                        .round()
                        .byte()
                        for part in torch.split(self.pixels, 256)
                    ]
                )
            }
        return self._resized[target]
