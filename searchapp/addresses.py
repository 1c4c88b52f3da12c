"""Where an item's page and a photo's thumbnail are found, for pages and admin alike."""

import re
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.urls import reverse

from searchapp.models import Item, ItemImage

# An address path must survive browsers, which resolve dot segments; any other SKU goes into the query string.
PLAIN_SKU = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))(?!/)(?!.*//)[\w.:/~ -]+", re.ASCII)


def item_url(sku: str, query_id: UUID | None = None) -> str:
    path = reverse("item", args=[sku]) if PLAIN_SKU.fullmatch(sku) else reverse("item-by-sku")
    query = {} if PLAIN_SKU.fullmatch(sku) else {"sku": sku}
    if query_id is not None:
        query["query"] = str(query_id)
    return path + (f"?{urlencode(query)}" if query else "")


def thumbnail_url(image: ItemImage) -> str:
    return f"{settings.MEDIA_URL}{image.thumbnail}"


def alt_of(image: ItemImage, item: Item) -> str:
    return image.alt or item.title or item.sku
