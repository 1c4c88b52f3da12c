"""The sample catalogue as rows with codes, some items keeping all their words and some only title and description,
and a version that is taught words from rows as the product teaches them.

Needs Django's settings and a database of its own, hence the set-up at the top.
"""

from benchmarks.catalogue_data import PACKS, data_folder  # isort: skip  sets Django up

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import Bundle
from ml.base_version.increment import parent_heads
from ml.data.words import label_words, words_of
from ml.evaluation.retrieval import signs_of
from ml.evaluation.text_search import Bm25Index
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.statistics import CodeStatistics
from ml.methods.lifelong.word_base import with_words
from ml.protocol import Encoded
from ml.text_encoder import TextWeights
from searchapp.models import PATH_SEPARATOR, Category, ChangeKind, Item, ItemImage, ModelVersion, Tag
from searchapp.services import catalogue, category_labels, intake, learning_material
from searchapp.services.gallery import NewEntry, entries_add, gallery_transaction
from searchapp.services.import_sources.detection import ImportOptions, source_in_folder
from searchapp.services.import_sources.records import ItemRecord
from searchapp.services.item_fields import search_text_of, tags_clean

BATCH = 2000
MAX_SHARE = 0.6  # of the items: a label that more of them carry finds nothing (as in the lifelong experiment)

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stock:
    """M items of all packs, and N photos: `owners` (N,) is the item of each, `encoded` what the version made of it."""

    records: tuple[ItemRecord, ...]
    owners: Rows
    encoded: Encoded

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of SKUs, words and codes."""
        digest = hashlib.sha256(self.encoded.packed_codes.tobytes())
        for record in self.records:
            digest.update(repr((record.sku, record.category, dict(record.fields), record.tags)).encode())
        return digest.hexdigest()


@dataclass(slots=True)
class Shop:
    """The stock's items that are in the database so far, by their row in it."""

    stock: Stock
    version: ModelVersion
    item_ids: dict[int, int] = field(default_factory=dict)  # row of the stock -> primary key


def read_stock(bundle: Bundle, *, every: int = 1) -> Stock:
    """every: only each so many-th item, for a quick look."""
    encoder = bundle.encoder()
    records: list[ItemRecord] = []
    owners: list[int] = []
    made: list[Encoded] = []
    for pack in PACKS:
        source = source_in_folder(data_folder() / pack, options=ImportOptions(), name=pack)
        found = [record for record in source.records() if isinstance(record, ItemRecord) and record.photos]
        for record in found[::every]:
            stored = [intake.image_clean(source.read(photo)).data for photo in record.photos]
            pixels = [intake.pixels_of_stored(data, input_size=encoder.input_size) for data in stored]
            made.append(encoder.encode(np.stack(pixels)))
            owners += [len(records)] * len(pixels)
            records.append(record)
    codes = np.concatenate([encoded.packed_codes for encoded in made])
    embeddings = np.concatenate([encoded.embeddings for encoded in made])
    return Stock(tuple(records), np.array(owners, np.int64), Encoded(codes, embeddings))


def stocked(shop: Shop, rows: Sequence[int], *, has_all_words: bool) -> None:
    """Put these items on sale, with photos and codes. Without all words: title and description are all that can be
    searched, as if nobody had given tags, and categories had no names."""
    records = shop.stock.records
    category_of = {
        path: catalogue.category_ensure(path, vertical=records[row].vertical or "product")
        for path, row in {records[row].category: row for row in rows}.items()
    }
    tag_of = {name: Tag.objects.get_or_create(name=name)[0] for row in rows for name in _tags(records[row])}
    with gallery_transaction() as changes:
        items = Item.objects.bulk_create(
            [
                _item(records[row], category_of[records[row].category], has_all_words=has_all_words)
                for row in rows
            ],
            batch_size=BATCH,
        )
        through = Item.tags.through
        given = [
            through(item_id=item.pk, tag_id=tag_of[name].pk)
            for item, row in zip(items, rows, strict=True)
            for name in _tags(records[row])
        ]
        through.objects.bulk_create(given, batch_size=BATCH)
        shop.item_ids |= {row: item.pk for row, item in zip(rows, items, strict=True)}
        changes.record(ChangeKind.ITEM_CHANGED, [item.pk for item in items])
        photos = np.flatnonzero(np.isin(shop.stock.owners, rows)).tolist()
        images = ItemImage.objects.bulk_create(
            [_image(photo, shop.item_ids[int(shop.stock.owners[photo])]) for photo in photos],
            batch_size=BATCH,
        )
        codes, embeddings = shop.stock.encoded.packed_codes, shop.stock.encoded.embeddings.astype("<f2")
        entries = [
            NewEntry(image.pk, image.image_sha256, codes[photo].tobytes(), embeddings[photo].tobytes())
            for photo, image in zip(photos, images, strict=True)
        ]
        for start in range(0, len(entries), BATCH):
            entries_add(changes, version=shop.version, entries=entries[start : start + BATCH])


