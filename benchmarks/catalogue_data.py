"""The sample catalogue and its held-out queries as arrays, read and stored as the product does, without a database.

Needs Django's settings (the import sources and intake read limits from them), hence the set-up at the top.
"""

import ml.threads  # noqa: F401  isort: skip

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "searchapp.settings.dev")
os.environ.setdefault("DATA_DIR", tempfile.mkdtemp(prefix="perennial-bench-"))
os.environ.setdefault("LOG_LEVEL", "WARNING")

import django

django.setup()

import numpy as np  # noqa: E402
from django.conf import settings  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from ml.data.packs import open_pack  # noqa: E402
from ml.data.reserved import load_reserved  # noqa: E402
from searchapp.services import intake  # noqa: E402
from searchapp.services.import_sources.detection import ImportOptions, source_in_folder  # noqa: E402
from searchapp.services.import_sources.records import ItemRecord  # noqa: E402

ITEM_PACKS = ("grocery", "places_indoor")  # relevant: the same item
CATEGORY_PACKS = ("clothing", "catalog")  # relevant: the same leaf category
PACKS = (*ITEM_PACKS, *CATEGORY_PACKS)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Photos:
    """pixels (N, S, S, 3); pack, item and category of each, by name."""

    pixels: Pixels
    packs: NDArray[np.str_]
    items: NDArray[np.str_]
    categories: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.pixels)

    def taken(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> "Photos":
        return Photos(self.pixels[rows], self.packs[rows], self.items[rows], self.categories[rows])


@dataclass(frozen=True, slots=True)
class _Row:
    pixels: Pixels
    pack: str
    item: str
    category: str


def data_folder() -> Path:
    folder: Path = settings.SAMPLE_DATA
    if not (folder / "grocery").is_dir():
        raise SystemExit(f"no sample data in {folder}; set SAMPLE_DATA to the folder of data packs")
    return folder


def sample_catalogue(input_size: int, *, every: int = 1) -> tuple[Photos, Photos]:
    """(entries, held-out queries): entries through the stored file, queries from the upload, as in the product.

    every: only each so many-th photo of each, for a quick look.
    """
    entries: list[_Row] = []
    queries: list[_Row] = []
    for pack in PACKS:
        source = source_in_folder(data_folder() / pack, options=ImportOptions(), name=pack)
        records = [record for record in source.records() if isinstance(record, ItemRecord)]
        photos = [(record, photo) for record in records for photo in record.photos]
        for record, photo in photos[::every]:
            stored = intake.image_clean(source.read(photo)).data
            pixels = intake.pixels_of_stored(stored, input_size=input_size)
            entries.append(_Row(pixels, pack, record.sku, record.category))
        for query in list(source.queries())[::every]:
            upload = intake.query_image(source.read(query.photo), input_size=input_size)
            queries.append(_Row(upload.pixels, pack, query.sku or "", query.category))
    return _together(entries), _together(queries)


def reserved_photos(input_size: int, *, every: int = 1) -> Photos:
    """Every photo of the reserved classes and places: nothing of theirs is in the catalogue, nothing was trained on.

    Reserved catalogue products are left out: they are new items of known categories, so there is something to find.
    """
    reserved = load_reserved()

    def rows() -> Iterator[_Row]:
        for name in ("grocery", "places_indoor", "clothing"):
            pack = open_pack(data_folder() / name)
            wanted = [record for record in pack.records() if reserved.is_reserved(name, record.label)]
            for record in wanted[::every]:
                upload = intake.query_image(pack.read(record), input_size=input_size)
                yield _Row(upload.pixels, name, record.label or "", record.category or "")

    return _together(list(rows()))


def distractors(input_size: int, *, every: int = 1) -> Photos:
    """Clothing photos without a class: some may show what the catalogue has, so they are reported, not judged."""
    pack = open_pack(data_folder() / "clothing")
    rows = [
        _Row(
            intake.query_image(pack.read(record), input_size=input_size).pixels,
            "clothing extra",
            record.path,
            "",
        )
        for record in list(pack.records("extra"))[::every]
    ]
    return _together(rows)


def _together(rows: list[_Row]) -> Photos:
    return Photos(
        np.stack([row.pixels for row in rows]),
        np.array([row.pack for row in rows]),
        np.array([row.item for row in rows]),
        np.array([row.category for row in rows]),
    )
