"""What every test may lean on: real photos, the shipped bundle, and a clear word about what is missing."""

import ml.threads  # noqa: F401  isort: skip

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_DATA = Path(os.environ.get("SAMPLE_DATA", ROOT.parent / "shared" / "data"))


def missing(part: str) -> None:
    """Skip for want of a real part; under CI that is a failure, never a skip."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{part} is missing, and CI must have it")
    pytest.skip(f"{part} is missing")


@pytest.fixture(scope="session")
def data_packs() -> Path:
    """The folder of data packs (grocery, clothing, catalog, places_indoor)."""
    if not (SAMPLE_DATA / "grocery" / "labels.csv").exists():
        missing(f"sample data in {SAMPLE_DATA}")
    return SAMPLE_DATA


@pytest.fixture(scope="session")
def photos(data_packs: Path) -> list[bytes]:
    """A dozen real JPEGs of different grocery classes, in a fixed order."""
    import csv

    with (data_packs / "grocery" / "labels.csv").open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == "train"]
    first_of_class = list({row["class"]: row for row in reversed(rows)}.values())[::-1][:12]
    return [_member(data_packs / "grocery" / row["shard"], row["path"]) for row in first_of_class]


def _member(shard: Path, path: str) -> bytes:
    import tarfile

    with tarfile.open(shard) as archive:
        member = archive.extractfile(path)
        assert member is not None
        return member.read()


@pytest.fixture(scope="session")
def bundle_path() -> Path:
    return ROOT / "ml" / "weights" / "default"
