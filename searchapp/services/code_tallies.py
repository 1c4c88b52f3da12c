"""The rows that hold the statistics of stored codes: read, added to and taken from, in whole numbers alone.

The Gram row is locked before anything of its lineage is read, so one transaction at a time changes a lineage's
statistics, and the tallies need no locks of their own.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

import numpy as np
from django.db import transaction
from django.db.models import QuerySet
from numpy.typing import NDArray

from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.statistics import CodeStatistics, Tally
from searchapp.models import Category, CodeGram, CodeTally, CountedEntry

_WHOLE = np.dtype("<i8")
_CHUNK = 65_536
Counts = NDArray[np.int64]


class CountedCodes(NamedTuple):
    """Packed codes and the category each is counted under, row by row."""

    categories: Sequence[int]
    codes: Sequence[bytes]


NOTHING = CountedCodes((), ())


def tallies_change(lineage: UUID, *, added: CountedCodes = NOTHING, removed: CountedCodes = NOTHING) -> None:
    """Add codes to a lineage's statistics and take others out, in the caller's transaction.

    Raises ValueError, before anything is written, on codes of another length and on more codes than are counted.
    """
    if not added.codes and not removed.codes:
        return
    bits = 8 * len((*added.codes, *removed.codes)[0])
    gram = _gram_held(lineage, bits)
    changes: dict[int, Tally] = {}
    moved = np.zeros_like(gram)
    for part, sign in ((added, 1), (removed, -1)):
        sums, part_gram = _summed(part, bits)
        moved += sign * part_gram
        for category, (items, code_sum) in sums.items():
            known = changes.get(category, Tally(0, np.zeros(bits, np.int64)))
            changes[category] = Tally(known.items + sign * items, known.code_sum + sign * code_sum)
    _tallies_write(lineage, changes)
    if moved.any():
        CodeGram.objects.filter(pk=lineage).update(gram=_stored(gram + moved))


def tallies_rebuild(lineage: UUID) -> None:
    """Make a lineage's statistics anew from its counted entries as they are, in the caller's transaction."""
    list(CodeGram.objects.select_for_update().filter(pk=lineage).values_list("pk"))
    found = _counted_codes(CountedEntry.objects.filter(lineage=lineage))
    CodeTally.objects.filter(lineage=lineage).delete()
    CodeGram.objects.filter(pk=lineage).delete()
    tallies_change(lineage, added=found)


def statistics_of(
    lineage: UUID, label_sets: Mapping[int, LabelSet], code_bits: int, *, without: Collection[int] = ()
) -> CodeStatistics:
    """The stored statistics, with categories told by their label set (category id -> positions in a registry); as if
    nothing were counted under the categories `without`.

    Raises ValueError on a category with counted codes and no label set, and on statistics of another code length.
    """
    with transaction.atomic():
        gram = _gram_locked(lineage, code_bits)
        rows = CodeTally.objects.filter(lineage=lineage).exclude(category__in=without).order_by("category")
        tallies = list(rows.values_list("category", "items", "code_sum"))
        left_out = _counted_codes(CountedEntry.objects.filter(lineage=lineage, category__in=without))
    gram = gram - _summed(left_out, code_bits)[1]
    found = CodeStatistics(code_bits, gram=gram)
    for category, items, code_sum in tallies:
        labels = label_set_of(category, label_sets)
        known = found.tallies.get(labels, Tally(0, np.zeros(code_bits, np.int64)))
        found.tallies[labels] = Tally(known.items + items, known.code_sum + _whole(code_sum))
    return found


def _counted_codes(rows: QuerySet[CountedEntry]) -> CountedCodes:
    found = rows.values_list("category", "entry__code").iterator(chunk_size=10_000)
    read = [(category, bytes(code)) for category, code in found]
    return CountedCodes([category for category, _ in read], [code for _, code in read])


def label_set_of(category: int, label_sets: Mapping[int, LabelSet]) -> LabelSet:
    """Raises ValueError, naming the category, when it has none."""
    if category not in label_sets:
        path = Category.objects.filter(pk=category).values_list("path", flat=True).first()
        raise ValueError(f"codes are counted under category {path or category!r}, which has no label set")
    return label_sets[category]


def counted_items(lineage: UUID) -> dict[int, int]:
    """How many codes are counted under each category, by its id; categories without any are left out."""
    return dict(CodeTally.objects.filter(lineage=lineage).values_list("category", "items"))


def _gram_held(lineage: UUID, bits: int) -> Counts:
    """As `_gram_locked`; where nothing was ever counted there is a row of zeros to lock now."""
    zeros = _stored(np.zeros((bits, bits), np.int64))
    if not CodeGram.objects.filter(pk=lineage).exists():
        CodeGram.objects.bulk_create([CodeGram(lineage=lineage, gram=zeros)], ignore_conflicts=True)
    return _gram_locked(lineage, bits)


def _gram_locked(lineage: UUID, bits: int) -> Counts:
    """The Gram matrix (bits, bits), zeros when nothing was ever counted, locked until the transaction ends."""
    stored = CodeGram.objects.select_for_update().filter(pk=lineage).first()
    gram = np.zeros(bits * bits, np.int64) if stored is None else _whole(stored.gram)
    if gram.size != bits * bits:
        counted = round(gram.size**0.5)
        raise ValueError(f"codes of {bits} bits in a lineage whose counted codes have {counted}")
    return gram.reshape(bits, bits)


def _summed(part: CountedCodes, bits: int) -> tuple[dict[int, tuple[int, Counts]], Counts]:
    """Category -> (codes, their sum (bits,)), and the Gram matrix of them all."""
    wrong = {8 * len(code) for code in part.codes} - {bits}
    if wrong:
        raise ValueError(f"codes of {sorted(wrong)} bits among codes of {bits}")
    members, positions = np.unique(np.array(part.categories, np.int64), return_inverse=True)
    sums, gram = np.zeros((len(members), bits), np.int64), np.zeros((bits, bits), np.int64)
    for start in range(0, len(part.codes), _CHUNK):
        packed = np.frombuffer(b"".join(map(bytes, part.codes[start : start + _CHUNK])), np.uint8)
        # Products in float64 are exact here: whole numbers far below 2**53.
        signs = np.unpackbits(packed.reshape(-1, bits // 8), axis=1).astype(np.float64) * 2 - 1
        np.add.at(sums, positions[start : start + _CHUNK], signs.astype(np.int64))
        gram += np.rint(signs.T @ signs).astype(np.int64)
    counts = np.bincount(positions, minlength=len(members))
    return {
        category: (int(counts[place]), sums[place]) for place, category in enumerate(members.tolist())
    }, gram


def _tallies_write(lineage: UUID, changes: Mapping[int, Tally]) -> None:
    """A category left without codes has no tally."""
    rows = {row.category_id: row for row in CodeTally.objects.filter(lineage=lineage, category__in=changes)}
    after = {
        category: _with_change(category, rows.get(category), change) for category, change in changes.items()
    }
    kept: list[CodeTally] = []
    new: list[CodeTally] = []
    for category, (items, code_sum) in sorted(after.items(), key=lambda pair: pair[0]):
        tally = rows.get(category) or CodeTally(lineage=lineage, category_id=category)
        tally.items, tally.code_sum = items, _stored(code_sum)
        if items:
            (kept if tally.pk else new).append(tally)
    CodeTally.objects.bulk_create(new)
    CodeTally.objects.bulk_update(kept, ["items", "code_sum"], batch_size=200)
    empty = [row.pk for category, row in rows.items() if not after[category].items]
    CodeTally.objects.filter(pk__in=empty).delete()


def _with_change(category: int, row: CodeTally | None, change: Tally) -> Tally:
    """Raises ValueError when these codes cannot be among those counted."""
    items, code_sum = (
        change if row is None else (row.items + change.items, _whole(row.code_sum) + change.code_sum)
    )
    if items < 0 or (np.abs(code_sum) > items).any():
        held = row.items if row else 0
        raise ValueError(
            f"category {category}, with {held} codes counted, does not count the codes to be removed"
        )
    return Tally(items, code_sum)


def _stored(counts: Counts) -> bytes:
    return counts.astype(_WHOLE).tobytes()


def _whole(stored: bytes | memoryview) -> Counts:
    return np.frombuffer(bytes(stored), _WHOLE).astype(np.int64)
