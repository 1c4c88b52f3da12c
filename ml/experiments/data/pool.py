"""All images of a data set under one row count, from which splits by class pick theirs."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from ml.data.images import ImageSet
from ml.experiments.data.joining import numbered_through
from ml.experiments.data.parts import Dataset, Ids, Part, evenly

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """Every image of a data set, part after part; rows count through all of them."""

    parts: dict[str, slice]
    labels: Ids  # position in names, -1 for a class that is not among them
    items: Ids
    names: Names

    @classmethod
    def of(cls, dataset: Dataset, names: Names) -> "Pool":
        found = parts_of(dataset)
        position = {name: place for place, name in enumerate(names)}
        labels = []
        for part in found.values():
            own = np.array([position.get(name, -1) for name in part.images.names] + [-1], dtype=np.int64)
            labels.append(own[part.labels()])  # -1 reads the last one
        ends = np.cumsum([len(part) for part in found.values()]).tolist()
        slices = {title: slice(end - len(part), end) for (title, part), end in zip(found.items(), ends)}
        items = numbered_through([part.items for part in found.values()])
        return cls(slices, np.concatenate(labels), items, names)

    def rows(self, title: str, first: int, end: int) -> Ids:
        """Rows of a part whose labels are in [first, end), ascending; none of a part that is not there."""
        if title not in self.parts:
            return np.empty(0, np.int64)
        labels = self.labels[self.parts[title]]
        found: Ids = np.flatnonzero((labels >= first) & (labels < end)) + self.parts[title].start
        return found

    def capped(self, rows: Sequence[Ids], per_class: int | None) -> Ids:
        """All of `rows`, ascending, at most `per_class` of a label."""
        if per_class is not None and per_class < 1:
            raise ValueError(f"at most {per_class} images of a class, it must be at least 1")
        every = np.sort(np.concatenate(rows))
        labels = self.labels[every]
        chosen = [evenly(every[labels == label], per_class) for label in np.unique(labels)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))

    def part(self, dataset: Dataset, used: Ids) -> Part:
        """The images at `used`, ascending."""
        pixels, packs, described = [], [], []
        digest = hashlib.sha256(used.astype("<i8").tobytes())
        for title, part in parts_of(dataset).items():
            place = self.parts[title]
            rows = used[(used >= place.start) & (used < place.stop)] - place.start
            pixels.append(part.images.pixels[torch.from_numpy(rows)])
            packs += [part.images.packs[row] for row in rows]
            described += [part.described[row] for row in rows if part.described]
            digest.update(part.images.fingerprint.encode())
        return Part(
            images=ImageSet(
                pixels=torch.cat(pixels), labels=torch.from_numpy(self.labels[used]), names=self.names,
                packs=tuple(packs), fingerprint=digest.hexdigest(),
            ),
            items=self.items[used],
            described=tuple(described) if len(described) == len(used) else (),
        )  # fmt: skip


def parts_of(dataset: Dataset) -> dict[str, Part]:
    """The parts that are there, by title."""
    found = {field.name: getattr(dataset, field.name) for field in fields(dataset)}
    return {title: part for title, part in found.items() if isinstance(part, Part)}


def one_in(rows: Ids, labels: Ids, share: int) -> tuple[Ids, Ids]:
    """Of the rows of each label every `share`-th one, ascending by label, and all the rest."""
    asking = [rows[labels[rows] == label][share - 1 :: share] for label in np.unique(labels[rows])]
    chosen = np.concatenate([np.empty(0, np.int64), *asking])
    return chosen, np.setdiff1d(rows, chosen)


def check_there(names: Sequence[str], dataset: Dataset) -> None:
    """Raises ValueError naming those of the classes that training does not have."""
    missing = [name for name in names if name not in dataset.classes]
    if missing:
        raise ValueError(
            f"{dataset.name} has no class {', '.join(missing)}; it has {', '.join(dataset.classes[:10])} ..."
        )
