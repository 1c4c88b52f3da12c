"""S3 and C4: ten bad candidates, and files that run something when unpickled; each refused, nothing touched."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml.artifacts import BundleError, load_bundle
from searchapp.exceptions import SearchAppError
from searchapp.models import Deployment, Job, ModelVersion
from searchapp.services import base_training, deploying, search, version_intake, versions
from searchapp.services.jobs import job_run_here
from tests.searchapp import outside_bundles as outside
from tests.searchapp.conftest import _nothing_remembered, data_dir
from tests.searchapp.trainings import TINY, class_photos, small_shop

__all__ = ["_nothing_remembered", "data_dir"]  # fixtures
pytestmark = [pytest.mark.fault, pytest.mark.django_db, pytest.mark.timeout(480)]
Bad = Callable[[Path], bytes]


class Payload:
    """Unpickled, it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def payload(marker: Path) -> bytes:
    return pickle.dumps(Payload(marker))


@pytest.fixture
def photo(data_dir: Path, data_packs: Path) -> bytes:
    """A photo to ask with; the shop it is asked in is running."""
    versions.default_version_ensure()
    small_shop(data_packs, classes=2, count=9)
    return next(iter(class_photos(data_packs, 2, 9).values()))[0]


def activated(data: bytes) -> str:
    """Register a bundle and put it in use as an operator does without a word of why; what was said against it."""
    try:
        job = job_run_here(version_intake.version_upload(chunks=[data], name="bundle.zip", user=None))
        if job.error:
            return job.error
        version = versions.version_named((job.result or {})["version"])
        return job_run_here(deploying.version_promote(version=version, user=None)).error
    except SearchAppError as error:
        return error.message


def answered(photo: bytes) -> list[tuple[str, float]]:
    return [(hit.sku, hit.score) for hit in search.search_by_image(data=photo).results]


def test_s3_ten_bad_candidates_are_refused_with_a_reason_each_and_nothing_is_touched(
    photo: bytes, payload: bytes, marker: Path, tmp_path: Path, data_dir: Path
) -> None:
    first = versions.champion()

    def disguised(folder: Path) -> bytes:
        return outside.pickle_in_disguise(folder, payload)

    bad: list[tuple[Bad, str]] = [
        (outside.wrong_sha, "SHA-256 is"),
        (outside.truncated, "bytes, its manifest says"),
        (outside.wrong_bits, "weights do not fit the architecture"),
        (outside.wrong_shapes, "'embedding_head.weight' is"),
        (outside.not_a_number, "is not finite numbers"),
        (disguised, "weights.safetensors"),
        (outside.no_manifest, "manifest.json is missing"),
        (outside.path_that_leaves, "the path leaves the archive"),
        (outside.unknown_architecture, "architecture is 'transformer'"),
        (outside.graph_that_does_more, "is another program than this release makes"),
    ]
    before = answered(photo)
    for number, (kind, reason) in enumerate(bad):
        folder = outside.bundle_made(tmp_path / f"outside-{number}")
        assert reason in activated(kind(folder)), kind.__name__
        assert [path.name for path in (data_dir / "models").iterdir()] == [first.version.digest]
        assert list((data_dir / "imports").iterdir()) == []

    below = outside.bundle_made(tmp_path / "below", training={"parent": first.version.digest})
    assert "2.0" in activated(outside.zipped(below))  # registered, and stopped by the gates
    assert list(Deployment.objects.all()) == [first]
    assert answered(photo) == before
    assert not marker.exists()


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin", "m.npz", "weights.safetensors"])
def test_c4_what_runs_when_unpickled_is_not_run_by_registering_training_from_it_or_swapping_to_it(
    photo: bytes, payload: bytes, marker: Path, tmp_path: Path, name: str
) -> None:
    first = versions.champion()
    before = answered(photo)
    folder = outside.bundle_made(tmp_path / "outside")
    assert activated(payload)
    assert "does not belong to a bundle" in activated(outside.zipped(folder, more={f"x/{name}": payload}))
    assert "weights.safetensors" in activated(outside.pickle_in_disguise(folder, payload))

    stored = versions.bundle_store(outside.bundle_made(tmp_path / "good"))
    version = versions.base_version_register(load_bundle(stored).manifest)
    (stored / "weights.safetensors").write_bytes(payload)
    (stored / name).write_bytes(payload)
    with pytest.raises(SearchAppError, match=r"The files of 2\.0 cannot be used"):
        deploying.version_promote(version=version, user=None, override_reason="all the same")

    in_use = versions.bundle_of(first.version).path / "weights.safetensors"
    whole = in_use.read_bytes()
    in_use.write_bytes(payload)
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        versions.bundle_of(first.version)
    try:
        job = base_training.base_training_start(user=None, config=TINY)
        job_run_here(job)
        assert Job.objects.get(pk=job.pk).error
    except (SearchAppError, ValueError):
        pass
    in_use.write_bytes(whole)

    assert list(Deployment.objects.all()) == [first]
    assert set(ModelVersion.objects.values_list("major", flat=True)) <= {1, 2}
    assert answered(photo) == before
    assert not marker.exists()
    pickle.loads(payload)
    assert marker.exists()  # it would have been seen
