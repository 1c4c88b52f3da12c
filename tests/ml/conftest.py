"""Small real data sets, read once and shared: tests must not change them."""

from pathlib import Path

import pytest

from ml.experiments.data import Dataset, few, open_dataset
from tests.conftest import missing


@pytest.fixture(scope="session")
def small_grocery(data_packs: Path) -> Dataset:
    """Shelf photos at 64 pixels: ten classes, at most eight photos of a class in each part."""
    return few(open_dataset(data_packs / "grocery"), per_class=8, classes=10)


@pytest.fixture(scope="session")
def fashion(data_packs: Path) -> Dataset:
    """All 70,000 pictures of Fashion-MNIST, (N, 1, 28, 28); read in well under a second."""
    folder = data_packs / "fashion_mnist"
    if not folder.is_dir():
        missing(f"Fashion-MNIST in {folder}")
    return open_dataset(folder)


@pytest.fixture(scope="session")
def small_fashion(fashion: Dataset) -> Dataset:
    """At most 40 pictures of each of the ten classes in each part."""
    return few(fashion, per_class=40)
