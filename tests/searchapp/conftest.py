"""Each test has files of its own; its rows are rolled back, and what this process remembers of them goes with them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from searchapp.services import query_log, serving


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    yield
    serving.forget()
    query_log.forget()


@pytest.fixture
def data_dir(tmp_path: Path, settings: Settings) -> Path:
    """A DATA_DIR of the test's own."""
    settings.DATA_DIR = tmp_path
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.MODEL_DIR = tmp_path / "models"
    settings.SNAPSHOT_DIR = tmp_path / "snapshots"
    settings.IMPORT_DIR = tmp_path / "imports"
    return tmp_path
