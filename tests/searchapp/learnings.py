"""A shop of real photos in use, to which categories come that it has to learn."""

from pathlib import Path

from searchapp.models import Category, GalleryEntry, Item, Job, JobState
from searchapp.services import jobs, learning, versions
from tests.searchapp.galleries import encode_missing, item_with_photos
from tests.searchapp.trainings import class_photos

STOCK, NEW, EACH = 4, 2, 8


def stocked(packs: Path) -> None:
    """STOCK categories of EACH photos, known from the start."""
    for name in list(class_photos(packs, STOCK + NEW, EACH))[:STOCK]:
        item_with_photos(name, class_photos(packs, STOCK + NEW, EACH)[name], f"Food > {name}", title=name)
    encode_missing()


def new_category(packs: Path, number: int = 0, *, count: int = EACH) -> Category:
    """A category with photos that comes to the stocked shop; its photos are provisional entries."""
    name = list(class_photos(packs, STOCK + NEW, EACH))[STOCK + number]
    photos = class_photos(packs, STOCK + NEW, EACH)[name][:count]
    item = item_with_photos(name, photos, f"Food > {name}", tags=["new"], title=name)
    encode_missing()
    return item.category


def learned(**wishes: list[str]) -> Job:
    """A learning job of all that waits, run to its end."""
    job = jobs.job_run_here(learning.learn_start(user=None, **wishes))
    assert (job.state, job.error) == (JobState.DONE, "")
    return job


def rows_by_version() -> dict[str, dict[tuple[str, str], tuple[bytes, bytes]]]:
    """Version name -> (SKU, photo's SHA-256) -> code and embedding, of every entry there is."""
    found: dict[str, dict[tuple[str, str], tuple[bytes, bytes]]] = {}
    entries = GalleryEntry.objects.select_related("producer", "image__item")
    for entry in entries:
        own = found.setdefault(entry.producer.name, {})
        own[entry.image.item.sku, entry.image_sha256] = (bytes(entry.code), bytes(entry.embedding))
    return found


def in_use() -> str:
    return versions.champion().version.name


def item_of(category: Category) -> Item:
    return Item.objects.get(category=category)
