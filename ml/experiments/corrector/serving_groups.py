"""Which queries belong together, so that a group that an upgrade harms does not hide behind the mean."""

import numpy as np
from numpy.typing import NDArray

from ml.experiments.corrector.serving_gallery import Values
from ml.experiments.data import ClassSplit, RetrievalTask

Names = NDArray[np.str_]
FEWEST = 20  # queries of a group that is judged
SIZES = ("small", "medium", "large")


def groups_of(split: ClassSplit, task: RetrievalTask) -> dict[str, Names]:
    """Grouping -> (Q,) the group of each query, "" for none. Groupings that tell nothing apart are left out.

    category_size: thirds of the queried classes by their entries. vertical: the pack, or within one pack the topmost
    category. contributor: who took the photo, where a pack says so.
    """
    found = {
        "category_size": _by_size(task),
        "vertical": _verticals(split, task),
        "contributor": _contributors(split, task),
    }
    return {title: names for title, names in found.items() if len(set(names) - {""}) > 1}


def worst_group(names: Names, gains: Values, *, fewest: int = FEWEST) -> tuple[str, float] | None:
    """(Q,) groups and gains, NaN for none -> the group of `fewest` queries or more that gains least, and its mean."""
    means = judged_groups(names, gains, fewest=fewest)
    return min(means.items(), key=lambda group: group[1]) if means else None


def judged_groups(names: Names, gains: Values, *, fewest: int = FEWEST) -> dict[str, float]:
    """Mean gain of every group that is large enough."""
    return {
        str(name): float(gains[own].mean())
        for name in sorted(set(names) - {""})
        if (own := (names == name) & ~np.isnan(gains)).sum() >= fewest
    }


def _by_size(task: RetrievalTask) -> Names:
    counts = np.bincount(task.gallery_labels)
    asked = np.unique(task.query_labels)
    asked = asked[(asked < len(counts)) & (counts[np.minimum(asked, len(counts) - 1)] > 0)]
    order = asked[np.argsort(counts[asked], kind="stable")]
    named = np.full(max(len(counts), int(task.query_labels.max()) + 1), "", dtype="<U8")
    for name, labels in zip(SIZES, np.array_split(order, len(SIZES))):
        named[labels] = name
    return named[task.query_labels]


def _verticals(split: ClassSplit, task: RetrievalTask) -> Names:
    packs = split.images.images.packs
    if len({packs[row] for row in task.queries}) > 1 or not split.images.described:
        return np.array([packs[row] for row in task.queries])
    return np.array([split.images.described[row].categories[0] for row in task.queries])


def _contributors(split: ClassSplit, task: RetrievalTask) -> Names:
    described = split.images.described
    return np.array([described[row].contributor if described else "" for row in task.queries])
