"""Galleries of rows alone, for what never looks at a picture: items, photos and entries with random codes."""

import uuid
from collections.abc import Sequence

import numpy as np

from searchapp.models import (
    Category,
    Deployment,
    GalleryEntry,
    GalleryView,
    Item,
    ItemImage,
    ModelVersion,
    Provenance,
)

BITS, DIMENSION = 64, 8


def version_of(
    number: str, *, parent: ModelVersion | None = None, labels: Sequence[str] = ()
) -> ModelVersion:
    major, minor = map(int, number.split("."))
    return ModelVersion.objects.create(
        major=major,
        minor=minor,
        digest=uuid.uuid4().hex * 2,
        parent=parent,
        lineage=parent.lineage if parent else uuid.uuid4(),
        method="test",
        architecture="none",
        code_bits=BITS,
        dimension=DIMENSION,
        size_bytes=0,
        label_registry=list(labels),
    )


def put_in_use(version: ModelVersion) -> None:
    Deployment.objects.filter(ended_at=None).update(ended_at="2026-01-01T00:00:00Z")
    view, _ = GalleryView.objects.get_or_create(version=version, corrector_digest="")
    Deployment.objects.create(version=version, view=view)


def items_of(category: Category, photos: Sequence[int]) -> list[Item]:
    """One new item for each number of photos. Their files do not exist."""
    items = Item.objects.bulk_create(
        [Item(sku=f"i-{uuid.uuid4().hex[:12]}", category=category) for _ in photos]
    )
    ItemImage.objects.bulk_create(
        [
            ItemImage(
                item=item,
                image_sha256=(sha := uuid.uuid4().hex * 2),
                upload_sha256=sha,
                extension="jpg",
                width=8,
                height=8,
                size_bytes=1,
                colour="#000000",
                position=position,
            )
            for item, count in zip(items, photos, strict=True)
            for position in range(count)
        ]
    )
    return items


def entries_of(
    version: ModelVersion, images: Sequence[ItemImage], *, seed: int, provenance: str = Provenance.ENCODED
) -> list[GalleryEntry]:
    """An entry with a random code for each photo."""
    codes = np.random.default_rng(seed).integers(0, 256, (len(images), BITS // 8), np.uint8)
    return GalleryEntry.objects.bulk_create(
        [
            GalleryEntry(
                image=image,
                image_sha256=image.image_sha256,
                producer=version,
                provenance=provenance,
                code=code.tobytes(),
                embedding=bytes(2 * DIMENSION),
            )
            for image, code in zip(images, codes, strict=True)
        ]
    )
