"""Faults planted one by one (reliability row D1): each is found, and repaired to clean."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django import DjangoCaptureOnCommitCallbacks

from searchapp.models import (
    AuditEvent,
    EvaluationQuery,
    GalleryChange,
    GalleryCounter,
    GalleryEntry,
    Item,
    ItemImage,
    Job,
    JobState,
    Provenance,
)
from searchapp.services import catalogue, index_audit, search, serving, snapshots, versions
from searchapp.services.file_audit import FILE_LOST
from tests.searchapp.galleries import encode_missing, item_with_photos, shop

pytestmark = [pytest.mark.django_db, pytest.mark.database]
CLEAN = {
    "missing": 0,
    "extra": 0,
    "code_mismatch": 0,
    "files_missing": 0,
    "files_orphan": 0,
    "files_bad_sha": 0,
    "item_mismatch": 0,
    "unencoded": 0,
    "manifest_ok": True,
    "version": "1.0",
    "details": {},
}


class Gallery:
    """Six encoded items, a snapshot, and two photos that came after it."""

    def __init__(self, data_dir: Path, photos: list[bytes]) -> None:
        self.data_dir = data_dir
        self.items = shop(photos)
        Job.objects.update(state=JobState.DONE)
        self.snapshot = snapshots.snapshot_write(versions.champion().version)
        item_with_photos("late", photos[8:10])
        encode_missing()
        Job.objects.update(state=JobState.DONE)

    @property
    def first_image(self) -> ItemImage:
        return self.items[0].images.get()

    def column(self, name: str) -> np.ndarray[Any, Any]:
        column: np.ndarray[Any, Any] = np.load(self.snapshot / f"{name}.npy")
        return column

    def rewrite(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """Change a snapshot file and make its manifest agree: what no checksum can notice."""
        np.save(self.snapshot / f"{name}.npy", array)
        data = (self.snapshot / f"{name}.npy").read_bytes()
        self.manifest(
            lambda content: content["files"].update(
                {f"{name}.npy": [hashlib.sha256(data).hexdigest(), len(data)]}
            )
        )

    def manifest(self, change: Callable[[dict[str, Any]], object]) -> None:
        content = json.loads((self.snapshot / "manifest.json").read_text())
        content.pop("digest")
        change(content)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        (self.snapshot / "manifest.json").write_text(
            json.dumps({**content, "digest": digest}, indent=1, sort_keys=True)
        )


@pytest.fixture
def gallery(data_dir: Path, photos: list[bytes]) -> Gallery:
    return Gallery(data_dir, photos)


def delete_row_behind_the_trigger(entry: GalleryEntry) -> None:
    """What the triggers refuse: an entry goes although its photo stays."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT sql FROM sqlite_master WHERE name = 'gallery_entry_no_delete'")
            (create,) = cursor.fetchone()
            cursor.execute("DROP TRIGGER gallery_entry_no_delete")
            cursor.execute("DELETE FROM searchapp_galleryentry WHERE id = %s", [entry.pk])
            cursor.execute(create)
        else:
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute("DELETE FROM searchapp_galleryentry WHERE id = %s", [entry.pk])
            cursor.execute("SET LOCAL session_replication_role = DEFAULT")


def audited() -> dict[str, Any]:
    return index_audit.audit().as_dict()


def entry_deleted_from_the_rows(gallery: Gallery) -> dict[str, Any]:
    delete_row_behind_the_trigger(gallery.first_image.entries.get())
    return {"extra": 1, "unencoded": 1, "db_rows": 7, "index_rows": 8}


def entry_after_the_snapshot_deleted_from_the_rows(gallery: Gallery) -> dict[str, Any]:
    delete_row_behind_the_trigger(GalleryEntry.objects.latest("pk"))
    return {"extra": 1, "unencoded": 1, "db_rows": 7, "index_rows": 8}


def entry_added_without_telling_the_followers(gallery: Gallery) -> dict[str, Any]:
    image = gallery.first_image
    image.pk, image.upload_sha256 = None, "f" * 64
    image._state.adding = True
    image.save()
    row = GalleryEntry.objects.earliest("pk")
    GalleryEntry.objects.create(
        image=image, image_sha256=image.image_sha256, producer=row.producer, provenance=Provenance.ENCODED,
        code=bytes(row.code), embedding=bytes(row.embedding),
    )  # fmt: skip
    return {"missing": 1, "db_rows": 9, "index_rows": 8}


def extra_id_in_the_snapshot(gallery: Gallery) -> dict[str, Any]:
    for name in ("entry_ids", "image_ids", "item_ids", "producers", "codes", "embeddings"):
        column = gallery.column(f"entries.{name}")
        grown = np.concatenate([column, column[-1:]])
        if name in {"entry_ids", "image_ids"}:
            grown[-1] = 999_999
        gallery.rewrite(f"entries.{name}", grown)
    return {"extra": 1, "index_rows": 9}


