"""What the gallery stored of a catalogue's photos, and how a candidate's queries find it, before and after training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.artifacts import Bundle
from ml.base_version.catalogue import FEWEST_VALIDATED
from ml.base_version.catalogue_photos import (
    GROUP,
    Coded,
    Division,
    encoded_rows,
    images_of,
    inputs_of,
    mean_precisions,
    outputs_of,
    rows_of,
    spread,
    validation_rows,
    without_own,
)
from ml.base_version.crossing import OWN, compatibility_summary, numbered
from ml.base_version.measure import Stages, fusion_of, similarities, stage_values
from ml.base_version.sets import EncodedSet
from ml.data.images import ImageSet
from ml.evaluation.retrieval import signs_of
from ml.evaluation.two_stage import CodedSet
from ml.onnx_encoder import OnnxEncoder
from ml.protocol import Calibration, Embeddings, PackedCodes
from ml.training.producer_calibration import Asked, producer_calibrations


@dataclass(frozen=True, slots=True)
class StoredPhotos:
    """What the gallery holds of the N photos of an ImageSet, row by row; a photo without an entry has any values."""

    packed_codes: PackedCodes  # (N, L // 8)
    embeddings: Embeddings  # (N, D) unit
    present: NDArray[np.bool_]  # (N,) there is an entry
    by_producer: NDArray[np.bool_]  # (N,) and the trunk of `producer` made it
    producer: str  # digest: whose entries the candidate's queries are calibrated for

    @property
    def coded(self) -> Coded:
        return signs_of(self.packed_codes), self.embeddings

    def encoded(self, rows: NDArray[np.int64], names: NDArray[np.object_]) -> EncodedSet:
        return EncodedSet(
            signs_of(self.packed_codes[rows]), self.embeddings[rows], names, packs=(GROUP,) * len(rows)
        )


@dataclass(frozen=True, slots=True)
class Found:
    """How validation photos are answered: mean average precision of code and embedding, each (Q,) in [0, 1]."""

    cross: NDArray[np.float64]  # by the candidate, on stored entries
    own: NDArray[np.float64]  # by the candidate, on its own

    @property
    def means(self) -> dict[str, float]:
        return {"cross": _mean(self.cross), "own": _mean(self.own)}


@dataclass(frozen=True, slots=True)
class AskedPhotos:
    """Q photos that training never sees, labelled as the others are, and what the parent made of them."""

    images: ImageSet
    coded: Coded

    @classmethod
    def of(cls, images: ImageSet, parent: Bundle) -> Self:
        """The parent encodes them now, as it does any query."""
        encoded = encoded_rows(parent.encoder(), images, torch.arange(len(images)))
        return cls(images, (encoded.signs, encoded.embeddings))


class Validation:
    """Asks photos that training never sees of what is stored and of what the encoder would store.

    Called by the loop: higher is better, and the encoder that serves both galleries best is kept.
    """

    def __init__(
        self, asked: AskedPhotos, images: ImageSet, division: Division, stored: StoredPhotos, size: int
    ) -> None:
        _, entries = validation_rows(division)
        entries = entries[torch.from_numpy(stored.present)[entries]]
        self._labels = asked.images.labels.numpy(), images.labels[entries].numpy()
        self._inputs = [
            torch.from_numpy(inputs_of(*part, size)).permute(0, 3, 1, 2)
            for part in ((asked.images, torch.arange(len(asked.images))), (images, entries))
        ]
        signs, embeddings = stored.coded
        self._entries = signs[entries], embeddings[entries]
        self.old = self._precisions(asked.coded, self._entries)
        self.last: Found | None = None

    @classmethod
    def of(cls, images: ImageSet, division: Division, stored: StoredPhotos, size: int) -> Self | None:
        """By photos of the catalogue that are set aside; None where none of them has an entry and finds others."""
        queries, entries = validation_rows(division)
        queries = queries[torch.from_numpy(stored.present)[queries]]
        if not len(queries) or not stored.present[entries.numpy()].any():
            return None
        signs, embeddings = stored.coded
        asked = AskedPhotos(images_of(images, queries), (signs[queries], embeddings[queries]))
        found = cls(asked, images, division, stored, size)
        return None if np.isnan(found.old).all() else found

    def __call__(self, encoder: nn.Module) -> float:
        queries, entries = (outputs_of(encoder, part) for part in self._inputs)
        self.last = Found(self._precisions(queries, self._entries), self._precisions(queries, entries))
        return sum(self.last.means.values()) / 2

    def _precisions(self, queries: Coded, entries: Coded) -> NDArray[np.float64]:
        return mean_precisions(queries, self._labels[0], entries, self._labels[1])


@dataclass(frozen=True, slots=True)
class Tested:
    """The same photos by the candidate and as the gallery has them. own: each query's own entry, if it has one."""

    queries: EncodedSet
    old_queries: EncodedSet
    entries: EncodedSet
    old_entries: EncodedSet
    own: NDArray[np.int64] | None
    parent: Bundle
    producer: str

    @classmethod
    def of(
        cls, encoder: OnnxEncoder, images: ImageSet, division: Division, stored: StoredPhotos, parent: Bundle
    ) -> Self:
        """Validation photos ask training photos; where they are too few, these ask each other."""
        there = torch.from_numpy(stored.by_producer)
        rows = division.training[there[division.training]]
        asking = division.validation[there[division.validation]]
        entries = encoded_rows(encoder, images, rows)
        if len(asking) >= FEWEST_VALIDATED:
            own, asking = None, spread(asking)
            queries = encoded_rows(encoder, images, asking)
        else:
            own = spread(torch.nonzero(images.labels[rows] >= 0).flatten()).numpy()
            asking, queries = rows[own], rows_of(entries, own)
        return cls(
            queries, stored.encoded(asking.numpy(), queries.names), entries,
            stored.encoded(rows.numpy(), entries.names), own, parent, stored.producer,
        )  # fmt: skip

    def calibrations(self) -> dict[str, Calibration]:
        """ "self" for the candidate's own entries, and the producer's digest for those that are there."""
        labels, count = numbered(self.queries.names, self.entries.names), len(self.queries)
        asked = Asked(
            queries=_coded(self.queries),
            labels=labels[:count],
            unseen=np.zeros(count, np.bool_),
            groups=self.queries.packs,
            own=self.own,
        )
        producers = {OWN: _coded(self.entries), self.producer: _coded(self.old_entries)}
        try:
            return producer_calibrations(asked, labels[count:], producers, is_cautious=True)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            raise ValueError(
                f"the trained encoder does not tell the categories apart well enough to be used: {error}"
            ) from error

    def summary(self, calibration: Mapping[str, Calibration]) -> dict[str, Any]:
        """Self-tests of both and the cross-test, of the same photos."""
        read = self.parent.manifest.calibration
        return compatibility_summary(
            old=self._answers(self.old_queries, self.old_entries, read.get(self.producer, read[OWN])),
            cross=self._answers(self.queries, self.old_entries, calibration[self.producer]),
            own=self._answers(self.queries, self.entries, calibration[OWN]),
        )

    def _answers(self, queries: EncodedSet, entries: EncodedSet, calibration: Calibration) -> Stages:
        return stage_values(without_own(similarities(queries, entries), self.own), fusion_of(calibration))


def _coded(encoded: EncodedSet) -> CodedSet:
    return CodedSet(encoded.signs, encoded.embeddings)


def _mean(values: NDArray[np.float64]) -> float:
    found = values[~np.isnan(values)]
    return float(found.mean()) if len(found) else math.nan
