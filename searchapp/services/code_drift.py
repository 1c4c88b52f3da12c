"""How far stored codes are from what their labels ask of them today: categories that moved, codes that crowd."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal, NamedTuple
from uuid import UUID

import numpy as np
from django.db.models import Count, Q
from numpy.typing import NDArray

from ml.methods.lifelong.drift import Crowding, LabelDrift, crowding, label_drift
from ml.methods.lifelong.labels import Centring, similarity
from searchapp.models import CountedEntry, ModelVersion
from searchapp.services.category_labels import label_sets
from searchapp.services.code_statistics import counted_items, statistics_of

MOST_CATEGORIES = 1_000  # the largest, of which every pair is compared
_CHUNK = 10_000

Sums = NDArray[np.int64]


class _Word(NamedTuple):
    """Whose codeword: of the codes first counted under a category, or of those counted under it now."""

    kind: Literal["made", "has"]
    category: int


class _Group(NamedTuple):
    """So many entries were first counted under one category, None when that is gone, and have this one now."""

    made_as: int | None
    now: int
    entries: int

    @property
    def is_moved(self) -> bool:
        return self.made_as != self.now

    @property
    def made(self) -> _Word:
        return _Word("has", self.now) if self.made_as is None else _Word("made", self.made_as)


def labels_moved(lineage: UUID) -> LabelDrift | None:
    """Counted entries of a lineage that have another category than the one they were first counted under.

    None when nothing is counted yet. A category's codeword is the majority of the codes first counted under it; where
    there are none, or that category is gone, of those that are counted under the present one.
    """
    counts = CountedEntry.objects.filter(lineage=lineage).order_by().values_list("made_as", "category")
    groups = [_Group(*row) for row in counts.annotate(entries=Count("pk"))]
    if not groups:
        return None
    moved = [group for group in groups if group.is_moved]
    entries = sum(group.entries for group in groups)
    if not moved:
        return LabelDrift(entries, 0, 0.0)
    sums = _sums(
        lineage, {group.now for group in moved} | {group.made_as for group in moved if group.made_as}
    )
    words = sorted(sums)
    place = {word: position for position, word in enumerate(words)}
    made = [place[group.made] for group in moved]
    now = [place.get(_Word("made", group.now), place[_Word("has", group.now)]) for group in moved]
    counted = [group.entries for group in moved]
    still = entries - sum(
        counted
    )  # codes that are what they were made for: which codeword is the same to them
    return label_drift(
        np.array([*made, 0], np.int64),
        np.array([*now, 0], np.int64),
        np.array([*counted, still], np.int64),
        np.stack([np.where(sums[word] >= 0, 1, -1) for word in words]).astype(np.int8),
    )


def _sums(lineage: UUID, categories: set[int]) -> dict[_Word, Sums]:
    """Sums (L,) of the codes first counted under each of the categories, and of those counted under it now."""
    touched = Q(made_as__in=categories) | Q(category__in=categories)
    rows = CountedEntry.objects.filter(touched, lineage=lineage).order_by()
    fields = rows.values_list("made_as", "category", "entry__code").iterator(_CHUNK)
    found: dict[_Word, Sums] = {}
    for part in _parts(fields):
        packed = np.frombuffer(b"".join(bytes(code) for _, _, code in part), np.uint8).reshape(len(part), -1)
        signs = 2 * np.unpackbits(packed, axis=1).astype(np.int64) - 1
        for kind, column in (("made", 0), ("has", 1)):
            owners = np.array([row[column] or 0 for row in part], np.int64)
            for category in set(owners.tolist()) & categories:
                word = _Word(kind, category)  # type: ignore[arg-type]
                found[word] = found.get(word, 0) + signs[owners == category].sum(axis=0)
    return found


def _parts(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while part := list(islice(rows, _CHUNK)):
        yield part


class Space(NamedTuple):
    crowding: Crowding
    categories: int  # compared


def codes_crowded(version: ModelVersion) -> Space | None:
    """How near the codewords of counted categories stand; None when fewer than two have codes."""
    counted = counted_items(version.lineage)
    _, registry, sets_of = label_sets(sorted(counted), [])
    statistics = statistics_of(version.lineage, sets_of, version.code_bits)
    items = statistics.items_of_sets()
    sets = sorted(sorted(items, key=lambda labels: (-items[labels], labels))[:MOST_CATEGORIES])
    if len(sets) < 2:
        return None
    words, rows = statistics.codewords(), registry.rows(sets)
    total = (rows * np.array([[items[labels]] for labels in sets])).sum(axis=0)
    centring = Centring.of(total, sum(items[labels] for labels in sets))
    codewords = np.stack([words[labels] for labels in sets])
    return Space(crowding(codewords, centring(similarity(rows, rows))), len(sets))
