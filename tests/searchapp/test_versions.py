"""The shipped version is registered once, kept by content, and opened once per process."""

from pathlib import Path
from uuid import uuid4

import pytest

from ml.artifacts import BundleError, read_manifest
from searchapp.exceptions import IncompatibleVersion, Unavailable
from searchapp.models import Deployment, ModelVersion
from searchapp.services import versions

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_the_first_version_is_the_shipped_bundle_and_answers_every_query(
    data_dir: Path, bundle_path: Path
) -> None:
    version = versions.default_version_ensure()

    assert version.name == "1.0"
    assert version.digest == read_manifest(bundle_path).digest
    assert versions.champion().version == version
    assert versions.champion().share == 100
    assert (data_dir / "models" / version.digest / "manifest.json").exists()


def test_ensuring_the_first_version_twice_changes_nothing(data_dir: Path) -> None:
    first = versions.default_version_ensure()

    assert versions.default_version_ensure() == first
    assert ModelVersion.objects.count() == 1
    assert Deployment.objects.count() == 1


def test_a_database_without_a_version_is_unavailable_not_broken() -> None:
    with pytest.raises(Unavailable, match="No model version is in use yet"):
        versions.champion()


def test_the_encoder_is_opened_once_per_process(data_dir: Path) -> None:
    version = versions.default_version_ensure()

    assert versions.encoder_of(version) is versions.encoder_of(version)


def test_a_process_keeps_a_few_encoders_open_however_many_versions_came(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = versions.default_version_ensure()
    bundle = versions.bundle_of(version)
    monkeypatch.setattr(versions, "bundle_of", lambda _version: bundle)
    first = versions.encoder_of(version)
    later = [ModelVersion(digest=str(number) * 64) for number in range(versions.MOST_OPEN)]
    opened = [versions.encoder_of(one) for one in later]

    assert [versions.encoder_of(one) is encoder for one, encoder in zip(later, opened, strict=True)] == [
        True
    ] * 4
    assert versions.encoder_of(version) is not first


def test_a_lost_copy_of_the_shipped_bundle_is_restored_from_it(data_dir: Path) -> None:
    version = versions.default_version_ensure()
    stored = data_dir / "models" / version.digest
    stored.rename(data_dir / "elsewhere")

    assert versions.bundle_of(version).digest == version.digest
    assert stored.exists()


def test_a_flipped_bit_in_a_stored_bundle_is_refused_before_it_is_loaded(data_dir: Path) -> None:
    version = versions.default_version_ensure()
    graph = data_dir / "models" / version.digest / "encoder.onnx"
    damaged = bytearray(graph.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    graph.write_bytes(damaged)

    with pytest.raises(BundleError, match=r"encoder\.onnx: SHA-256 is"):
        versions.bundle_of(version)


@pytest.mark.parametrize("name", ["2.0", "1", "x", "", "1.0.0", "1." + "9" * 40, "١.٠"])
def test_an_unknown_version_is_named_with_those_that_are_known(data_dir: Path, name: str) -> None:
    versions.default_version_ensure()

    with pytest.raises(IncompatibleVersion, match=r"known: 1\.0"):
        versions.version_named(name)


def test_only_versions_of_one_lineage_may_be_compared(data_dir: Path) -> None:
    first = versions.default_version_ensure()
    sizes = {"code_bits": first.code_bits, "dimension": first.dimension}

    assert versions.lineage_compatible(ModelVersion(major=1, minor=1, lineage=first.lineage, **sizes), first)
    assert not versions.lineage_compatible(ModelVersion(major=2, minor=0, lineage=uuid4(), **sizes), first)
