"""The proof that learning changed no stored code: every one is read before and after, and held against its digest."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from searchapp.exceptions import Conflict
from searchapp.services.code_statistics import CodesCheck, codes_check, codes_noted


@dataclass(frozen=True, slots=True)
class OldCodes:
    """Counted codes that are there before and after: how many, and one digest of them each time.

    gone: how many went with their photo, or to another category's photos, in between.
    """

    checked: int
    gone: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class NotedCodes:
    """Every old code as it was when learning began, by its entry."""

    lineage: UUID
    codes: Mapping[int, bytes]


def old_codes_noted(lineage: UUID) -> NotedCodes:
    """Read all codes that are counted; of a category that waits none is. Raises Conflict when one was changed since.

    On a candidate these are the codes of the version in use, those of the categories that are caught up with included.
    """
    _refuse_changed(codes_check(lineage))
    return NotedCodes(lineage, codes_noted(lineage))


def old_codes_now(noted: NotedCodes) -> OldCodes:
    """Read them again. Raises Conflict, naming the first, when a code is not what it was."""
    found = codes_check(noted.lineage, noted=noted.codes)
    _refuse_changed(found)
    return OldCodes(found.checked, found.gone, found.noted, found.digest)


def _refuse_changed(found: CodesCheck) -> None:
    if found.changed:
        first = found.changed[0]
        raise Conflict(
            f"{len(found.changed):,} of {found.checked:,} stored codes are not what they were, the first is that of "
            f"photo {first.image_sha256} of item {first.sku} ({first.category}) by version {first.producer}: somebody "
            "wrote to the database past Perennial. Nothing was learned; restore the row, or delete the photo."
        )
