"""Opens what an experiment runs on: a data pack, the files of MNIST, or a folder of class folders.

Two images are relevant to each other when their labels are equal. As in the sample catalogue that is the item
where test photos show items of the catalogue (grocery: the class; places: the place), and the leaf category
where they cannot (clothing: every photo is an item; a shop catalogue: no product is in two splits).
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ml.data import idx
from ml.data.folders import is_class_folder, load_photos, open_folders
from ml.data.images import ImageSet, load_images, training_records, validation_records
from ml.data.packs import CATALOGUE_SPLITS, QUERY_SPLITS, Pack, PackRecord, find_packs, open_pack
from ml.data.reserved import ReservedClasses, load_reserved
from ml.experiments.data.describing import described_class, described_record
from ml.experiments.data.parts import Dataset, Ids, Part

PHOTO_SIZE = 64  # pixels a side, unless asked otherwise
VALIDATION_SHARE = 12  # of the training digits one in twelve validates: 5,000 of 60,000
VALIDATION_SEED = 0

Naming = Callable[[PackRecord], str]


def open_dataset(folder: Path, *, size: int | None = None) -> Dataset:
    """Read `folder` into memory at `size` pixels a side; by default 64 for photos, digits as they are.

    Digits can be made larger only, by an even black border. Validation and test choose nothing of each other:
    packs keep their splits, digits hold one training image in twelve out (seed 0, alike in each class), for
    class folders see `ml.data.folders`. Raises ValueError when the folder is none of the three or a part is
    empty.
    """
    if size is not None and size < 1:
        raise ValueError(f"size is {size} pixels, it must be at least 1")
    if idx.is_idx_folder(folder):
        return _open_digits(folder, size)
    if find_packs(folder):
        return _open_packed(open_pack(folder), size or PHOTO_SIZE)
    if is_class_folder(folder):
        return _open_folders(folder, size or PHOTO_SIZE)
    raise ValueError(
        f"{folder} is neither a data pack (labels.csv and .tar shards), nor the four .gz files of MNIST, "
        "nor a folder of class folders with photos"
    )


def _open_digits(folder: Path, size: int | None) -> Dataset:
    train, test = idx.read_split(folder, "train"), idx.read_split(folder, "test")
    name, fingerprint = folder.resolve().name, idx.fingerprint(folder)
    count = int(max(train.labels.max(initial=0), test.labels.max(initial=0))) + 1
    titles = idx.class_names(folder, count)
    names = tuple(f"{name}:{title}" for title in titles)
    described = [described_class(*of) for of in zip(names, titles)]
    held_out = _validation_rows(train.labels)
    rest = np.setdiff1d(np.arange(len(train.labels)), held_out)

    def part(digits: idx.Digits, rows: Ids, title: str) -> Part:
        if not len(rows):
            raise ValueError(f"{folder}: the {title} part is empty")
        pixels = _bordered(digits.pixels[rows], size)
        return Part(
            images=ImageSet(
                pixels=torch.from_numpy(pixels).unsqueeze(1),
                labels=torch.from_numpy(digits.labels[rows]),
                names=names,
                packs=(name,) * len(rows),
                fingerprint=hashlib.sha256(f"{fingerprint} {title}".encode()).hexdigest(),
            ),
            items=np.arange(len(rows), dtype=np.int64),
            described=tuple(described[label] for label in digits.labels[rows]),
        )

    return Dataset(
        name=name,
        kind="digits",
        train=part(train, rest, "train"),
        validation=part(train, held_out, "validation"),
        test=part(test, np.arange(len(test.labels)), "test"),
        unseen_gallery=None,
        unseen_queries=None,
        fingerprint=fingerprint,
    )


def _validation_rows(labels: Ids) -> Ids:
    """Rows held out, ascending: the same number of every class."""
    rng = np.random.default_rng(VALIDATION_SEED)
    found = np.unique(labels)
    per_class = len(labels) // VALIDATION_SHARE // max(1, len(found))
    drawn = [rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in found]
    return np.sort(np.concatenate(drawn)) if drawn else np.empty(0, dtype=np.int64)


def _bordered(pixels: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    """(N, H, W) -> (N, size, size), black around; unchanged without a size."""
    if size is None:
        return pixels
    height, width = pixels.shape[1:]
    if size < max(height, width):
        raise ValueError(f"size is {size} pixels, the digits have {height}x{width}: only larger is possible")
    top, left = (size - height) // 2, (size - width) // 2
    return np.pad(pixels, ((0, 0), (top, size - height - top), (left, size - width - left)))


def _open_packed(pack: Pack, size: int) -> Dataset:
    listed = load_reserved()
    # Experiments train on the validation classes of version 1.0: only reserved ones stay unseen.
    reserved = ReservedClasses(reserved=listed.reserved, validation={})
    train, validation = training_records(pack, reserved), validation_records(pack, reserved)
    shown: dict[bool, list[PackRecord]] = {False: [], True: []}  # by whether the label is reserved
    for record in pack.records(*QUERY_SPLITS):
        if record.label is not None:
            shown[reserved.is_reserved(pack.name, record.label)].append(record)
    unseen = [r for r in pack.records(*CATALOGUE_SPLITS) if reserved.is_reserved(pack.name, r.label)]
    for title, records in (("train", train), ("validation", validation), ("test", shown[False])):
        if not records:
            raise ValueError(f"{pack.root}: the {title} part is empty")

    def part(records: list[PackRecord], name_of: Naming, names: tuple[str, ...]) -> Part:
        index = {name: position for position, name in enumerate(names)}
        labels = torch.tensor([index.get(name_of(record), -1) for record in records], dtype=torch.int64)
        images = load_images([(pack, record) for record in records], size, names=())
        items = np.unique([_item(pack, record) for record in records], return_inverse=True)[1]
        described = tuple(described_record(record, _relevance(record)) for record in records)
        return Part(replace(images, labels=labels, names=names), items.astype(np.int64), described)

    names = tuple(sorted(set(map(_relevance, train))))
    unseen_names = tuple(sorted(set(map(_unseen_relevance, unseen))))
    return Dataset(
        name=pack.name,
        kind="pack",
        train=part(train, _relevance, names),
        validation=part(validation, _relevance, names),
        test=part(shown[False], _relevance, names),
        unseen_gallery=part(unseen, _unseen_relevance, unseen_names) if unseen else None,
        unseen_queries=part(shown[True], _unseen_relevance, unseen_names) if shown[True] else None,
        fingerprint=pack.fingerprint(),
        tags=_shared_tags(train),
    )


def _shared_tags(records: Iterable[PackRecord]) -> dict[str, tuple[str, ...]]:
    """Class name -> the tags that all its photos carry, sorted."""
    shared: dict[str, set[str]] = {}
    for record in records:
        own = {tag for tag in record.columns.get("tags", "").split("|") if tag}
        shared[_relevance(record)] = shared.get(_relevance(record), own) & own
    return {name: tuple(sorted(tags)) for name, tags in shared.items()}


def _relevance(record: PackRecord) -> str:
    """The class of a labelled photo; products give way to their category, being in one split each."""
    return f"{record.pack}:{record.category if 'product_id' in record.columns else record.label}"


def _unseen_relevance(record: PackRecord) -> str:
    return f"{record.pack}:{record.label}"


def _item(pack: Pack, record: PackRecord) -> str:
    """The item a photo shows: product, place or titled class; classes without titles are only categories."""
    is_category = pack.label_column == "class" and "title" not in pack.header
    return record.path if is_category else str(record.label)


def _open_folders(folder: Path, size: int) -> Dataset:
    opened = open_folders(folder)
    name = folder.resolve().name
    names = tuple(sorted({f"{name}:{photo.label}" for photo in opened.train}))
    parts = {}
    for title in ("train", "validation", "test"):
        photos = getattr(opened, title)
        if not photos:
            raise ValueError(f"{folder}: the {title} part is empty")
        images = load_photos(folder, photos, size, source=name, names=names)
        described = tuple(described_class(f"{name}:{photo.label}", photo.label) for photo in photos)
        parts[title] = Part(images, np.arange(len(photos), dtype=np.int64), described)
    return Dataset(
        name=name,
        kind="folder",
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        unseen_gallery=None,
        unseen_queries=None,
        fingerprint=opened.fingerprint(),
    )
