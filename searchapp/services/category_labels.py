"""The labels that codes are learned by: an item's are its category and that category's ancestors (docs/adr/0008)."""

from collections.abc import Sequence

from ml.methods.lifelong.labels import LabelRegistry, LabelSet
from searchapp.models import PATH_SEPARATOR, Category

OWN_WEIGHT, ANCESTOR_WEIGHT = 1.0, 0.3  # as in the experiment, ml.experiments.lifelong.curriculum


def label_sets(
    known: Sequence[int], new: Sequence[int]
) -> tuple[LabelRegistry, LabelRegistry, dict[int, LabelSet]]:
    """The labels of known categories, those with the new ones behind them, and the label set of each by its id."""
    rows = list(Category.objects.values_list("pk", "slug", "path"))
    slugs, paths = {path: slug for _, slug, path in rows}, {pk: path for pk, _, path in rows}

    def weights(category: int) -> dict[str, float]:
        path = paths[category]
        above = (path.rsplit(PATH_SEPARATOR, depth)[0] for depth in range(1, path.count(PATH_SEPARATOR) + 1))
        return {slugs[path]: OWN_WEIGHT, **{f"within:{slugs[step]}": ANCESTOR_WEIGHT for step in above}}

    labels = {category: weights(category) for category in (*known, *new) if category in paths}
    before, after = LabelRegistry(), LabelRegistry()
    every: dict[str, float] = {}
    for part in (known, new):
        for category in part:
            every |= labels.get(category, {})
        before, after = after, after.extended(every)
    place = {name: position for position, name in enumerate(after.names)}
    return before, after, {pk: tuple(sorted(place[name] for name in own)) for pk, own in labels.items()}
