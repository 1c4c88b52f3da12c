"""What the database itself refuses, on SQLite and PostgreSQL; a migration that loses a trigger fails here."""

from pathlib import Path

import pytest
from django.db import connection

from searchapp.models import GalleryEntry, ItemImage
from tests.searchapp.galleries import shop
from tests.searchapp.gallery_guards import assert_entries_are_append_only

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_an_entry_is_never_changed_and_deleted_only_with_its_photo(
    data_dir: Path, photos: list[bytes]
) -> None:
    shop(photos)

    assert_entries_are_append_only()


def test_deleting_a_photo_takes_its_entries_along_and_no_others(data_dir: Path, photos: list[bytes]) -> None:
    items = shop(photos)
    ItemImage.objects.filter(item=items[0]).delete()

    assert GalleryEntry.objects.count() == 5
    assert not GalleryEntry.objects.filter(image__isnull=True).exists()


def test_every_trigger_and_the_text_index_are_there() -> None:
    if connection.vendor == "sqlite":
        statement = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        expected = {"item_text_insert", "item_text_delete", "item_text_update"}
    else:
        statement = (
            "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal UNION SELECT indexname FROM pg_indexes"
        )
        expected = {"searchapp_item_text"}
    with connection.cursor() as cursor:
        cursor.execute(statement)
        names = {row[0] for row in cursor.fetchall()}
    guards = {
        "gallery_entry_no_update",
        "gallery_entry_no_delete",
        "item_image_takes_its_entries",
        "audit_no_update",
        "audit_no_delete",
    }
    assert names >= expected | guards
