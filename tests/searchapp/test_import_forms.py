"""An import in each of its forms, from real photos, with the rows that come of it."""

import csv
import gzip
import io
import json
import shutil
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from ml.data.packs import LABELS_FILE
from ml.data.reserved import load_reserved
from searchapp.exceptions import InvalidInput
from searchapp.models import Category, EvaluationQuery, GalleryEntry, Item, ItemImage, Job
from searchapp.services import catalogue, importing, sample_catalogue
from searchapp.services.jobs import job_run_here
from tests.searchapp.imports import apple, counts, csv_catalogue, imported
from tests.searchapp.pictures import encoded, gradient

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_a_csv_brings_every_column_and_every_photo(
    data_dir: Path, tmp_path: Path, photos: list[bytes]
) -> None:
    rows = [
        apple(0, title="Granny Smith", images="photos/p0.jpg|photos/p1.jpg", tags="green|sour", price="2.50",
              currency="EUR", url="https://example.org/a", description="An apple"),
        {"sku": "tower", "category": "Towers", "images": "photos/p2.jpg", "vertical": "landmark",
         "latitude": "59.33", "longitude": "18.06", "title": "The tower"},
    ]  # fmt: skip
    path = csv_catalogue(tmp_path / "shop", photos[:3], rows)

    report = imported(path)

    assert counts(report) == [2, 0, 0, 0]
    assert (report["images_added"], report["errors"], report["evaluation_queries"]) == (3, [], 0)
    item = Item.objects.get(sku="apple-0")
    assert (item.title, str(item.price), item.currency, item.category.path) == (
        "Granny Smith",
        "2.50",
        "EUR",
        "Fruit > Apple",
    )
    assert sorted(tag.name for tag in item.tags.all()) == ["green", "sour"]
    assert item.search_text == "Granny Smith\nAn apple\nFruit Apple\ngreen sour"
    assert [image.position for image in item.images.all()] == [0, 1]
    tower = Item.objects.get(sku="tower")
    assert (tower.category.vertical, tower.latitude, tower.longitude) == ("landmark", 59.33, 18.06)
    assert GalleryEntry.objects.count() == 3
    assert Job.objects.filter(kind="encode_images").count() == 0  # encoded on the way


