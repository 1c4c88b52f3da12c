"""Which photo of a catalogue plays which part in a training, and what an encoder makes of some of them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ml.base_version.sets import EncodedSet
from ml.data.images import ImageSet
from ml.data.preprocessing import to_input
from ml.evaluation.retrieval import retrieval_values, signs_of
from ml.onnx_encoder import OnnxEncoder
from ml.training.calibration import Similarities

Coded = tuple[NDArray[np.float32], NDArray[np.float32]]  # signs (N, L) of -1 / +1 and unit embeddings (N, D)

GROUP = "catalogue"  # the one group of open-set queries
ONE_IN, LEAST_OF_CLASS = 8, 8  # validation: one photo in eight of a class with eight or more
MAX_COMPARED = 400  # validation photos that calibrate; the rest would only take time
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Division:
    """Which photo plays which part. Rows are positions in the ImageSet."""

    training: Tensor  # (T,) ascending
    validation: Tensor  # (V,) ascending; never trained on
    labels: Tensor  # (N,) those that training may see; -1 where a label is held back


def divide(labels: Tensor, *, label_fraction: float = 1.0, seed: int = 0) -> Division:
    """Set photos aside for validation, and hold back labels of the others.

    labels (N,) int64, -1 = without. One photo in eight of each class with eight or more is for validation;
    of the rest of each class `label_fraction` keep their label, rounded to the nearest, at least one. The
    same seed chooses the same. Raises ValueError for a fraction outside (0, 1].
    """
    if not 0 < label_fraction <= 1:
        raise ValueError(f"label_fraction is {label_fraction}, allowed: above 0, up to 1")
    kept = torch.full_like(labels, -1)
    is_validation = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels[labels >= 0]).tolist():
        members = torch.nonzero(labels == label).flatten()
        order = torch.randperm(
            len(members), generator=torch.Generator().manual_seed(seed * 1_000_003 + label)
        )
        held = len(members) // ONE_IN if len(members) >= LEAST_OF_CLASS else 0
        is_validation[members[order[:held]]] = True
        rest = members[order[held:]]
        kept[rest[: max(1, round(label_fraction * len(rest)))]] = label
    return Division(
        training=torch.nonzero(~is_validation).flatten(),
        validation=torch.nonzero(is_validation).flatten(),
        labels=kept,
    )


def spread(rows: Tensor, *, times: int = 1) -> Tensor:
    """At most `times` MAX_COMPARED of the rows, evenly spread."""
    most = times * MAX_COMPARED
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).long()]


def training_part(images: ImageSet, division: Division) -> ImageSet:
    """The training part, with the labels it may show."""
    return replace(images_of(images, division.training), labels=division.labels[division.training])


def images_of(images: ImageSet, rows: Tensor) -> ImageSet:
    """Some of them."""
    packs = tuple(images.packs[row] for row in rows.tolist())
    return replace(images, pixels=images.pixels[rows], labels=images.labels[rows], packs=packs)


def inputs_of(images: ImageSet, rows: Tensor, size: int) -> NDArray[np.uint8]:
    """(B, size, size, 3): the stored pixels brought to the input size, as training sees them at the end."""
    stored = images.pixels[rows].permute(0, 2, 3, 1).contiguous().numpy()
    return np.stack([to_input(Image.fromarray(one), size) for one in stored])


def encoded_rows(encoder: OnnxEncoder, images: ImageSet, rows: Tensor) -> EncodedSet:
    """What a serving encoder makes of these photos, named by their labels."""
    parts = [
        encoder.encode(inputs_of(images, part, encoder.input_size)) for part in torch.split(rows, _CHUNK)
    ]
    names = [images.names[label] if label >= 0 else None for label in images.labels[rows].tolist()]
    return EncodedSet(
        signs=signs_of(np.concatenate([part.packed_codes for part in parts])),
        embeddings=np.concatenate([part.embeddings for part in parts]),
        names=np.array(names, dtype=object),
        packs=(GROUP,) * len(rows),
    )


def rows_of(encoded: EncodedSet, rows: NDArray[np.int64]) -> EncodedSet:
    """Some of them."""
    return EncodedSet(
        signs=encoded.signs[rows],
        embeddings=encoded.embeddings[rows],
        names=encoded.names[rows],
        packs=encoded.packs[: len(rows)],
    )


def validation_rows(division: Division) -> tuple[Tensor, Tensor]:
    """Queries and entries that choose the epoch: validation photos, and training photos whose label training sees.

    Both evenly spread over the catalogue, whose photos stand in the order they came.
    """
    shown = division.training[division.labels[division.training] >= 0]
    return spread(division.validation), spread(shown, times=4)


@torch.no_grad()
def outputs_of(encoder: nn.Module, pixels: Tensor) -> Coded:
    """(B, 3, S, S) uint8 -> what an encoder in training makes of them, without augmentation."""
    found = [encoder(part.float() / 255.0) for part in torch.split(pixels, _CHUNK)]
    logits, embeddings = (torch.cat([one[head] for one in found]).numpy() for head in (0, 1))
    return np.where(logits >= 0, np.float32(1), np.float32(-1)), embeddings


def mean_precisions(
    queries: Coded, query_labels: NDArray[np.int64], entries: Coded, entry_labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(Q,) the mean of the average precisions by code and by embedding; NaN where nothing is relevant."""
    found = []
    for asked, stored in zip(queries, entries, strict=True):
        values = retrieval_values(asked, query_labels, stored, entry_labels).map
        assert values is not None
        found.append(values)
    return np.asarray(np.mean(found, axis=0), np.float64)


def without_own(pairs: Similarities, own: NDArray[np.int64] | None) -> Similarities:
    """Query i as if entry own[i], which is its own photo, were not there."""
    if own is None:
        return pairs
    at = (np.arange(len(own)), own)
    pairs.code[at] = pairs.cosine[at] = -1
    pairs.relevant[at] = False
    return pairs
