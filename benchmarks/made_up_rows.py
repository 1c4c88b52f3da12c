"""A gallery of real rows with made-up codes and embeddings: for time, not for quality. Needs Django to be set up."""

from benchmarks.gallery_data import mixlow
from searchapp.models import ChangeKind, GalleryEntry, Item, ItemImage, Tag
from searchapp.services import categories, versions
from searchapp.services.gallery import gallery_transaction

PHOTOS_PER_ITEM = 10
BATCH = 5000


def populate(entries: int, *, seed: int) -> None:
    """Items with categories and tags, photos, and entries by the version in use. No photo has a file."""
    version = versions.default_version_ensure()
    mixture = mixlow(entries, 1, seed=seed)
    codes, halves = mixture.codes(mixture.embeddings), mixture.embeddings.astype("<f2")
    category_of = [categories.category_ensure(f"Shop > Shelf {n}", vertical="product") for n in range(20)]
    tags = Tag.objects.bulk_create([Tag(name=f"tag {n}") for n in range(40)])
    with gallery_transaction() as changes:
        items = Item.objects.bulk_create(
            [
                Item(sku=f"item-{n}", title=f"Item number {n}", category=category_of[n % 20], price=n % 90)
                for n in range(entries // PHOTOS_PER_ITEM)
            ],
            batch_size=BATCH,
        )
        through = Item.tags.through
        through.objects.bulk_create(
            [
                through(item_id=item.pk, tag_id=tags[(item.pk + step) % 40].pk)
                for item in items
                for step in (0, 7)
            ],
            batch_size=BATCH,
        )
        for start in range(0, entries, BATCH):
            images = ItemImage.objects.bulk_create(
                [_image(n, items[n // PHOTOS_PER_ITEM]) for n in range(start, min(start + BATCH, entries))]
            )
            rows = [
                GalleryEntry(
                    image_id=image.pk,
                    image_sha256=image.image_sha256,
                    producer=version,
                    code=codes[start + offset].tobytes(),
                    embedding=halves[start + offset].tobytes(),
                )
                for offset, image in enumerate(images)
            ]
            GalleryEntry.objects.bulk_create(rows)
        changes.record(ChangeKind.ITEM_CHANGED, [items[0].pk])


def _image(number: int, item: Item) -> ItemImage:
    sha256 = f"{number:064x}"
    return ItemImage(
        item=item, image_sha256=sha256, upload_sha256=sha256, extension="jpg", width=400, height=400, size_bytes=40_000,
        colour="#808080", position=number % PHOTOS_PER_ITEM,
    )  # fmt: skip
