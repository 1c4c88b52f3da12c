"""The digest of every stored code, said before and after what must not touch one (design 4.2)."""

import time
from dataclasses import dataclass

from searchapp.models import GalleryEntry
from searchapp.services.code_digest import CODE_FIELDS, codes_digest


def newest_entry() -> int:
    """The number of the entry that came last; 0 where there is none."""
    return GalleryEntry.objects.order_by("-pk").values_list("pk", flat=True).first() or 0


def gallery_digest(newest: int) -> str:
    """Of all entries up to that one."""
    rows = GalleryEntry.objects.filter(pk__lte=newest).order_by("image_sha256")
    return codes_digest(rows.values_list(*CODE_FIELDS).iterator(chunk_size=5000))


@dataclass(frozen=True, slots=True)
class TimedDigest:
    """A digest, the newest entry it is of, and the seconds it took."""

    value: str
    newest: int
    seconds: float


def digest_timed(newest: int | None = None) -> TimedDigest:
    """Of all entries up to `newest`; None for all there are."""
    started = time.monotonic()
    last = newest_entry() if newest is None else newest
    return TimedDigest(gallery_digest(last), last, time.monotonic() - started)
