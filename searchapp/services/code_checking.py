"""Proof that stored codes are what was counted: each code's digest, one digest of all, and a count from nothing."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from uuid import UUID

import numpy as np

from ml.methods.lifelong.labels import LabelSet
from ml.methods.lifelong.statistics import CodeStatistics, Tally
from searchapp.models import CountedEntry, GalleryEntry
from searchapp.services.code_digest import CODE_FIELDS, CodeRow, CodesDigest, codes_digest
from searchapp.services.code_tallies import label_set_of
from searchapp.services.gallery_columns import in_chunks


@dataclass(frozen=True, slots=True)
class ChangedCode:
    """A counted entry whose code is not what was counted."""

    image_sha256: str
    sku: str
    producer: str
    category: str  # path


@dataclass(frozen=True, slots=True)
class CodesCheck:
    """How many entries were looked at, one digest of their codes as they are, and those that were changed.

    Against codes noted before: `noted` is the digest of what these very entries had then, `gone` how many more had been
    noted.
    """

    checked: int
    digest: str
    changed: tuple[ChangedCode, ...]
    noted: str = ""
    gone: int = 0


def codes_noted(lineage: UUID) -> dict[int, bytes]:
    """Entry -> its code now, of every counted entry: for `codes_check` to come back to."""
    rows = CountedEntry.objects.filter(lineage=lineage).values_list("pk", "entry__code")
    return {pk: bytes(code) for pk, code in rows.iterator(chunk_size=5000)}


def codes_check(
    lineage: UUID, category_ids: Collection[int] | None = None, *, noted: Mapping[int, bytes] | None = None
) -> CodesCheck:
    """Compare every counted entry's code with its digest, of all categories, of those counted under some, or of those
    that were noted and are still there."""
    rows = CountedEntry.objects.filter(lineage=lineage).order_by("entry__image_sha256")
    wanted = None if category_ids is None else frozenset(category_ids)
    now, before, checked = CodesDigest(), CodesDigest(), 0
    changed: list[int] = []
    fields = ("pk", "category_id", "code_digest", *(f"entry__{name}" for name in CODE_FIELDS))
    for pk, category, counted, *entry in rows.values_list(*fields).iterator(chunk_size=5000):
        if (wanted is not None and category not in wanted) or (noted is not None and pk not in noted):
            continue
        code = bytes(entry[3])
        checked += 1
        if blake2b(code, digest_size=8).digest() != bytes(counted):
            changed.append(pk)
        now.add((entry[0], entry[1], entry[2], code))
        if noted is not None:
            before.add((entry[0], entry[1], entry[2], noted[pk]))
    return CodesCheck(
        checked,
        now.value(),
        tuple(_named(changed)),
        noted="" if noted is None else before.value(),
        gone=0 if noted is None else len(noted) - checked,
    )


def _named(entry_ids: Collection[int]) -> Iterator[ChangedCode]:
    related = ("entry__producer", "image__item", "category")
    rows = CountedEntry.objects.filter(pk__in=list(entry_ids)).select_related(*related)
    for row in rows.order_by("entry__image_sha256", "pk"):
        producer = row.entry.producer.name
        yield ChangedCode(row.entry.image_sha256, row.image.item.sku, producer, row.category.path)


@dataclass(frozen=True, slots=True)
class StoredCodes:
    """Of some photos: how many codes are stored, and their digest."""

    count: int
    digest: str


def stored_codes(image_ids: Collection[int]) -> StoredCodes:
    """Every entry of these photos, by any version."""
    rows: list[CodeRow] = [
        row
        for ids in in_chunks(image_ids)
        for row in GalleryEntry.objects.filter(image__in=ids).values_list(*CODE_FIELDS)
    ]
    return StoredCodes(len(rows), codes_digest(sorted(rows, key=lambda row: row[0])))


def recounted(lineage: UUID, label_sets: Mapping[int, LabelSet], code_bits: int) -> CodeStatistics:
    """The statistics from the rows alone, one code after the other: the oracle, sharing nothing with what it checks.

    Raises ValueError as `statistics_of` does.
    """
    found = CodeStatistics(code_bits)
    rows = CountedEntry.objects.filter(lineage=lineage).values_list("category", "entry__code")
    for category, stored in rows.iterator(chunk_size=5000):
        code = bytes(stored)
        if 8 * len(code) != code_bits:
            raise ValueError(f"a counted code of {8 * len(code)} bits, expected {code_bits}")
        number = int.from_bytes(code, "big")
        bits = [number >> place & 1 for place in reversed(range(code_bits))]
        signs = np.array([1 if bit else -1 for bit in bits], np.int64)
        labels = label_set_of(category, label_sets)
        known = found.tallies.get(labels)
        found.tallies[labels] = Tally(known.items + 1, known.code_sum + signs) if known else Tally(1, signs)
        found.gram += np.outer(signs, signs)
    return found
