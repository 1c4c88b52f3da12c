"""What an import says of photos that another item has already: a warning, the import goes on."""

import base64
import io
from typing import Any

from django.conf import settings
from PIL import Image

from searchapp.models import thumbnail_path
from searchapp.services.duplicate_photos import FoundPair, Key, Named, NewPhoto
from searchapp.services.import_chunks import ChunkPlan, ImportContext, PlannedItem, PlannedPhoto
from searchapp.services.media import media_exists

PREVIEW_SIDE = 96
_PREVIEW_QUALITY = 75


def chunk_compare(context: ImportContext, plan: ChunkPlan) -> list[NewPhoto]:
    """Compare the photos of a planned chunk: `plan.duplicates` are the pairs, the report tells of them.

    Returns what was compared, for `context.duplicates.met` once it is in the catalogue.
    """
    planned = {
        (item.record.sku, photo.stored.upload_sha256): (item, photo)
        for item in plan.items.values()
        if item.is_kept
        for photo in item.photos
    }
    photos = [_new_photo(item, photo) for item, photo in planned.values()]
    plan.duplicates = context.duplicates.found(photos, context.version)
    for pair in plan.duplicates:
        if plan.report.duplicate():
            plan.report.duplicates.append(_told(pair, planned, is_dry=context.is_dry))
    return photos


def _new_photo(item: PlannedItem, photo: PlannedPhoto) -> NewPhoto:
    stored = photo.stored
    named = Named(item.record.sku, item.item.title, stored.upload_sha256, stored.image_sha256)
    return NewPhoto(named, photo.code, photo.embedding, photo.sketch, item.item.pk)


def _told(
    pair: FoundPair, planned: dict[Key, tuple[PlannedItem, PlannedPhoto]], *, is_dry: bool
) -> dict[str, Any]:
    _, photo = planned[pair.new.key]
    return {
        "row": photo.photo.row,
        "sku": pair.new.sku,
        "title": pair.new.title,
        "thumbnail": _preview(photo) if is_dry else _address(pair.new),
        "same_content": pair.is_same_content,
        "bits": pair.bits,
        "cosine": pair.cosine,
        "likeness": pair.likeness,
        "equals": {
            "sku": pair.old.sku,
            "title": pair.old.title,
            "thumbnail": "" if is_dry and not media_exists(_thumbnail_of(pair.old)) else _address(pair.old),
        },
    }


def _thumbnail_of(named: Named) -> str:
    return thumbnail_path(named.image_sha256)


def _address(named: Named) -> str:
    return f"{settings.MEDIA_URL}{_thumbnail_of(named)}"


def _preview(photo: PlannedPhoto) -> str:
    """A dry run stores nothing, so its report carries a small picture; "" when nobody looked at the pixels."""
    if photo.pixels is None:
        return ""
    longer = max(photo.stored.width, photo.stored.height)
    size = [max(1, round(PREVIEW_SIDE * side / longer)) for side in (photo.stored.width, photo.stored.height)]
    buffer = io.BytesIO()
    Image.fromarray(photo.pixels).resize((size[0], size[1])).save(buffer, "JPEG", quality=_PREVIEW_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
