"""A handful of real photos as a training set, shared by the training tests."""

from collections import defaultdict
from pathlib import Path

from ml.data.images import ImageSet, load_images
from ml.data.packs import PackRecord, open_pack


def few_photos(data_packs: Path, *, per_class: int, size: int) -> ImageSet:
    """`per_class` real photos of each of the first ten grocery classes, (10 * per_class, 3, size, size)."""
    pack = open_pack(data_packs / "grocery")
    by_class: dict[str | None, list[PackRecord]] = defaultdict(list)
    for record in pack.records("train"):
        by_class[record.label].append(record)
    chosen = list(by_class.values())[:10]
    return load_images([(pack, record) for records in chosen for record in records[:per_class]], size)
