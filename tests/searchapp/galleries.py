"""Small real galleries for tests: items with photos, encoded by the shipped version."""

from collections.abc import Sequence
from typing import Any

from searchapp.models import Item, ItemImage
from searchapp.services import catalogue, encoding, versions
from searchapp.services.gallery import entries_add, gallery_transaction


def item_with_photos(
    sku: str, photos: Sequence[bytes], category: str = "Fruit", tags: Sequence[str] = (), **fields: Any
) -> Item:
    vertical = fields.pop("vertical", "product")
    found = catalogue.category_ensure(category, vertical=vertical)
    item = catalogue.item_create(sku=sku, category=found, tags=tags, title=fields.pop("title", sku), **fields)
    for photo in photos:
        catalogue.image_add(item=item, data=photo, filename=f"{sku}.jpg")
    return item


def encode_missing() -> int:
    """What the worker's job does, in the test's own transaction. Returns how many photos got an entry."""
    version = versions.default_version_ensure()
    image_ids = list(ItemImage.objects.missing_entry().values_list("pk", flat=True))
    entries = encoding.encode_images(version=version, image_ids=image_ids)
    with gallery_transaction() as changes:
        return entries_add(changes, version=version, entries=entries)


def shop(photos: Sequence[bytes]) -> list[Item]:
    """Six items of two categories, one photo each, encoded: apple-0..2 under Fruit > Apple, juice-0..2 under Drink."""
    items = [
        item_with_photos(
            f"apple-{n}",
            [photos[n]],
            "Fruit > Apple",
            ["fresh", "red"][: n + 1],
            title="Red apple",
            price=f"{n + 1}.50",
        )
        for n in range(3)
    ]
    items += [
        item_with_photos(f"juice-{n}", [photos[n + 3]], "Drink", ["fresh"], title="Orange juice")
        for n in range(3)
    ]
    encode_missing()
    return items
