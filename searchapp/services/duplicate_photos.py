"""How photos are named while they are compared, before and after they have rows; and two that equal one another."""

from dataclasses import dataclass

from django.db.models import QuerySet

from searchapp.models import ItemImage
from searchapp.services.sketches import Sketch

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Named:
    """A photo by its item's SKU and the SHA-256 of its upload: no two photos share both."""

    sku: str
    title: str
    upload_sha256: str
    image_sha256: str

    @property
    def key(self) -> Key:
        return self.sku, self.upload_sha256

    @property
    def contents(self) -> tuple[str, str]:
        return self.upload_sha256, self.image_sha256


@dataclass(frozen=True, slots=True)
class NewPhoto:
    """A photo to be compared, as encoded: packed code and little-endian float16 embedding.

    Code and embedding are empty, and the sketch is None, where nobody encoded it. item_id: of an item with a row.
    """

    named: Named
    code: bytes = b""
    embedding: bytes = b""
    sketch: Sketch | None = None
    item_id: int | None = None


@dataclass(frozen=True, slots=True)
class FoundPair:
    """A new photo and the older photo of another item that it equals; figures only where the content differs."""

    new: Named
    old: Named
    bits: int | None = None
    cosine: float | None = None
    likeness: float | None = None

    @property
    def is_same_content(self) -> bool:
        return self.likeness is None


def rows_named(rows: QuerySet[ItemImage]) -> dict[int, Named]:
    """Photos by id, in the order of `rows`; one query."""
    fields = rows.values_list("pk", "item__sku", "item__title", "upload_sha256", "image_sha256")
    return {pk: Named(*names) for pk, *names in fields}
