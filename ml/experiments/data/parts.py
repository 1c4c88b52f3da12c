"""The images of an experiment, sorted into parts that share nothing, and small choices of them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ml.data.images import ImageSet

Ids = NDArray[np.int64]
Kind = Literal["digits", "pack", "folder"]


class Described(NamedTuple):
    """What is known of an image in labels and words. categories: root first; the last is its class, named as in
    `Dataset.classes` (of a product: its category, never the product). tags: as its pack writes them, without
    those that repeat a category. text: title and description as written, or the class in words. contributor: who took
    the photo, empty where its pack does not say.
    """

    categories: tuple[str, ...]
    tags: tuple[str, ...]
    text: str
    contributor: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """Images that play one part. images.pixels: (N, C, S, S) uint8, C is 1 for digits, else 3.

    items: (N,) the item of each image, within which queries are not independent (what bootstraps resample).
    described: one for each image, or none for all. Raises ValueError when there is another number of them.
    """

    images: ImageSet
    items: Ids
    described: tuple[Described, ...] = ()

    def __post_init__(self) -> None:
        if len(self.described) not in {0, len(self.items)}:
            raise ValueError(f"{len(self.described)} images are described, of {len(self.items)}")

    def __len__(self) -> int:
        return len(self.items)

    def labels(self) -> Ids:
        """(N,) int64, -1 for a class that training does not have."""
        return self.images.labels.numpy()


@dataclass(frozen=True, slots=True)
class Dataset:
    """train, validation and test share `train.images.names`; test is for reporting only.

    unseen_*: the reserved classes of a pack, with names of their own and labelled by item. unseen_queries is
    None where no query split shows them (a shop catalogue): leave one out within unseen_gallery. tags: what every
    training photo of a class carries in its pack's `tags` column, by class name.
    """

    name: str
    kind: Kind
    train: Part
    validation: Part
    test: Part
    unseen_gallery: Part | None
    unseen_queries: Part | None
    fingerprint: str  # SHA-256 (hex) of the source files; the same at every size
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of training, "<dataset>:<class>"; labels index them."""
        return self.train.images.names

    @property
    def image_count(self) -> int:
        """Images of all parts."""
        parts = (self.train, self.validation, self.test, self.unseen_gallery, self.unseen_queries)
        return sum(len(part) for part in parts if part is not None)


def few(dataset: Dataset, per_class: int, classes: int | None = None) -> Dataset:
    """A small dataset of the same shape: at most `per_class` images of a class in each part, evenly spaced.

    classes: how many are kept (default all): those present in most parts and largest in training first, then
    by label. The same arguments always choose the same images.
    """
    if per_class < 1 or (classes is not None and classes < 1):
        raise ValueError(f"per_class is {per_class} and classes {classes}, both must be at least 1")
    seen = _chosen(dataset.train, [dataset.validation, dataset.test], per_class, classes)
    gallery, queries = dataset.unseen_gallery, dataset.unseen_queries
    unseen: list[int] = []
    if gallery is not None:
        unseen = _chosen(gallery, [queries] if queries is not None else [], per_class, classes)
    return replace(
        dataset,
        train=_fewer(dataset.train, seen, per_class),
        validation=_fewer(dataset.validation, seen, per_class),
        test=_fewer(dataset.test, seen, per_class),
        unseen_gallery=None if gallery is None else _fewer(gallery, unseen, per_class),
        unseen_queries=None if queries is None else _fewer(queries, unseen, per_class),
        fingerprint=hashlib.sha256(f"{dataset.fingerprint} few {per_class} {classes}".encode()).hexdigest(),
    )


def evenly(rows: Ids, count: int | None) -> Ids:
    """At most `count` of `rows`, evenly spaced and in order; None keeps all."""
    kept = len(rows) if count is None else min(count, len(rows))
    return rows[np.arange(kept) * len(rows) // max(1, kept)]


def _chosen(first: Part, others: Sequence[Part], per_class: int, classes: int | None) -> list[int]:
    """Labels to keep, ascending."""
    count = len(first.images.names)
    sizes = [np.bincount(part.labels()[part.labels() >= 0], minlength=count) for part in (first, *others)]
    present = np.sum([found > 0 for found in sizes], axis=0)
    order = np.lexsort((np.arange(count), -np.minimum(sizes[0], per_class), -present))
    return sorted(order[:classes].tolist())


def _fewer(part: Part, kept: list[int], per_class: int) -> Part:
    labels = part.labels()
    chosen = []
    for label in kept:
        members = np.flatnonzero(labels == label)
        chosen.append(evenly(members, per_class))
    rows = np.sort(np.concatenate(chosen))
    position = np.full(len(part.images.names), -1)
    position[kept] = np.arange(len(kept))
    names = tuple(part.images.names[label] for label in kept)
    return taken(part, rows, position[labels[rows]], names)


def taken(part: Part, rows: Ids, labels: Ids, names: tuple[str, ...]) -> Part:
    """The images at `rows`, labelled anew: labels (len(rows),) index names."""
    images = part.images
    rows_digest = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
    return Part(
        images=ImageSet(
            pixels=images.pixels[torch.from_numpy(rows)],
            labels=torch.from_numpy(labels),
            names=names,
            packs=tuple(images.packs[row] for row in rows),
            fingerprint=hashlib.sha256(f"{images.fingerprint} rows {rows_digest}".encode()).hexdigest(),
        ),
        items=part.items[rows],
        described=tuple(part.described[row] for row in rows) if part.described else (),
    )


def described_together(parts: Sequence[Part]) -> tuple[Described, ...]:
    """What is known of the images of all parts, one part after another; nothing unless all are described."""
    if any(len(part.described) < len(part) for part in parts):
        return ()
    return tuple(described for part in parts for described in part.described)