def given_all_words() -> None:
    """From now on every item can be searched by all its words."""
    items = list(Item.objects.select_related("category").prefetch_related("tags"))
    for item in items:
        item.search_text = search_text_of(item, sorted(tag.name for tag in item.tags.all()))
    Item.objects.bulk_update(items, ["search_text"], batch_size=BATCH)


def taught(shop: Shop, bundle: Bundle, *, seed: int) -> TextWeights:
    """What the product teaches of the items that are on sale: texts of learned categories, and sums of their codes."""
    stock = shop.stock
    paths = {path: pk for pk, path in Category.objects.values_list("pk", "path")}
    rows = sorted(shop.item_ids)
    known = sorted({paths[stock.records[row].category] for row in rows})
    _, _, sets = category_labels.label_sets(known, [])
    photos = np.flatnonzero(np.isin(stock.owners, rows))
    signs = signs_of(stock.encoded.packed_codes[photos]).astype(np.int8)
    owned = [sets[paths[stock.records[row].category]] for row in stock.owners[photos].tolist()]
    texts = learning_material.texts_of(known, sets)
    if texts is None:
        raise SystemExit("the sample catalogue says nothing of its items")
    heads = with_words(
        parent_heads(bundle), texts, CodeStatistics.of(owned, signs), words=learning_material.WORDS,
        config=LifelongConfig(code_bits=shop.version.code_bits), seed=seed,
    )  # fmt: skip
    if heads.text is None:
        raise SystemExit("nothing was taught")
    return TextWeights.of(heads.text.arrays())


def label_queries(stock: Stock, rows: Sequence[int]) -> dict[str, Rows]:
    """Words of a label (category or tag) -> the items of `rows` that carry it or one that reads the same.

    At least two items carry it, and at most MAX_SHARE of them.
    """
    carriers: dict[str, set[int]] = {}
    for row in rows:
        record = stock.records[row]
        for label in (*record.category.split(PATH_SEPARATOR), *(record.tags or ())):
            carriers.setdefault(" ".join(words_of(label_words(label))), set()).add(row)
    phrases = sorted(carriers)
    alike: dict[str, list[str]] = {}
    for phrase, stems in zip(phrases, Bm25Index(phrases).stems(), strict=True):
        alike.setdefault(stems, []).append(phrase)
    alike.pop("", None)
    found = {
        min(group, key=len): np.array(sorted(set().union(*(carriers[one] for one in group))), np.int64)
        for group in alike.values()
    }
    return {text: own for text, own in found.items() if 2 <= len(own) <= MAX_SHARE * len(rows)}


def _item(record: ItemRecord, category: Category, *, has_all_words: bool) -> Item:
    item = Item(
        sku=record.sku, title=record.fields.get("title", ""), description=record.fields.get("description", ""),
        category=category,
    )  # fmt: skip
    own = "\n".join(part for part in (item.title, item.description) if part)
    item.search_text = search_text_of(item, _tags(record)) if has_all_words else own
    return item


def _tags(record: ItemRecord) -> list[str]:
    return tags_clean(record.tags or ())


def _image(photo: int, item_id: int) -> ItemImage:
    """No file stands behind it: only its row is read."""
    sha256 = f"{photo:064x}"
    return ItemImage(
        item_id=item_id, image_sha256=sha256, upload_sha256=sha256, extension="jpg", width=400, height=400,
        size_bytes=40_000, colour="#808080", position=photo,
    )  # fmt: skip
