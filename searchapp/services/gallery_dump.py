"""Every entry as text, in an order that depends on nothing but the entries: two equal dumps are two equal galleries."""

from collections.abc import Iterator
from itertools import groupby

from searchapp.models import GalleryEntry

COLUMNS = ("image_sha256", "sku", "producer", "provenance", "code_hex")
_FIELDS = ("image_sha256", "image__item__sku", "producer__major", "producer__minor", "provenance", "code")

Row = tuple[str, str, str, str, str]


def rows() -> Iterator[Row]:
    """One row per entry, sorted as text. Databases sort letters each in their own way, so they sort digests alone."""
    entries = GalleryEntry.objects.order_by("image_sha256").values_list(*_FIELDS).iterator(chunk_size=5000)
    for _, same_photo in groupby(entries, key=lambda row: row[0]):
        yield from sorted(
            (sha256, sku, f"{major}.{minor}", provenance, bytes(code).hex())
            for sha256, sku, major, minor, provenance, code in same_photo
        )
