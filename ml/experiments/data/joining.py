"""Makes one data set of several, so that classes of all of them are told apart at once."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ml.data.images import ImageSet
from ml.experiments.data.parts import Dataset, Ids, Part, described_together, taken


def joined_dataset(datasets: Sequence[Dataset], name: str = "union") -> Dataset:
    """Every part of every data set, part by part, in the given order.

    Class names stay; labels and items are numbered through, so those of different data sets never collide.
    A data set that shows its reserved classes to no query split (a shop catalogue) is given queries first, as
    `with_unseen_queries` says. Raises ValueError when there is nothing to join, when pictures differ in size
    or channels, and when a class is in two data sets.
    """
    if not datasets:
        raise ValueError("no data sets to join")
    shapes = {dataset.name: tuple(dataset.train.images.pixels.shape[1:]) for dataset in datasets}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"pictures differ in channels and size: {shapes}")
    datasets = [with_unseen_queries(dataset) for dataset in datasets]
    kinds = {dataset.kind for dataset in datasets}
    shown = [d for d in datasets if d.unseen_gallery is not None and d.unseen_queries is not None]
    lines = [f"{dataset.name} {dataset.fingerprint}\n" for dataset in datasets]
    return Dataset(
        name=name,
        kind=kinds.pop() if len(kinds) == 1 else "folder",
        train=_joined([dataset.train for dataset in datasets]),
        validation=_joined([dataset.validation for dataset in datasets]),
        test=_joined([dataset.test for dataset in datasets]),
        unseen_gallery=_joined([d.unseen_gallery for d in shown if d.unseen_gallery]) if shown else None,
        unseen_queries=_joined([d.unseen_queries for d in shown if d.unseen_queries]) if shown else None,
        fingerprint=hashlib.sha256("".join(lines).encode()).hexdigest(),
        tags={name: tags for dataset in datasets for name, tags in dataset.tags.items()},
    )


def with_unseen_queries(dataset: Dataset) -> Dataset:
    """The same, but where reserved classes have a gallery and no queries, every second photo of each becomes
    one, in the order of the gallery: the first, third, fifth ... stay, so each class keeps at least one.
    """
    part = dataset.unseen_gallery
    if part is None or dataset.unseen_queries is not None:
        return dataset
    labels, names = part.labels(), part.images.names
    asking = np.zeros(len(part), dtype=np.bool_)
    for label in range(len(names)):
        asking[np.flatnonzero(labels == label)[1::2]] = True
    gallery, queries = (np.flatnonzero(chosen) for chosen in (~asking, asking))
    return replace(
        dataset,
        unseen_gallery=taken(part, gallery, labels[gallery], names),
        unseen_queries=taken(part, queries, labels[queries], names),
    )


def _joined(parts: Sequence[Part]) -> Part:
    names = tuple(name for part in parts for name in part.images.names)
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"classes are in two data sets: {', '.join(twice[:5])}")
    label_starts = np.cumsum([0] + [len(part.images.names) for part in parts])
    digests = "".join(f"{part.images.fingerprint}\n" for part in parts)
    return Part(
        images=ImageSet(
            pixels=torch.cat([part.images.pixels for part in parts]),
            labels=torch.from_numpy(
                np.concatenate(
                    [
                        np.where(part.labels() < 0, -1, part.labels() + start)
                        for part, start in zip(parts, label_starts)
                    ]
                )
            ),
            names=names,
            packs=tuple(pack for part in parts for pack in part.images.packs),
            fingerprint=hashlib.sha256(digests.encode()).hexdigest(),
        ),
        items=numbered_through([part.items for part in parts]),
        described=described_together(parts),
    )


def numbered_through(items: Sequence[Ids]) -> Ids:
    """Ids of several parts one after another, moved so that no two parts share one."""
    starts = np.cumsum([0] + [int(ids.max(initial=-1)) + 1 for ids in items])
    return np.concatenate([ids + start for ids, start in zip(items, starts)])
