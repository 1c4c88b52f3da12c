"""Judges a stage: images asking images, words asking images, images asking words; each query's average precision.

Every array has one value per query of the chain, photos first, then words; NaN where a measure leaves a query out.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ml.data.words import WordHasher, label_words
from ml.evaluation.hamming import hamming_values
from ml.experiments.data import Ids
from ml.experiments.lifelong.curriculum import Curriculum, packed
from ml.experiments.lifelong.stages import Stage
from ml.methods.lifelong.heads import CrossModalHeads, outputs_of, signs_of_logits

Values = NDArray[np.float64]
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Exam:
    """The chain's queries, the same for every arm, seed and stage."""

    curriculum: Curriculum

    @cached_property
    def photos(self) -> Ids:
        """Rows of the photos that ask."""
        return self.curriculum.features.chain.queries

    @cached_property
    def words(self) -> list[tuple[str, int]]:
        """What is typed, and for which class: its name, and its text where that says more."""
        chain = self.curriculum.features.chain
        if not self.curriculum.words:
            return []
        first = {int(self.curriculum.labels[row]): row for row in chain.gallery[::-1]}
        asked = {(label_words(name), label): None for label, name in enumerate(chain.classes)}
        asked |= {
            (chain.images.described[first[label]].text, label): None for label in range(len(chain.classes))
        }
        return [one for one in asked if one[0]]

    @cached_property
    def labels(self) -> Ids:
        """(Q,) the class each query asks for."""
        own = [label for _, label in self.words]
        return np.concatenate([self.curriculum.labels[self.photos], np.array(own, np.int64)])

    @cached_property
    def items(self) -> NDArray[np.str_]:
        """(Q,) what a bootstrap resamples: the item of a photo, the class of words."""
        photos = [f"photo {item}" for item in self.curriculum.features.chain.images.items[self.photos]]
        return np.array([*photos, *(f"words {label}" for _, label in self.words)])

    @cached_property
    def is_photo(self) -> NDArray[np.bool_]:
        """(Q,)."""
        return np.arange(len(self.labels)) < len(self.photos)

    @cached_property
    def _hashed(self) -> NDArray[np.float32]:
        return WordHasher(self.curriculum.words)([text for text, _ in self.words])

    def codes(self, heads: CrossModalHeads) -> Codes:
        """(Q, c / 8) of every query."""
        found = packed(
            signs_of_logits(outputs_of(heads.image, self.curriculum.features.vectors[self.photos]))
        )
        if not self.words or heads.text is None:
            return found
        return np.concatenate([found, packed(signs_of_logits(outputs_of(heads.text, self._hashed)))])

    def asked(self, codes: Codes, stage: Stage, *, known: int, entries: int | None = None) -> Values:
        """(Q,) AP of the queries of the first `known` classes among the first `entries` entries (default: all)."""
        chosen = np.flatnonzero(self.labels < known)
        rows, stored = stage.rows[:entries], packed(stage.codes[:entries])
        values = hamming_values(codes[chosen], self.labels[chosen], stored, self.curriculum.labels[rows]).map
        return _spread(values, chosen, len(self.labels))

    def asking_words(self, codes: Codes, known: int) -> Values:
        """(Q,) AP of photos among one text per known class, coded by the text head: 1 / rank of their own."""
        texts = {
            label: row for row, (_, label) in enumerate(self.words) if label < known
        }  # the last one is whole
        rows = len(self.photos) + np.array(list(texts.values()), np.int64)
        chosen = np.flatnonzero(self.is_photo & (self.labels < known))
        own = np.array(list(texts), np.int64)
        return _spread(
            hamming_values(codes[chosen], self.labels[chosen], codes[rows], own).map, chosen, len(codes)
        )

    def by_kind(self, values: Values, name: str, *, old: int, known: int) -> dict[str, Values]:
        """`<name>_all`, `_old`, `_new`: of photos; classes below `old` are old, below `known` learned."""
        masks = {"all": self.labels < known, "old": self.labels < old}
        masks["new"] = masks["all"] & ~masks["old"]
        return {f"{name}_{kind}": np.where(mask, values, np.nan) for kind, mask in masks.items()}

    def photos_only(self, values: Values) -> Values:
        """NaN for words."""
        return np.where(self.is_photo, values, np.nan)

    def words_only(self, values: Values) -> Values:
        """NaN for photos."""
        return np.where(self.is_photo, np.nan, values)


def _spread(values: Values, chosen: Ids, count: int) -> Values:
    spread = np.full(count, np.nan)
    spread[chosen] = values
    return spread
