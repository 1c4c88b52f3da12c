"""Divides a data set by class: trained on, held out to choose settings, held out to report.

What a method makes of classes it was trained on says little of those it was not, so every task asks both kinds
at once, in one gallery. All images stand in one pool: describe it once, then pick rows.

A shop catalogue's seen classes are categories, its unseen ones products: to the query of one, entries of the
other count as wrong even where a jacket is found for a jacket. That is the same for every method.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.data.reserved import load_reserved
from ml.experiments.data.joining import with_unseen_queries
from ml.experiments.data.parts import Dataset, Ids, Part
from ml.experiments.data.pool import Names, Pool, check_there, one_in

HELD_OUT = {"fashion_mnist": ("fashion_mnist:Pullover", "fashion_mnist:Sneaker", "fashion_mnist:Bag")}
HELD_OUT_SHARE = 5  # elsewhere, without reserved classes, one class in five: two of CIFAR-10's ten
HELD_OUT_SEED = 0
ASKING = 4  # every fourth training image of a validation class is a query: val splits alone show few of them


@dataclass(frozen=True, slots=True)
class RetrievalTask:
    """Entries (N,) and queries (Q,) as rows of `ClassSplit.images`, disjoint. Equal labels are relevant.

    *_unseen: of a class that is not trained on. query_items: what a bootstrap over queries resamples.
    """

    gallery: Ids
    gallery_labels: Ids
    gallery_unseen: NDArray[np.bool_]
    queries: Ids
    query_labels: Ids
    query_unseen: NDArray[np.bool_]
    query_items: Ids


@dataclass(frozen=True, slots=True)
class ClassSplit:
    """images: every image that plays a role, once; its labels index names: base, then validation, then unseen.

    train: rows to train on, of base classes alone; their labels are 0 .. len(base) - 1. choosing: settings are
    chosen by it; gallery: training images of base and validation classes, queries: the validation images of
    both, and every fourth training image of validation classes instead of being an entry. final: reported
    only; gallery: training images of base classes and those of unseen ones, queries: the test images of both.
    without_class: test images left out, because training has none of their class.
    """

    name: str
    images: Part
    base: Names
    validation: Names
    unseen: Names
    train: Ids
    train_labels: Ids
    choosing: RetrievalTask
    final: RetrievalTask
    without_class: int
    tags: Mapping[str, Names]  # of base classes: `Dataset.tags`
    fingerprint: str  # SHA-256 (hex) of the data set's own, the classes and the caps


def class_split(
    dataset: Dataset,
    *,
    held_out: Sequence[str] | None = None,
    validation: Sequence[str] | None = None,
    train_per_class: int | None = None,
    gallery_per_class: int | None = None,
    queries_per_class: int | None = None,
) -> ClassSplit:
    """Divide `dataset`; class names are those of `dataset.classes`.

    held_out: the unseen classes of a data set without reserved ones (a pack's are its reserved ones); by
    default pullovers, sneakers and bags of Fashion-MNIST, elsewhere one class in five, drawn by seed 0.
    validation: by default the list beside the reserved classes, as far as it is here. *_per_class: at most so
    many images of a class, evenly spaced; the gallery is capped apart from training. Raises ValueError on a
    class that is not there or has two roles, and when no class is left to train on.
    """
    dataset = with_unseen_queries(dataset)
    roles = _roles(dataset, held_out, validation)
    pool = Pool.of(dataset, sum(roles, ()))
    base, known, every = np.cumsum([len(names) for names in roles]).tolist()
    train = pool.rows("train", 0, base)
    asking, staying = one_in(pool.rows("train", base, known), pool.labels, ASKING)
    reserved = dataset.unseen_gallery is not None
    unseen_gallery = pool.rows("unseen_gallery" if reserved else "train", known, every)
    unseen_queries = pool.rows("unseen_queries" if reserved else "test", known, every)
    choosing, final = (
        (pool.capped([train, entries], gallery_per_class), pool.capped(queries, queries_per_class))
        for entries, queries in (
            (staying, [pool.rows("validation", 0, known), asking]),
            (unseen_gallery, [pool.rows("test", 0, base), unseen_queries]),
        )
    )
    train = pool.capped([train], train_per_class)
    used = np.unique(np.concatenate([train, *choosing, *final]))
    caps = f"{train_per_class} {gallery_per_class} {queries_per_class}"
    return ClassSplit(
        name=dataset.name,
        images=pool.part(dataset, used),
        base=roles[0],
        validation=roles[1],
        unseen=roles[2],
        train=np.searchsorted(used, train),
        train_labels=pool.labels[train],
        choosing=_task(pool, *choosing, used=used, base=base),
        final=_task(pool, *final, used=used, base=base),
        without_class=int(np.count_nonzero(dataset.test.labels() < 0)),
        tags={name: dataset.tags.get(name, ()) for name in roles[0]},
        fingerprint=hashlib.sha256(f"{dataset.fingerprint} classes {roles} {caps}".encode()).hexdigest(),
    )


def _roles(
    dataset: Dataset, held_out: Sequence[str] | None, validation: Sequence[str] | None
) -> tuple[Names, Names, Names]:
    """Names of the base, validation and unseen classes."""
    if validation is None:
        validation = listed_validation(dataset)
    if dataset.unseen_gallery is not None:
        if held_out is not None:
            raise ValueError(f"{dataset.name} has reserved classes: held_out cannot be given too")
        unseen = dataset.unseen_gallery.images.names
    else:
        unseen = tuple(unseen_by_default(dataset) if held_out is None else held_out)
        check_there(unseen, dataset)
    check_there(validation, dataset)
    twice = set(validation) & set(unseen)
    base = tuple(name for name in dataset.classes if name not in {*validation, *unseen})
    if twice or not base:
        raise ValueError(
            f"{dataset.name}: classes both validating and unseen: {', '.join(sorted(twice)) or 'none'}; "
            f"classes left to train on: {len(base)}"
        )
    return base, tuple(validation), unseen


def listed_validation(dataset: Dataset) -> list[str]:
    """The classes that the list beside the reserved ones names, as far as they are here."""
    listed = load_reserved().validation
    known = {f"{pack}:{label}" for pack, labels in listed.items() for label in labels}
    return [name for name in dataset.classes if name in known]


def unseen_by_default(dataset: Dataset) -> list[str]:
    """What a data set without reserved classes holds out; see `class_split`."""
    if dataset.name in HELD_OUT:
        return [name for name in HELD_OUT[dataset.name] if name in dataset.classes]
    rng = np.random.default_rng(HELD_OUT_SEED)
    chosen = rng.permutation(len(dataset.classes))[: len(dataset.classes) // HELD_OUT_SHARE]
    return [dataset.classes[label] for label in np.sort(chosen)]


def _task(pool: Pool, gallery: Ids, queries: Ids, *, used: Ids, base: int) -> RetrievalTask:
    return RetrievalTask(
        gallery=np.searchsorted(used, gallery),
        gallery_labels=pool.labels[gallery],
        gallery_unseen=pool.labels[gallery] >= base,
        queries=np.searchsorted(used, queries),
        query_labels=pool.labels[queries],
        query_unseen=pool.labels[queries] >= base,
        query_items=pool.items[queries],
    )
