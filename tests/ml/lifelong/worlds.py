"""What the tests of lifelong codes share: label sets to count, and classes that are Gaussians in feature space."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.hamming import hamming_values
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.heads import CrossModalHeads, outputs_of, signs_of_logits
from ml.methods.lifelong.labels import LabelRegistry, LabelSet
from ml.methods.lifelong.lesson import Generation, Items, Texts
from ml.methods.lifelong.statistics import Signs
from ml.methods.lifelong.update import generation_after, learn_base

# Labels of unequal weight, and items that carry one to three of them.
REGISTRY = LabelRegistry(("bag", "shoe", "red", "blue", "nylon"), (1.0, 1.0, 0.5, 0.5, 2.0))
SETS: list[LabelSet] = [(0,), (1,), (0, 2), (0, 3, 4), (1, 3), (1, 2, 4)]


class Shard(NamedTuple):
    sets: list[LabelSet]
    codes: Signs


def random_signs(count: int, bits: int, rng: np.random.Generator) -> Signs:
    return rng.choice(np.array([-1, 1], np.int8), (count, bits))


def shard(count: int, *, bits: int = 16, seed: int = 0, sets: list[LabelSet] | None = None) -> Shard:
    """Codes without any order in them, under label sets drawn at random."""
    rng, known = np.random.default_rng(seed), sets or SETS
    return Shard([known[one] for one in rng.integers(len(known), size=count)], random_signs(count, bits, rng))


def digest(*arrays: NDArray[np.generic]) -> str:
    """SHA-256 of the arrays' bytes, one behind the other."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


WIDTH, BASE_CLASSES, CLASSES = 16, 5, 8
_MEANS = np.random.default_rng(0).normal(size=(CLASSES, WIDTH)) * 2.5
WORDS = 256  # width of hashed texts
BASE_LABELS = LabelRegistry(tuple(f"class {n}" for n in range(BASE_CLASSES)), (1.0,) * BASE_CLASSES)
LABELS = BASE_LABELS.extended({f"class {n}": 1.0 for n in range(CLASSES)})


def photos(classes: Iterable[int], per_class: int, *, seed: int, name: str = "photo") -> Items:
    """Features of classes that are well separated Gaussians, each class's number being its label."""
    rng, labels = np.random.default_rng(seed), np.repeat(np.array(list(classes), np.int64), per_class)
    features = _MEANS[labels] + rng.normal(size=(len(labels), WIDTH))
    keys = [f"{name} {row:05d}" for row in range(len(labels))]
    return Items(features.astype(np.float32), [(label,) for label in labels.tolist()], keys)


def sayings(classes: Iterable[int], per_class: int, *, seed: int) -> Texts:
    """Hashed texts: three words of the class's own and two that anything may be called."""
    rng, labels = np.random.default_rng(seed), np.repeat(np.array(list(classes), np.int64), per_class)
    hashed = np.zeros((len(labels), WORDS), np.float32)
    for row, label in zip(hashed, labels, strict=True):
        row[[*(10 * label + rng.permutation(6)[:3]), *rng.integers(100, WORDS, 2)]] = 1
    hashed /= np.linalg.norm(hashed, axis=1, keepdims=True)
    return Texts(hashed, [(label,) for label in labels.tolist()])


def settings(**changes: object) -> LifelongConfig:
    """A training of a tenth of a second; what the tests depend on is named here, whatever the defaults are."""
    tiny = LifelongConfig(
        code_bits=32, hidden=32, text_hidden=16, rounds=2, round_epochs=2, final_epochs=3, batch=64, text_batch=16,
        learning_rate=2e-2, patience=0, code_samples=2_000, max_new=2_500, exemplars=10, gaussians=2,
        gaussians_from=30, own_code_weight=0.1,
    )  # fmt: skip
    return replace(tiny, **changes)  # type: ignore[arg-type]


@cache
def first_generation(config: LifelongConfig, texts_per_class: int = 0) -> tuple[Generation, Signs]:
    """The five base classes learned, with words or without, and the codes that are stored for their items.

    Learned once and shared: that nothing changes it is what the tests of updates see to.
    """
    items = photos(range(BASE_CLASSES), 40, seed=1)
    texts = sayings(range(BASE_CLASSES), texts_per_class, seed=1) if texts_per_class else None
    lesson = learn_base(BASE_LABELS, items, texts, config, seed=0)
    stored = lesson.encoded
    stored.flags.writeable = False
    return generation_after(None, BASE_LABELS, lesson, items, texts, stored, config, seed=0), stored


def codes_of(heads: CrossModalHeads, items: Items) -> Signs:
    return signs_of_logits(outputs_of(heads.image, items.features))


def mean_average_precision(queries: Signs, asked: Items, gallery: Signs, *stored: Items) -> float:
    """Over the whole ranking of the gallery, whose rows are the items of `stored` one after another."""
    entries = np.array([labels[0] for items in stored for labels in items.sets])
    packed = (np.packbits(codes > 0, axis=1) for codes in (queries, gallery))
    wanted = np.array([labels[0] for labels in asked.sets])
    return hamming_values(next(packed), wanted, next(packed), entries).means()["map"]
