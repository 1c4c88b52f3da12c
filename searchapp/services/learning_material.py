"""What an increment is taught with, read from rows: the new photos, and of all learned ones numbers alone.

The label set of an item is its category and that category's ancestors. Tags are no labels: they are said of items, in
texts, and reach the code space so (docs/adr/0008).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml.base_version.increment import parent_heads
from ml.data.words import WordHasher, label_words
from ml.methods.lifelong.labels import LabelRegistry, LabelSet
from ml.methods.lifelong.lesson import Generation, Items, Texts
from ml.methods.lifelong.memory import ClassMemory, fitted_gaussians
from searchapp.exceptions import Conflict
from searchapp.models import (
    PATH_SEPARATOR,
    Category,
    CountedEntry,
    EvaluationQuery,
    Item,
    ItemImage,
    ModelVersion,
    stored_path,
)
from searchapp.services import versions
from searchapp.services.catalogue import ONE_IN_EIGHT
from searchapp.services.category_labels import label_sets
from searchapp.services.code_statistics import statistics_of
from searchapp.services.gallery_columns import in_chunks
from searchapp.services.holding_out import hold_out, is_one_in_eight
from searchapp.services.photo_features import Feature, Heard, features_ensure, is_seen

WORDS = 2048  # buckets of hashed texts, as in the experiment, ml.experiments.lifelong.arms
REMEMBERED = 200  # photos of a learned category that its Gaussians are fitted to
GAUSSIANS, GAUSSIANS_FROM = 5, 200
ITEMS_HEARD = 40  # of a category, whose texts are learned
MOST_TEXTS = 8_000
READ_AT_MOST = 10_000  # old photos whose files are opened for that, once a trunk came that never saw them
SEED = 0


@dataclass(frozen=True, slots=True)
class NewPhoto:
    """A photo of a category that is being learned. One that may be an evaluation query is never trained on."""

    image_id: int
    image_sha256: str
    path: str
    category_id: int
    is_trained: bool


@dataclass(frozen=True, slots=True)
class Material:
    """photos: in the order of their ids, those with features alone; items: those of them that are trained on."""

    categories: tuple[Category, ...]
    known: tuple[int, ...]  # categories, by id, with counted codes
    photos: tuple[NewPhoto, ...]
    features: Mapping[str, Feature]
    parent: Generation
    registry: LabelRegistry
    items: Items
    texts: Texts | None


def material_of(
    version: ModelVersion, categories: Sequence[Category], photos: Sequence[NewPhoto], *, heard: Heard
) -> Material:
    """Everything `ml.methods.lifelong.update` asks for. Raises Conflict when it would be too little.

    What the version in use made of categories that a candidate only now catches up with is no old code to it: its own
    will stand for their photos.
    """
    new = [category.pk for category in categories]
    # All that may have counted codes, not those that have at this moment: items are given other categories any time.
    others = list(Category.objects.exclude(pk__in=new).order_by("pk").values_list("pk", flat=True))
    registry_before, registry, sets = label_sets(others, new)
    statistics = statistics_of(version.lineage, sets, code_bits=version.code_bits, without=new)
    known = [pk for pk in others if sets[pk] in statistics.tallies]
    memory = _memory(version, {pk: sets[pk] for pk in known}, heard)
    # Of a category whose stored files are all lost nothing can be remembered: its codes stay, and are not replayed.
    for labels in statistics.tallies.keys() - set(memory.sets if memory else ()):
        del statistics.tallies[labels]
    features = features_ensure(version, [(photo.image_sha256, photo.path) for photo in photos], heard=heard)
    seen = tuple(photo for photo in photos if photo.image_sha256 in features)
    trained = [photo for photo in seen if photo.is_trained]
    if not trained or len(known) + len(new) < 2:
        raise Conflict(
            f"There is too little to learn from: {len(trained)} readable photos that may be trained on (held-out ones "
            f"may not) and {len(known) + len(new)} categories in all; one photo and two categories are needed."
        )
    parent = Generation(
        registry=registry_before,
        heads=parent_heads(versions.bundle_of(version)),
        statistics=statistics,
        memory=memory,
        texts=None,  # words are learned anew, last of all
    )
    items = Items(
        np.stack([features[photo.image_sha256] for photo in trained]),
        [sets[photo.category_id] for photo in trained],
        [f"{photo.image_sha256}:{photo.image_id}" for photo in trained],
    )
    texts = texts_of([*known, *new], sets)
    return Material(tuple(categories), tuple(known), seen, features, parent, registry, items, texts)


def learnable(categories: Sequence[Category]) -> list[Category]:
    """Those with a readable photo that may be trained on, once their evaluation queries are put aside."""
    hold_out([category.path for category in categories])
    trained = {photo.category_id for photo in photos_of(categories) if photo.is_trained}
    return [category for category in categories if category.pk in trained]


def photos_of(categories: Sequence[Category]) -> list[NewPhoto]:
    """All readable photos of these categories, in order of their id."""
    is_question = _questions()
    fields = ("pk", "image_sha256", "extension", "item__category_id")
    found = []
    for ids in in_chunks(category.pk for category in categories):
        rows = ItemImage.objects.filter(item__category__in=ids, failure="").values_list(*fields)
        found += [
            NewPhoto(
                pk, sha, stored_path(sha, extension), category, is_trained=not is_question(sha, category)
            )
            for pk, sha, extension, category in rows
        ]
    return sorted(found, key=lambda photo: photo.image_id)


def _questions() -> Callable[[str, int], bool]:
    """Whether a photo, by its content and category, is an evaluation query, or becomes one when its category grows."""
    held_out = set(EvaluationQuery.objects.values_list("image_sha256", flat=True))
    named = EvaluationQuery.objects.public().exclude(split=ONE_IN_EIGHT).values_list("category_id", flat=True)
    split_by_source = set(named.distinct())
    return lambda sha, category: sha in held_out or (category not in split_by_source and is_one_in_eight(sha))


def _memory(version: ModelVersion, sets: Mapping[int, LabelSet], heard: Heard) -> ClassMemory | None:
    """Gaussians of the features of counted photos, REMEMBERED of each category that has a readable one."""
    pictures = _remembered(version, set(sets))
    features = features_ensure(version, [(sha, path) for sha, path, _ in pictures], heard=heard)
    kept = [(features[sha], sets[category]) for sha, _, category in pictures if sha in features]
    if not kept:
        return None
    return fitted_gaussians(
        np.stack([feature for feature, _ in kept]),
        [labels for _, labels in kept],
        per_set=GAUSSIANS,
        from_items=GAUSSIANS_FROM,
        seed=SEED,
    )


def _remembered(version: ModelVersion, known: Collection[int]) -> list[tuple[str, str, int]]:
    """(SHA-256, stored path, category) of the first photos of each category by their SHA-256, questions left out.

    A category of nothing but those is remembered by one of them: something must stand for its codes. Photos that this
    trunk has seen come first; where they are fewer, others are added until there are as many of each category as may
    be read, so an upgrade's first increment does not read the whole catalogue again.
    """
    is_question = _questions()
    seen: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
    unseen: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
    aside: dict[int, tuple[str, str, int]] = {}
    counted = CountedEntry.objects.filter(lineage=version.lineage).order_by("image__image_sha256")
    counted = counted.annotate(is_seen=is_seen(version, "image__image_sha256"))
    fields = ("image__image_sha256", "image__extension", "category_id", "is_seen")
    for sha, extension, category, has_feature in counted.values_list(*fields).iterator():
        row = (sha, stored_path(sha, extension), category)
        if category not in known:
            continue
        if is_question(sha, category):
            aside.setdefault(category, row)
            continue
        found = (seen if has_feature else unseen)[category]
        if len(found) < REMEMBERED:
            found.append(row)
    quota = min(REMEMBERED, max(1, READ_AT_MOST // max(1, len(known))))
    chosen: list[tuple[str, str, int]] = []
    for category in sorted(seen.keys() | unseen.keys() | aside.keys()):
        own = [*seen[category], *unseen[category][: max(0, quota - len(seen[category]))]]
        chosen += sorted(own) or [aside[category]]
    return chosen


def texts_of(categories: Sequence[int], sets: Mapping[int, LabelSet]) -> Texts | None:
    """What is said of these categories: their names, and the titles, descriptions and tags of their items."""
    said = list(dict.fromkeys(_said(categories, sets)))
    if len(said) > MOST_TEXTS:
        rows = np.random.default_rng(SEED).permutation(len(said))[:MOST_TEXTS]
        said = [said[row] for row in np.sort(rows).tolist()]
    hashed = WordHasher(WORDS)([text for text, _ in said])
    spoken = np.flatnonzero(hashed.any(axis=1)).tolist()
    return Texts(hashed[spoken], [said[row][1] for row in spoken]) if spoken else None


def _said(categories: Sequence[int], sets: Mapping[int, LabelSet]) -> Iterator[tuple[str, LabelSet]]:
    paths = dict(Category.objects.values_list("pk", "path"))
    names = {pk: [label_words(name) for name in path.split(PATH_SEPARATOR)] for pk, path in paths.items()}
    for category in (pk for pk in categories if pk in names):
        yield names[category][-1], sets[category]
        yield " ".join(names[category]), sets[category]
    heard: dict[int, int] = defaultdict(int)
    wanted = frozenset(categories)
    items = Item.objects.order_by("pk").prefetch_related("tags")
    for item in items.only("pk", "title", "description", "category_id").iterator(chunk_size=1000):
        if item.category_id in wanted and heard[item.category_id] < ITEMS_HEARD:
            heard[item.category_id] += 1
            tags = [label_words(tag.name) for tag in item.tags.all()]
            name = names[item.category_id][-1]
            # Each tag alone too: it is what a shopper types (docs/results.md, "Words and codes").
            for text in (item.title, item.description, " ".join((*tags, name)), *tags):
                if text.strip():
                    yield text.strip(), sets[item.category_id]