def test_a_folder_of_class_folders_makes_each_photo_an_item(
    data_dir: Path, tmp_path: Path, photos: list[bytes]
) -> None:
    root = tmp_path / "fruit shop"
    for number, name in enumerate(
        ["Fruit/Apple/a.jpg", "Fruit/Apple/b.jpg", "Fruit/Pear/a.jpg", "Fruit/Pear/a.png"]
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(photos[number])
    (root / "Fruit" / "notes.txt").write_text("not a photo")
    (root / "Fruit" / "Apple" / ".hidden.jpg").write_bytes(photos[5])
    (root / "loose.jpg").write_bytes(photos[6])

    report = imported(root)

    assert counts(report) == [3, 0, 0, 1]
    assert report["errors"] == [
        {"row": 5, "field": "category", "message": "'loose.jpg' lies in no class folder"}
    ]
    found = {item.sku: (item.category.path, item.images.count()) for item in Item.objects.all()}
    assert found == {
        "Fruit/Apple/a": ("Fruit > Apple", 1),
        "Fruit/Apple/b": ("Fruit > Apple", 1),
        "Fruit/Pear/a": ("Fruit > Pear", 2),
    }


def test_a_folder_can_make_each_folder_an_item(data_dir: Path, tmp_path: Path, photos: list[bytes]) -> None:
    for number, name in enumerate(["Hats/red hat/1.jpg", "Hats/red hat/2.jpg", "Hats/blue-hat/1.jpg"]):
        (tmp_path / "shop" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shop" / name).write_bytes(photos[number])

    assert counts(imported(tmp_path / "shop", items="folders")) == [2, 0, 0, 0]

    rows = Item.objects.values_list("sku", "title", "category__path").order_by("sku")
    assert list(rows) == [("Hats/blue-hat", "blue hat", "Hats"), ("Hats/red hat", "red hat", "Hats")]


def test_outermost_folders_named_after_splits_are_splits(
    data_dir: Path, tmp_path: Path, photos: list[bytes]
) -> None:
    for number, name in enumerate(
        ["train/Apple/1.jpg", "val/Apple/2.jpg", "test/Apple/3.jpg", "extra/Apple/4.jpg"]
    ):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(photos[number])

    report = imported(tmp_path / "set")

    assert (counts(report), report["evaluation_queries"]) == ([2, 0, 0, 0], 1)
    query = EvaluationQuery.objects.get()
    assert (query.source, query.split, query.relevance) == ("set:test/Apple/3.jpg", "test", "category")
    assert not ItemImage.objects.filter(image_sha256=query.image_sha256).exists()


def small_pack(data_packs: Path, name: str, target: Path, keep: int) -> Path:
    """A pack of the real one's shards and every `keep`-th of its rows."""
    folder = target / name
    folder.mkdir(parents=True)
    lines = list(csv.reader((data_packs / name / LABELS_FILE).open(encoding="utf-8", newline="")))
    with (folder / LABELS_FILE).open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([lines[0], *lines[1::keep]])
    for shard in (data_packs / name).glob("*.tar"):
        shutil.copyfile(shard, folder / shard.name)
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / LABELS_FILE).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


CATALOGUE = {"train", "val", "iconic", "gallery"}
HELD_OUT = {"test", "query"}


def test_a_pack_of_classes_becomes_one_item_a_class(data_dir: Path, tmp_path: Path, data_packs: Path) -> None:
    folder = small_pack(data_packs, "grocery", tmp_path, keep=40)
    reserved = load_reserved().reserved["grocery"]
    rows = [row for row in rows_of(folder) if row["class"] not in reserved]
    photos = Counter(row["class"] for row in rows if row["split"] in CATALOGUE)

    report = imported(folder)

    assert counts(report) == [len(photos), 0, 0, 0]
    assert report["evaluation_queries"] == sum(row["split"] in HELD_OUT for row in rows)
    first = next(row for row in rows if row["split"] in CATALOGUE)
    item = Item.objects.get(sku=f"grocery:{first['class']}")
    assert (item.title, item.description) == (first["title"], first["description"])
    assert item.category.path == f"{first['group']} > {first['coarse_class']} > {first['class']}"
    assert {item.sku: item.images.count() for item in Item.objects.all()} == {
        f"grocery:{name}": count for name, count in photos.items()
    }
    relevances = {query.source: (query.relevance, query.item_id) for query in EvaluationQuery.objects.all()}
    for row in rows:
        if row["split"] in HELD_OUT:
            known = Item.objects.filter(sku=f"grocery:{row['class']}").first()
            expected = ("item", known.pk) if known else ("category", None)
            assert relevances[f"grocery:{row['path']}"] == expected
    uploads = set(ItemImage.objects.values_list("upload_sha256", flat=True))
    assert not uploads & set(EvaluationQuery.objects.values_list("upload_sha256", flat=True))


def test_a_pack_of_photos_leaves_out_reserved_and_unlabelled_ones(
    data_dir: Path, tmp_path: Path, data_packs: Path
) -> None:
    folder = small_pack(data_packs, "clothing", tmp_path, keep=60)
    reserved = load_reserved().reserved["clothing"]
    rows = [row for row in rows_of(folder) if row["class"] not in reserved]
    wanted = [row for row in rows if row["split"] in CATALOGUE]

    report = imported(folder)

    assert counts(report) == [len(wanted), 0, 0, 0]
    assert sorted(Item.objects.values_list("sku", flat=True)) == sorted(
        f"clothing:{Path(row['path']).stem}" for row in wanted
    )
    assert not Category.objects.filter(path__in=reserved).exists()
    assert set(EvaluationQuery.objects.values_list("relevance", flat=True)) == {"category"}
    assert not EvaluationQuery.objects.filter(item__isnull=False).exists()


def test_a_pack_of_products_groups_photos_and_tags(data_dir: Path, tmp_path: Path, data_packs: Path) -> None:
    folder = small_pack(data_packs, "catalog", tmp_path, keep=6)
    rows = [row for row in rows_of(folder) if row["product_id"] not in load_reserved().reserved["catalog"]]
    wanted = [row for row in rows if row["split"] in CATALOGUE]

    imported(folder)

    products = {row["product_id"] for row in wanted}
    assert set(Item.objects.values_list("sku", flat=True)) == {f"catalog:{product}" for product in products}
    product = wanted[0]["product_id"]
    item = Item.objects.get(sku=f"catalog:{product}")
    assert item.category.path == f"{wanted[0]['coarse_class']} > {wanted[0]['class']}"
    expected = {tag for row in wanted if row["product_id"] == product for tag in row["tags"].split("|")}
    assert {tag.name for tag in item.tags.all()} == {tag.lower() for tag in expected}


def test_a_pack_of_places_becomes_landmarks(data_dir: Path, tmp_path: Path, data_packs: Path) -> None:
    folder = small_pack(data_packs, "places_indoor", tmp_path, keep=60)
    rows = [
        row for row in rows_of(folder) if row["place_id"] not in load_reserved().reserved["places_indoor"]
    ]
    places = {row["place_id"]: row["class"] for row in rows if row["split"] == "gallery"}

    report = imported(folder)

    assert counts(report) == [len(places), 0, 0, 0]
    found = dict(Item.objects.values_list("sku", "category__path"))
    assert found == {f"places_indoor:{place}": f"{floor} > {place}" for place, floor in places.items()}
    assert set(Category.objects.values_list("vertical", flat=True)) == {"landmark"}


def test_splits_and_reserved_classes_can_be_asked_for(
    data_dir: Path, tmp_path: Path, data_packs: Path
) -> None:
    folder = small_pack(data_packs, "grocery", tmp_path, keep=60)
    rows = rows_of(folder)

    report = imported(folder, splits=("iconic",), include_reserved=True)

    assert counts(report) == [sum(row["split"] == "iconic" for row in rows), 0, 0, 0]
    assert report["evaluation_queries"] == 0
    with pytest.raises(InvalidInput, match="'nonsense' is unknown, allowed: train, val"):
        importing.ImportOptions(splits=("nonsense",))


def test_the_files_of_mnist_become_items_and_held_out_queries(
    data_dir: Path, tmp_path: Path, data_packs: Path
) -> None:
    folder = tmp_path / "fashion_mnist"
    folder.mkdir()
    shutil.copyfile(data_packs / "fashion_mnist" / "classes.csv", folder / "classes.csv")
    for stem, count in (("train", 12), ("t10k", 5)):
        for kind, head, size in (("images-idx3", 16, 784), ("labels-idx1", 8, 1)):
            name = f"{stem}-{kind}-ubyte.gz"
            raw = gzip.decompress((data_packs / "fashion_mnist" / name).read_bytes())
            cut = raw[:4] + struct.pack(">I", count) + raw[8 : head + size * count]
            (folder / name).write_bytes(gzip.compress(cut))

    report = imported(folder)

    assert (counts(report), report["evaluation_queries"]) == ([12, 0, 0, 0], 5)
    first = Item.objects.get(sku="fashion_mnist:train-00000")
    assert first.category.path == "Ankle boot"  # the first label of the published file is 9
    assert (first.images.get().width, first.images.get().extension) == (28, "png")
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"nonsense"))
    with pytest.raises(InvalidInput, match=r"train-labels-idx1-ubyte\.gz is not an IDX file"):
        importing.import_preview(path=folder, options=importing.ImportOptions(), progress=lambda *_: None)


