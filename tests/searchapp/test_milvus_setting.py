"""GALLERY_INDEX=milvus changes the engine and nothing else: the same answers to the same questions."""

from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from searchapp.services import catalogue, search, serving
from searchapp.services.search_options import SearchOptions
from tests.searchapp.galleries import shop

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("data_dir")]


def answers(photos: list[bytes]) -> list[list[tuple[str, float, int | None]]]:
    options = [SearchOptions(), SearchOptions(category="Drink"), SearchOptions(tag=["red"])]
    found = [search.search_by_image(data=photos[0], options=option).results for option in options]
    return [[(result.row.sku, round(result.score, 6), result.hamming) for result in part] for part in found]


def test_milvus_answers_as_faiss_does_and_forgets_what_was_deleted(
    photos: list[bytes], tmp_path: Path, settings: Settings
) -> None:
    items = shop(photos)
    by_faiss = answers(photos)
    serving.forget()
    settings.GALLERY_INDEX, settings.MILVUS_URI = "milvus", str(tmp_path / "milvus.db")

    assert answers(photos) == by_faiss
    assert len(by_faiss[0]) == 6

    catalogue.item_delete(item=items[0])
    assert "apple-0" not in [sku for sku, *_ in answers(photos)[0]]
