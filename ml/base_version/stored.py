"""From the codes and embeddings that an older version stored to what a new encoder is held to."""

import numpy as np
import torch
from numpy.typing import NDArray

from ml.base_version.recipe import Stored
from ml.evaluation.retrieval import signs_of
from ml.methods.compatible.old_space import OldSpace, StoredEntries
from ml.methods.compatible.training import HeldCodes
from ml.methods.lifelong.labels import Centring, LabelRegistry
from ml.methods.lifelong.statistics import CodeStatistics, label_totals
from ml.methods.lifelong.targets import stored_pairs
from ml.protocol import Embeddings, PackedCodes


def stored_of(
    packed_codes: PackedCodes, embeddings: Embeddings, labels: NDArray[np.int64], names: tuple[str, ...]
) -> Stored:
    """(n, L // 8) codes and (n, D) embeddings that the older version gave n images, not augmented; labels (n,) index
    `names`, the classes of the new training; -1 is left out. A class without an image holds to nothing of its own.

    Codes count as their class's majority code and are held as in a lifelong increment: one label per class, centred.
    Raises ValueError on other shapes, on labels out of range and when fewer than two classes have an image.
    """
    _check(packed_codes, embeddings, labels, names)
    kept = labels >= 0
    classes = [(label,) for label in range(len(names))]
    sets = [classes[label] for label in labels[kept].tolist()]
    statistics = CodeStatistics.of(sets, signs_of(packed_codes[kept]).astype(np.int8)).cleaned()
    registry = LabelRegistry(names, (1.0,) * len(names))
    totals = label_totals(statistics, registry)
    centring = Centring.of(totals.label_total, totals.items)
    words = torch.zeros(len(names), packed_codes.shape[1] * 8)
    for (label,), word in statistics.codewords().items():
        words[label] = torch.from_numpy(word)
    return Stored(
        space=OldSpace.of(torch.from_numpy(embeddings), torch.from_numpy(labels), len(names)),
        codes=HeldCodes(pairs=stored_pairs(totals, registry, classes, centring), words=words),
        entries=StoredEntries(torch.from_numpy(embeddings), torch.from_numpy(labels)),
    )


def _check(
    packed_codes: PackedCodes, embeddings: Embeddings, labels: NDArray[np.int64], names: tuple[str, ...]
) -> None:
    if not len(packed_codes) == len(embeddings) == len(labels):
        raise ValueError(
            f"{len(packed_codes)} codes, {len(embeddings)} embeddings, {len(labels)} labels: one of each per image"
        )
    present = np.unique(labels[labels >= 0])
    if len(present) < 2:
        raise ValueError(f"the older version stored images of {len(present)} classes, at least 2 are needed")
    if present[-1] >= len(names):
        raise ValueError(f"a label is {present[-1]}, allowed: -1 to {len(names) - 1}")