def zipped_folder(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{prefix}{path.relative_to(folder)}")
    return target


@pytest.mark.parametrize("prefix", ["", "shop/"])
def test_a_zip_is_what_lies_in_it(data_dir: Path, tmp_path: Path, photos: list[bytes], prefix: str) -> None:
    csv_catalogue(tmp_path / "shop", photos[:2], [apple(0), apple(1)])

    report = imported(zipped_folder(tmp_path / "shop", tmp_path / "shop.zip", prefix))

    assert counts(report) == [2, 0, 0, 0]
    assert not list((data_dir / "imports").iterdir())  # unpacked and cleared away


def test_an_uploaded_zip_is_imported_once_and_forgotten(
    data_dir: Path, tmp_path: Path, photos: list[bytes]
) -> None:
    csv_catalogue(tmp_path / "shop", photos[:2], [apple(0), apple(1)])
    data = zipped_folder(tmp_path / "shop", tmp_path / "shop.zip").read_bytes()

    jobs = []
    for _ in range(5):
        source = importing.import_upload_store([data[:100], data[100:]], "../My shop\r\n.zip")
        jobs.append(importing.import_start(source=source, idempotency_key="key-1"))
    assert len({job.pk for job in jobs}) == 1
    assert len(list((data_dir / "imports").iterdir())) == 1

    assert counts(job_run_here(jobs[0]).result or {}) == [2, 0, 0, 0]
    assert list((data_dir / "imports").iterdir()) == []
    later = importing.import_start(source=importing.import_upload_store([data], "shop.zip"))
    assert counts(job_run_here(later).result or {}) == [0, 0, 2, 0]


def test_an_uploaded_csv_can_change_items_that_have_photos_already(
    data_dir: Path, tmp_path: Path, photos: list[bytes]
) -> None:
    imported(csv_catalogue(tmp_path / "shop", photos[:1], [apple(0)]))
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerows([["sku", "category", "images", "title"], ["apple-0", "Fruit > Apple", "", "New title"],
                      ["apple-1", "Fruit > Apple", "", "No photo"]])  # fmt: skip

    source = importing.import_upload_store([table.getvalue().encode()], "changes.csv")
    report = job_run_here(importing.import_start(source=source)).result or {}

    assert counts(report) == [0, 1, 0, 1]
    assert report["errors"] == [
        {"row": 3, "field": "images", "message": "it is required: the item has no photo yet"}
    ]
    assert Item.objects.get().title == "New title"


def test_a_path_that_holds_no_catalogue_tells_what_was_looked_for(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    for path, words in {
        "empty": "Looked for: a data pack .* columns sku, category, images, folders named after classes",
        "notes.txt": "is neither a folder, nor a .csv, nor a .zip",
        "nothing": "There is nothing at",
    }.items():
        with pytest.raises(InvalidInput, match=words):
            importing.import_preview(
                path=tmp_path / path, options=importing.ImportOptions(), progress=lambda *_: None
            )


def test_the_command_prints_one_json_object(
    data_dir: Path, tmp_path: Path, photos: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:

    path = csv_catalogue(tmp_path / "shop", photos[:2], [apple(0), apple(1)])
    call_command("import_catalogue", str(path), "--json")
    assert counts(json.loads(capsys.readouterr().out)) == [2, 0, 0, 0]
    call_command("import_catalogue", str(path))
    assert capsys.readouterr().out.startswith("0 created, 0 updated, 2 unchanged, 0 failed")


def test_the_sample_catalogue_falls_back_to_drawings_and_says_so_and_loads_once(
    data_dir: Path, tmp_path: Path, settings: Any
) -> None:
    settings.SAMPLE_DATA = tmp_path / "nowhere"
    messages: list[str] = []

    first = sample_catalogue.sample_load(lambda _done, _total, message: messages.append(message))
    rows = (Item.objects.count(), ItemImage.objects.count(), GalleryEntry.objects.count())
    second = sample_catalogue.sample_load(lambda _done, _total, _message: None)

    assert "DRAWN" in first["message"]
    assert first["message"] in messages
    assert rows == (30, 120, 120)
    assert (Item.objects.count(), second) == (30, first)
    assert Job.objects.count() == 1


def test_the_sample_catalogue_loads_packs_once(
    data_dir: Path, tmp_path: Path, data_packs: Path, settings: Any
) -> None:
    settings.SAMPLE_DATA = tmp_path
    small_pack(data_packs, "grocery", tmp_path, keep=80)

    first = sample_catalogue.sample_load(lambda _done, _total, _message: None)
    second = sample_catalogue.sample_load(lambda _done, _total, _message: None)

    assert first == second
    assert first["message"].endswith("clothing, catalog, places_indoor")
    assert Job.objects.count() == 1


def test_a_later_edit_is_kept_when_a_column_is_not_in_the_file(
    data_dir: Path, tmp_path: Path, photos: list[bytes]
) -> None:
    path = csv_catalogue(tmp_path / "shop", photos[:1], [apple(0)])
    imported(path)
    catalogue.item_update(item=Item.objects.get(), title="By hand", tags=["mine"])

    assert counts(imported(path)) == [0, 0, 1, 0]
    assert Item.objects.get().title == "By hand"


def test_a_photo_too_odd_to_name_a_type_is_reported_by_its_path(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "set" / "Apple").mkdir(parents=True)
    (tmp_path / "set" / "Apple" / "a.gif").write_bytes(encoded(gradient(), "GIF"))
    report = imported(tmp_path / "set")
    assert counts(report) == [0, 0, 0, 1]
    assert report["errors"][0]["message"].startswith(
        "Apple/a.gif: That file is a GIF. Send a JPEG, PNG or WebP"
    )
