"""Divides a data set into base classes and groups of new ones, learned one after another.

New are the reserved classes, the validation classes listed beside them, and as many more as are asked for.
Reserved products of a shop catalogue are no classes: they are new items of known categories, and stand apart
together with its test photos, which show products that training does not have either. Every choice of a
setting is made on a chain without any of these.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ml.experiments.data.classes import ASKING, listed_validation, unseen_by_default
from ml.experiments.data.joining import with_unseen_queries
from ml.experiments.data.parts import Dataset, Ids, Part
from ml.experiments.data.pool import Names, Pool, check_there, one_in, parts_of

SEED = 0  # draws further new classes, and the order of all
VALIDATING = 8  # one in eight entries of a new class validates where its validation split shows too few
ENOUGH = 2  # validation images of a class
SMALLEST = 3  # images of a class that can spare one
UNSEEN = ("unseen_gallery", "unseen_queries")


@dataclass(frozen=True, slots=True)
class ClassChain:
    """Classes learned one group after another. The rows of images in each role are ascending and disjoint.

    images: every image that plays a role, once; labels index classes, -1 for held-out items. classes: in the
    order they are learned; ends[0] of them are base classes, ends[s] are known after increment s. gallery:
    entries, trained on when their class is learned. validation: queries to choose settings, stop training and
    calibrate. queries: those that are reported. held_out: photos of products of a shop catalogue, never trained
    on and never learned, asked for in words; a product is one item whichever split shows it.
    """

    name: str
    images: Part
    classes: Names
    ends: tuple[int, ...]
    gallery: Ids
    validation: Ids
    queries: Ids
    held_out: Ids
    fingerprint: str  # SHA-256 (hex) of the data set's own, the classes, their groups and the caps


@dataclass(frozen=True, slots=True)
class _Rows:
    gallery: Ids
    validation: Ids
    queries: Ids
    held_out: Ids


def class_chain(
    dataset: Dataset,
    *,
    steps: Sequence[int] | int,
    base: int | None = None,
    new: Sequence[str] | None = None,
    choosing: bool = False,
    gallery_per_class: int | None = None,
    queries_per_class: int | None = None,
) -> ClassChain:
    """Divide `dataset`; class names are those of `dataset.classes`, reserved ones those of its unseen parts.

    steps: how many groups, sizes differing by one at most, or the size of each. base: how many classes are base
    classes; further new ones are drawn by seed 0 to leave so many. new: the new classes of a data set without
    reserved ones, by default what `class_split` holds out. The order of learning is drawn by seed 0.

    Queries are the test images. Validation queries are the validation images; of new classes that show fewer
    than two, every eighth entry (at least one of three) asks instead. choosing: nothing reserved and no test
    image is in the chain; its queries and its validation are, in turns, the validation images and every fourth
    training image of new classes. *_per_class: at most so many images of a class, evenly spaced, of the
    gallery, and of validation and queries each. Raises ValueError on a class that is not there, and on sizes
    that do not add up.
    """
    dataset = with_unseen_queries(dataset)
    first, learned = _roles(dataset, base, new, with_reserved=not choosing)
    sizes = _sizes(steps, len(learned))
    order = np.random.default_rng(SEED).permutation(len(learned))
    classes = (*first, *(learned[place] for place in order))
    ends = tuple(np.cumsum([len(first), *sizes]).tolist())
    pool, held_out = _held_out(Pool.of(dataset, classes), dataset)
    rows = _choosing(pool, ends) if choosing else _reporting(pool, held_out, ends)
    kept = _Rows(
        pool.capped([rows.gallery], gallery_per_class),
        pool.capped([rows.validation], queries_per_class),
        pool.capped([rows.queries], queries_per_class),
        rows.held_out,
    )
    used = np.unique(np.concatenate([kept.gallery, kept.validation, kept.queries, kept.held_out]))
    about = f"chain {classes} {ends} {choosing} {gallery_per_class} {queries_per_class}"
    return ClassChain(
        name=dataset.name,
        images=pool.part(dataset, used),
        classes=classes,
        ends=ends,
        gallery=np.searchsorted(used, kept.gallery),
        validation=np.searchsorted(used, kept.validation),
        queries=np.searchsorted(used, kept.queries),
        held_out=np.searchsorted(used, kept.held_out),
        fingerprint=hashlib.sha256(f"{dataset.fingerprint} {about}".encode()).hexdigest(),
    )


def _roles(
    dataset: Dataset, base: int | None, new: Sequence[str] | None, *, with_reserved: bool
) -> tuple[Names, Names]:
    """Names of the base classes and of those learned later, in no order of learning yet."""
    reserved = _reserved_classes(dataset)
    if new is not None and reserved:
        raise ValueError(f"{dataset.name} has reserved classes: new ones cannot be given too")
    if new is None:
        new = [*listed_validation(dataset), *([] if reserved else unseen_by_default(dataset))]
    check_there(new, dataset)
    left = [name for name in dataset.classes if name not in set(new)]
    wanted = len(left) if base is None else base
    if not 1 <= wanted <= len(left):
        raise ValueError(f"{dataset.name}: {wanted} base classes wanted, allowed: 1 to {len(left)}")
    drawn = np.random.default_rng(SEED).permutation(len(left))[: len(left) - wanted]
    further = {left[place] for place in drawn}
    learned = (*new, *(name for name in left if name in further), *(reserved if with_reserved else ()))
    return tuple(name for name in left if name not in further), tuple(dict.fromkeys(learned))


def _reserved_classes(dataset: Dataset) -> Names:
    """Names in the unseen parts, less those of products."""
    gallery = dataset.unseen_gallery
    if gallery is None:
        return ()
    products = {gallery.images.names[label] for label in gallery.labels()[_shows_product(gallery)]}
    return tuple(name for name in gallery.images.names if name not in products)


def _shows_product(part: Part) -> NDArray[np.bool_]:
    """(N,) whether an image of an unseen part is labelled by something below its class."""
    if not part.described:
        return np.zeros(len(part), dtype=np.bool_)
    owns = [part.images.names[label] for label in part.labels()]
    return np.array([own != known.categories[-1] for own, known in zip(owns, part.described)], dtype=np.bool_)


def _sizes(steps: Sequence[int] | int, count: int) -> list[int]:
    if isinstance(steps, int):
        if not 1 <= steps <= count:
            raise ValueError(f"{steps} steps to learn {count} new classes, allowed: 1 to {count}")
        return [len(group) for group in np.array_split(np.arange(count), steps)]
    if sum(steps) != count or min(steps, default=0) < 1:
        raise ValueError(
            f"steps of {', '.join(map(str, steps)) or 'nothing'} learn {sum(steps)} classes, there are {count} "
            "new ones, and each step learns at least 1"
        )
    return list(steps)


def _held_out(pool: Pool, dataset: Dataset) -> tuple[Pool, Ids]:
    """Rows of held-out photos, and the pool with these labelled -1 and each reserved product as one item."""
    labels, items = pool.labels.copy(), pool.items.copy()
    rows, packs = [], set()
    for title, part in parts_of(dataset).items():
        if title in UNSEEN:
            shown = np.flatnonzero(_shows_product(part))
            rows.append(shown + pool.parts[title].start)
            items[rows[-1]] = pool.items.max() + 1 + part.labels()[shown]
            packs |= {part.images.packs[row] for row in shown}
    of_packs = np.flatnonzero(np.isin(dataset.test.images.packs, sorted(packs)))
    found = np.concatenate([*rows, of_packs + pool.parts["test"].start])
    labels[found] = -1
    return replace(pool, labels=labels, items=items), np.sort(found)


def _reporting(pool: Pool, held_out: Ids, ends: tuple[int, ...]) -> _Rows:
    first, every = ends[0], ends[-1]
    entries = np.concatenate([pool.rows("train", 0, every), pool.rows("unseen_gallery", 0, every)])
    validation = pool.rows("validation", 0, every)
    shown = np.bincount(pool.labels[validation], minlength=every)
    asking = [
        _spared(entries[pool.labels[entries] == label])
        for label in range(first, every)
        if shown[label] < ENOUGH
    ]
    moved = np.concatenate([np.empty(0, np.int64), *asking])
    return _Rows(
        gallery=np.setdiff1d(entries, moved),
        validation=np.concatenate([validation, moved]),
        queries=np.concatenate([pool.rows("test", 0, every), pool.rows("unseen_queries", 0, every)]),
        held_out=held_out,
    )


def _spared(rows: Ids) -> Ids:
    """Every eighth of the rows of a class; the last one of three to seven."""
    return rows[VALIDATING - 1 :: VALIDATING] if len(rows) >= VALIDATING else rows[SMALLEST - 1 :][-1:]


def _choosing(pool: Pool, ends: tuple[int, ...]) -> _Rows:
    first, every = ends[0], ends[-1]
    asking, staying = one_in(pool.rows("train", first, every), pool.labels, ASKING)
    shown = np.sort(np.concatenate([pool.rows("validation", 0, every), asking]))
    return _Rows(
        gallery=np.concatenate([pool.rows("train", 0, first), staying]),
        validation=shown[1::2],
        queries=shown[::2],
        held_out=np.empty(0, np.int64),
    )
