"""Turns a chain of classes with cached features into what each stage learns: items, label sets and texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ml.data.words import WordHasher, label_words
from ml.experiments.data import Described, Ids
from ml.experiments.lifelong.trunks import Features
from ml.methods.lifelong.labels import LabelRegistry, LabelSet
from ml.methods.lifelong.lesson import Items, Texts

COMBINATIONS = 3  # of labels that are said together, per label set
COMBINED = 3  # labels of one at most
TEXT_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScheme:
    """How much an ancestor category and a tag count beside the class itself (1.0); 0 leaves them out."""

    ancestor: float = 0.3
    tag: float = 0.1

    def weights(self, described: Described) -> dict[str, float]:
        """Label name -> weight of all that an image carries; tags are marked, for a tag may be named like a class."""
        found = dict.fromkeys(described.categories[:-1], self.ancestor)
        found |= {f"tag:{tag}": self.tag for tag in described.tags} | {described.categories[-1]: 1.0}
        return {name: weight for name, weight in found.items() if weight > 0}


@dataclass(frozen=True)
class Curriculum:
    """What the stages of a chain learn; stage 0 is the base. words: the width of hashed texts, 0 without texts."""

    features: Features
    scheme: LabelScheme
    words: int

    @cached_property
    def labels(self) -> Ids:
        """(N,) class of every image, in the order of learning."""
        return self.features.chain.images.labels()

    @cached_property
    def registries(self) -> list[LabelRegistry]:
        """The registry after each stage; each begins with the one before."""
        found, registry = [], LabelRegistry()
        for stage in range(len(self.features.chain.ends)):
            for row in self.entries(stage):
                registry = registry.extended(self._weights[row])
            found.append(registry)
        return found

    @cached_property
    def _weights(self) -> list[dict[str, float]]:
        shared: dict[Described, dict[str, float]] = {}
        return [
            shared.setdefault(one, self.scheme.weights(one)) for one in self.features.chain.images.described
        ]

    @cached_property
    def sets(self) -> list[LabelSet]:
        """Of every image, in the last registry; labels that are never learned are left out."""
        registry = self.registries[-1]
        known = set(registry.names)
        shared: dict[tuple[str, ...], LabelSet] = {}
        names = [tuple(name for name in weights if name in known) for weights in self._weights]
        for one in set(names):
            shared[one] = registry.label_set(one)
        return [shared[one] for one in names]

    def entries(self, stage: int) -> Ids:
        """Rows that become entries at this stage."""
        return self._of_stage(self.features.chain.gallery, stage)

    def entries_until(self, stage: int) -> Ids:
        """Rows that are entries after this stage, ascending."""
        rows = self.features.chain.gallery
        return rows[self.labels[rows] < self.features.chain.ends[stage]]

    def items(self, rows: Ids) -> Items:
        """Images as items, named by their row."""
        keys = [f"{row:08d}" for row in rows]
        return Items(self.features.vectors[rows], [self.sets[row] for row in rows], keys)

    def validation(self, stage: int) -> Items | None:
        """Held-out images of this stage's classes; None when there are none."""
        rows = self._of_stage(self.features.chain.validation, stage)
        return self.items(rows) if len(rows) else None

    def texts(self, rows: Ids, *, seed: int = TEXT_SEED) -> Texts | None:
        """What is said of these entries: whole texts, their sentences, names of single labels and of several."""
        if not self.words:
            return None
        described = self.features.chain.images.described
        registry = self.registries[-1]
        said: dict[tuple[str, LabelSet], None] = {}
        rng = np.random.default_rng(seed)
        for own in sorted({(self.sets[row], described[row]) for row in rows}):
            for text in _variants(own[1].text):
                said[text, own[0]] = None
            for chosen in _parts(own[0], rng):
                text = " ".join(label_words(registry.names[label]) for label in chosen)
                said[text, tuple(sorted(chosen))] = None
        hashed = WordHasher(self.words)([text for text, _ in said])
        spoken = np.flatnonzero(hashed.any(axis=1))
        sets = [labels for _, labels in said]
        return Texts(hashed[spoken], [sets[row] for row in spoken])

    def _of_stage(self, rows: Ids, stage: int) -> Ids:
        ends = (0, *self.features.chain.ends)
        own = self.labels[rows]
        return rows[(own >= ends[stage]) & (own < ends[stage + 1])]


def _variants(text: str) -> list[str]:
    """A text, and each of its sentences."""
    sentences = [part.strip() for part in text.split(". ") if part.strip()]
    return [text, *sentences] if len(sentences) > 1 else [text]


def _parts(labels: LabelSet, rng: np.random.Generator) -> Sequence[LabelSet]:
    """Each label alone, and a few drawn combinations."""
    drawn = [
        tuple(rng.permutation(np.array(labels))[: rng.integers(2, COMBINED + 1)].tolist())
        for _ in range(COMBINATIONS if len(labels) > 2 else 0)
    ]
    return [*((label,) for label in labels), *drawn]


def packed(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """(N, L) of -1 / +1 -> packed codes."""
    return np.packbits(codes > 0, axis=1)
