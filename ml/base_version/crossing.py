"""Figures of a new encoder whose queries meet what another one, its parent, has stored of the same images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from math import isnan
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml.artifacts import Bundle
from ml.base_version.measure import (
    Stages,
    figures_of,
    fusion_of,
    report,
    similarities,
    stage_values,
)
from ml.base_version.sets import EncodedParts, EncodedSet, joined
from ml.evaluation.compatibility import flips, old_shares, relative_flip_rate
from ml.evaluation.metrics import mean_of
from ml.evaluation.two_stage import CodedSet, answer_values, two_stage_scores
from ml.methods.compatible.alignment import in_old_space
from ml.protocol import Calibration
from ml.training.producer_calibration import Asked, producer_calibrations

OWN = "self"  # the producer of a version's own entries, in its manifest
Choice = Callable[[EncodedParts], EncodedSet]
Names = NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Crossing:
    """The same images by a new encoder and by `parent`."""

    new: EncodedParts
    old: EncodedParts
    parent: Bundle

    def calibrations(self) -> dict[str, Calibration]:
        """Of the new encoder's queries: "self" against its own entries, the parent's digest against the parent's.

        The first is what the version would have alone, the second treats the parent's entries alike beside it. Raises
        ValueError, naming the producer, where the similarities tell nothing apart.
        """
        narrow, own, old = self._narrow(), self.new.choosing(), self.old.choosing()
        asking, as_seen = joined(self.new.known, self.new.unknown), joined(narrow.known, narrow.unknown)
        labels = numbered(asking.names, own.names)
        place = np.arange(len(asking)) - len(self.new.known)  # among the unknown, which are entries too
        asked = Asked(
            queries=_asking(asking, as_seen),
            labels=labels[: len(asking)],
            unseen=place >= 0,
            groups=asking.packs,
            own=np.where(place >= 0, len(self.new.training) + place, -1),
        )
        ours, theirs = _entries(own, old)
        producers = {OWN: ours, self.parent.digest: theirs}
        return producer_calibrations(asked, labels[len(asking) :], producers)

    def report(self, calibration: Mapping[str, Calibration]) -> dict[str, Any]:
        """Both self-tests and the cross-test on validation and on test queries, the cross-test in full, and test
        queries on a gallery of which the new encoder has encoded every other image.
        """
        return {
            "validation": self._summary(calibration, attrgetter("known"), EncodedParts.choosing),
            "test": self._summary(calibration, attrgetter("queries"), attrgetter("gallery")),
            "parent_entries": report(self._narrow(), self.old, calibration[self.parent.digest]),
            "half_encoded_anew": self._half(calibration),
        }

    def _half(self, calibration: Mapping[str, Calibration]) -> dict[str, float]:
        """Of test queries; the share of old entries among the best ten is to come near that among the relevant."""
        ours, theirs = _entries(self.new.gallery, self.old.gallery)
        is_old = np.arange(len(ours)) % 2 == 1
        mixed = CodedSet(
            np.where(is_old[:, None], theirs.signs, ours.signs),
            np.where(is_old[:, None], theirs.embeddings, ours.embeddings),
        )
        scores = two_stage_scores(
            _asking(self.new.queries, self._narrow().queries), mixed, is_old.astype(np.int64),
            [calibration[OWN], calibration[self.parent.digest]],
        )  # fmt: skip
        relevant = self.new.queries.names[:, None] == self.new.gallery.names
        shares, answers = old_shares(scores, relevant, is_old), answer_values(scores, relevant)
        found = {"old_share_of_ten": shares.found, "expected_share": shares.expected}
        return figures_of({**found, "map": answers["map"], "recall_at_1": answers["recall_at_1"]})

    def _summary(
        self, calibration: Mapping[str, Calibration], queries: Choice, gallery: Choice
    ) -> dict[str, Any]:
        cross = calibration[self.parent.digest]
        return compatibility_summary(
            old=_answers(queries(self.old), gallery(self.old), self.parent.calibration),
            cross=_answers(queries(self._narrow()), gallery(self.old), cross),
            own=_answers(queries(self.new), gallery(self.new), calibration[OWN]),
        )

    def _narrow(self) -> EncodedParts:
        """The new encoder's as old embeddings see them: by their first coordinates, where there are more."""
        dimension = self.parent.manifest.dimension
        if self.new.queries.embeddings.shape[1] == dimension:
            return self.new
        parts = {field.name: getattr(self.new, field.name) for field in fields(self.new)}
        return EncodedParts(**{name: _narrowed(part, dimension) for name, part in parts.items()})


def compatibility_summary(*, old: Stages, cross: Stages, own: Stages) -> dict[str, Any]:
    """From the values of the same queries: old ones on the old gallery, new ones on the old and on the new gallery.

    Means per stage, in [0, 1]; flips_at_1 of the fused answer on the old gallery: shares of the queries, and `relative`
    to what independent errors would give (None where nothing could flip).
    """
    before, now = old["fused"]["recall_at_1"], cross["fused"]["recall_at_1"]
    found, relative = flips(before, now), relative_flip_rate(before, now)
    tests = {"old_self_test": old, "cross_test": cross, "self_test": own}
    return {
        "queries": len(before),
        **{name: {stage: figures_of(one) for stage, one in values.items()} for name, values in tests.items()},
        "flips_at_1": {
            "negative": round(mean_of(found.negative)[0], 4),
            "positive": round(mean_of(found.positive)[0], 4),
            "relative": None if isnan(relative) else round(relative, 4),
        },
    }


def _asking(wide: EncodedSet, narrow: EncodedSet) -> CodedSet:
    """Queries as new and as old entries see them, side by side; `_entries` are zero where they do not look."""
    return CodedSet(wide.signs, np.hstack([wide.embeddings, narrow.embeddings]))


def _entries(new: EncodedSet, old: EncodedSet) -> tuple[CodedSet, CodedSet]:
    wide, narrow = new.embeddings.shape[1], old.embeddings.shape[1]
    return (
        CodedSet(new.signs, np.pad(new.embeddings, ((0, 0), (0, narrow)))),
        CodedSet(old.signs, np.pad(old.embeddings, ((0, 0), (wide, 0)))),
    )


def numbered(queries: Names, entries: Names) -> NDArray[np.int64]:
    """Equal names by equal numbers: of all queries, then of all entries."""
    _, numbers = np.unique(np.concatenate([queries, entries]).astype(str), return_inverse=True)
    return np.asarray(numbers, np.int64)


def _answers(queries: EncodedSet, gallery: EncodedSet, calibration: Calibration) -> Stages:
    return stage_values(similarities(queries, gallery), fusion_of(calibration))


def _narrowed(part: EncodedSet, dimension: int) -> EncodedSet:
    return replace(part, embeddings=in_old_space(torch.from_numpy(part.embeddings), dimension).numpy())