def row_missing_from_the_snapshot(gallery: Gallery) -> dict[str, Any]:
    for name in ("entry_ids", "image_ids", "item_ids", "producers", "codes", "embeddings"):
        gallery.rewrite(f"entries.{name}", gallery.column(f"entries.{name}")[1:])
    return {"missing": 1, "index_rows": 7}


def flipped_code_bit(gallery: Gallery) -> dict[str, Any]:
    codes = gallery.column("entries.codes")
    codes[3, 5] ^= 16
    gallery.rewrite("entries.codes", codes)
    return {"code_mismatch": 1}


def flipped_code_bit_on_the_disk(gallery: Gallery) -> dict[str, Any]:
    path = gallery.snapshot / "entries.codes.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return {"code_mismatch": 1, "manifest_ok": False}


def swapped_ids(gallery: Gallery) -> dict[str, Any]:
    ids = gallery.column("entries.entry_ids")
    ids[[0, 1]] = ids[[1, 0]]
    gallery.rewrite("entries.entry_ids", ids)
    return {"code_mismatch": 2}


def truncated_snapshot_file(gallery: Gallery) -> dict[str, Any]:
    path = gallery.snapshot / "entries.embeddings.npy"
    path.write_bytes(path.read_bytes()[:-10])
    return {"manifest_ok": False}


def stale_manifest(gallery: Gallery) -> dict[str, Any]:
    gallery.manifest(lambda content: content.update(sequence=GalleryCounter.objects.get().value + 5))
    return {"manifest_ok": False}


def manifest_of_another_version(gallery: Gallery) -> dict[str, Any]:
    gallery.manifest(lambda content: content.update(identity="other:gallery:"))
    return {"manifest_ok": False}


def manifest_lost(gallery: Gallery) -> dict[str, Any]:
    (gallery.snapshot / "manifest.json").unlink()
    return {"manifest_ok": False}


def one_change_lost(gallery: Gallery) -> dict[str, Any]:
    GalleryChange.objects.filter(kind="entry_added").latest("pk").delete()
    return {"missing": 1}


def changes_of_one_number_lost(gallery: Gallery) -> dict[str, Any]:
    GalleryChange.objects.filter(sequence=GalleryCounter.objects.get().value).delete()
    return {"manifest_ok": False}


def wrong_price_in_the_snapshot(gallery: Gallery) -> dict[str, Any]:
    prices = gallery.column("items.prices")
    prices[0] = 77.0
    gallery.rewrite("items.prices", prices)
    return {"item_mismatch": 1}


def wrong_tag_in_the_snapshot(gallery: Gallery) -> dict[str, Any]:
    gallery.rewrite("items.tag_ids", gallery.column("items.tag_ids")[:-1])
    gallery.rewrite("items.tag_rows", gallery.column("items.tag_rows")[:-1])
    return {"item_mismatch": 1}


def picture_missing(gallery: Gallery) -> dict[str, Any]:
    (gallery.data_dir / "media" / gallery.first_image.path).unlink()
    return {"files_missing": 1}


def picture_of_no_bytes(gallery: Gallery) -> dict[str, Any]:
    (gallery.data_dir / "media" / gallery.first_image.path).write_bytes(b"")
    return {"files_bad_sha": 1}


def picture_with_a_flipped_bit(gallery: Gallery) -> dict[str, Any]:
    path = gallery.data_dir / "media" / gallery.first_image.path
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    return {"files_bad_sha": 1}


def thumbnail_missing(gallery: Gallery) -> dict[str, Any]:
    (gallery.data_dir / "media" / gallery.first_image.thumbnail).unlink()
    return {"files_missing": 1}


def thumbnail_of_no_bytes(gallery: Gallery) -> dict[str, Any]:
    (gallery.data_dir / "media" / gallery.first_image.thumbnail).write_bytes(b"")
    return {"files_missing": 1}


def orphan_picture(gallery: Gallery) -> dict[str, Any]:
    path = gallery.data_dir / "media" / "images" / "ab" / ("ab" * 32 + ".jpg")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"nobody's")
    return {"files_orphan": 1}


FAULTS = [
    entry_deleted_from_the_rows,
    entry_after_the_snapshot_deleted_from_the_rows,
    entry_added_without_telling_the_followers,
    extra_id_in_the_snapshot,
    row_missing_from_the_snapshot,
    flipped_code_bit,
    flipped_code_bit_on_the_disk,
    swapped_ids,
    truncated_snapshot_file,
    stale_manifest,
    manifest_of_another_version,
    manifest_lost,
    one_change_lost,
    changes_of_one_number_lost,
    wrong_price_in_the_snapshot,
    wrong_tag_in_the_snapshot,
    picture_missing,
    picture_of_no_bytes,
    picture_with_a_flipped_bit,
    thumbnail_missing,
    thumbnail_of_no_bytes,
    orphan_picture,
]


