"""Small real data sets, read once and shared: tests must not change them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from ml.data.packs import open_pack
from ml.experiments.data import Dataset, few, open_dataset
from tests.conftest import missing
from tests.ml.small_packs import cut_pack

TINY = 8  # pixels a side: for what does not depend on the size


@pytest.fixture(scope="session")
def tiny_pack(data_packs: Path) -> Callable[[str], Dataset]:
    """Opens a whole pack by name, each once, at 8 pixels."""
    return cache(lambda name: open_dataset(data_packs / name, size=TINY))


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


@pytest.fixture(scope="session")
def small_packs(data_packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small cut of each pack that base versions are trained on."""
    folder = tmp_path_factory.mktemp("packs")
    for name in ("grocery", "clothing", "places_indoor"):
        cut_pack(open_pack(data_packs / name), folder / name)
    return folder