def test_a_gallery_as_the_product_left_it_is_clean(gallery: Gallery) -> None:
    assert audited() == {"db_rows": 8, "index_rows": 8, **CLEAN}


def test_deletions_and_edits_after_the_snapshot_are_no_faults(
    gallery: Gallery, photos: list[bytes], django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        catalogue.item_delete(item=gallery.items[1])
        catalogue.item_update(item=gallery.items[2], price="8.00", tags=["new"])
        catalogue.image_delete(image=Item.objects.get(sku="late").images.earliest("pk"))

    assert audited() == {"db_rows": 6, "index_rows": 6, **CLEAN}


def test_without_any_snapshot_the_changes_alone_are_the_index(data_dir: Path, photos: list[bytes]) -> None:
    shop(photos)
    Job.objects.update(state=JobState.DONE)

    assert audited() == {"db_rows": 6, "index_rows": 6, **CLEAN}


def test_an_installation_without_a_version_is_clean_and_empty() -> None:
    assert audited() == {"db_rows": 0, "index_rows": 0, **CLEAN, "version": None}


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_each_planted_fault_is_found_and_repaired_to_clean(
    gallery: Gallery, plant: Callable[[Gallery], dict[str, Any]]
) -> None:
    expected = plant(gallery)

    found = audited()
    assert {name: found[name] for name in expected} == expected
    with pytest.raises(CommandError, match="not clean"):
        call_command("index_audit", stdout=io.StringIO())

    output = io.StringIO()
    call_command("index_audit", "--repair", "--json", stdout=output)

    answer = json.loads(output.getvalue())
    assert {name: answer[name] for name in CLEAN} == CLEAN
    assert answer["repaired"] == found
    assert audited() == {"db_rows": answer["db_rows"], "index_rows": answer["db_rows"], **CLEAN}
    assert AuditEvent.objects.filter(action="index_audit.repair").count() == 1
    served = serving.follow_once().champion.view.compacted_entries()
    rows = dict(GalleryEntry.objects.values_list("pk", "code"))
    assert {pk: code.tobytes() for pk, code in zip(served.entry_ids.tolist(), served.codes)} == {
        pk: bytes(code) for pk, code in rows.items()
    }


def test_a_repair_reaches_processes_that_serve_the_fault_from_memory(
    gallery: Gallery, photos: list[bytes]
) -> None:
    """A forged code is in memory; after the repair the follower reads rows again, though no entry changed."""
    codes = gallery.column("entries.codes")
    codes[0] ^= 255
    gallery.rewrite("entries.codes", codes)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(snapshots, "_agrees_with_rows", lambda _: True)
        serving.follow_once()
    assert search.search_by_image(data=photos[0]).results[0].sku != "apple-0"

    call_command("index_audit", "--repair", stdout=io.StringIO())

    assert search.search_by_image(data=photos[0]).results[0].sku == "apple-0"


def test_a_lost_picture_is_owned_up_to_on_its_photo(gallery: Gallery) -> None:
    image = gallery.first_image
    (gallery.data_dir / "media" / image.path).unlink()

    call_command("index_audit", "--repair", stdout=io.StringIO())

    image.refresh_from_db()
    assert image.failure == FILE_LOST
    assert image.entries.count() == 1  # its code still finds the item


def test_a_held_out_query_whose_picture_is_lost_is_no_query_any_more(gallery: Gallery) -> None:
    photo = gallery.first_image
    EvaluationQuery.objects.create(
        source="pack:gone", split="test", image_sha256="0" * 64, upload_sha256="0" * 64, extension="jpg",
        relevance="item", item=gallery.items[0], category=photo.item.category,
    )  # fmt: skip
    assert audited()["files_missing"] == 2  # the picture and its thumbnail

    call_command("index_audit", "--repair", stdout=io.StringIO())

    assert not EvaluationQuery.objects.exists()


def test_photos_that_wait_for_a_job_are_no_fault_and_without_one_they_are(
    gallery: Gallery, photos: list[bytes]
) -> None:
    item_with_photos("new", photos[10:11])
    assert audited()["unencoded"] == 0

    Job.objects.update(state=JobState.CANCELLED)

    assert audited()["unencoded"] == 1


def test_the_auditor_shares_no_code_with_the_indexer() -> None:
    import ast

    from searchapp.services import file_audit

    for module in (index_audit, file_audit):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        ours = {name for name in names if name and name.startswith(("ml", "searchapp"))}
        assert ours <= {"searchapp.models", "searchapp.services.file_audit"}
