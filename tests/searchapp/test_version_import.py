"""A version from outside: whole and true it becomes a candidate, anything else leaves no trace."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client

from ml.artifacts import MANIFEST_FILE, WEIGHTS_FILE, load_bundle
from searchapp.exceptions import Conflict, InvalidInput, SearchAppError
from searchapp.models import AuditEvent, Category, GalleryView, Job, JobState, ModelVersion
from searchapp.services import deploying, version_import, version_intake, versions
from searchapp.services.jobs import job_run_here
from tests.searchapp import outside_bundles as outside
from tests.searchapp.api_cast import error_of, key_client, operator_make, session_client
from tests.searchapp.trainings import small_shop

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("quiet_heartbeat")]
Bad = Callable[[Path], bytes]
AT_ONCE: list[tuple[Bad, str]] = [
    (outside.wrong_sha, "weights.safetensors: SHA-256 is"),
    (outside.truncated, "encoder.onnx has"),
    (outside.not_a_number, "is not finite numbers"),
    (outside.no_manifest, "manifest.json is missing: not a bundle"),
    (outside.path_that_leaves, "the path leaves the archive"),
    (outside.manifest_that_leaves, "files are"),
    (outside.unknown_architecture, "architecture is 'transformer', allowed"),
    (outside.with_a_stranger, "'data.pkl' does not belong to a bundle"),
]
BY_THE_JOB: list[tuple[Bad, str]] = [
    (outside.wrong_bits, "weights do not fit the architecture"),
    (outside.wrong_shapes, "'embedding_head.weight' is"),
    (outside.graph_of_others, "is not what the weights beside it give"),
    (outside.graph_with_outside_numbers, "lies outside it"),
]


class Payload:
    """Unpickled, it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture(autouse=True)
def _exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.models.agreement.export_onnx", outside.exported_once)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return outside.bundle_made(tmp_path / "outside")


@pytest.fixture
def first(data_dir: Path) -> ModelVersion:
    return versions.default_version_ensure()


def uploaded(data: bytes) -> Job:
    return version_intake.version_upload(chunks=[data], name="bundle.zip", user=None)


def taken_in(data: bytes) -> Job:
    return job_run_here(uploaded(data))


def assert_untouched(first: ModelVersion, data_dir: Path) -> None:
    """One version, in use and whole; no file but its own."""
    assert list(ModelVersion.objects.all()) == [first]
    assert versions.champion().version == first
    assert versions.bundle_of(first).digest == first.digest
    assert [path.name for path in (data_dir / "models").iterdir()] == [first.digest]
    imports = data_dir / "imports"
    assert not imports.exists() or list(imports.iterdir()) == []
    assert not AuditEvent.objects.filter(action="version.import").exists()


def test_a_good_bundle_becomes_a_candidate_and_nothing_serves_by_it(
    first: ModelVersion, good: Path, data_dir: Path
) -> None:
    out = io.StringIO()
    call_command("import_version", good, json=True, stdout=out)

    digest = load_bundle(good).digest
    said = json.loads(out.getvalue())
    assert (said["version"], said["digest"], said["parent"]) == ("2.0", digest, None)
    assert "encode_missing --model-version 2.0" in said["words"]
    version = ModelVersion.objects.get(digest=digest)
    assert version.lineage != first.lineage
    assert version.manifest["origin"] == "imported"
    assert versions.bundle_of(version).digest == digest
    assert GalleryView.objects.filter(version=version).exists()
    assert versions.champion().version == first
    assert not (data_dir / "imports").exists()
    assert AuditEvent.objects.get(action="version.import").after["digest"] == digest


def test_one_of_our_line_joins_it_and_one_below_the_quality_gate_is_not_put_in_use(
    data_dir: Path, data_packs: Path, tmp_path: Path
) -> None:
    """Untrained weights that claim to be made beside the version in use."""
    first = versions.default_version_ensure()
    small_shop(data_packs, classes=2, count=9)
    slugs = list(Category.objects.exclude(parent=None).values_list("slug", flat=True))
    ModelVersion.objects.filter(pk=first.pk).update(label_registry=slugs[1:])
    note = {"parent": first.digest, "furthest_degrees_in_all": 3.0}
    child = outside.bundle_made(
        tmp_path / "child", labels=(*slugs, "elsewhere"), training={"compatibility": note}
    )
    olga = operator_make()
    file = SimpleUploadedFile("bundle.zip", outside.zipped(child, inside="mine/"))
    answer = key_client(olga).post("/api/v1/model-versions/import", {"file": file})
    assert answer.status_code == 202
    job = job_run_here(Job.objects.get(pk=answer.json()["id"]))

    assert job.state == JobState.DONE, job.error
    version = ModelVersion.objects.get(major=2)
    assert (version.parent, version.lineage, version.created_by) == (first, first.lineage, olga)
    assert version.label_registry == [slugs[1], slugs[0]]  # as its parent has them, then the others
    assert versions.lineage_compatible(version, first)
    assert (job.result or {})["parent"] == "1.0"
    assert list((data_dir / "imports").iterdir()) == []
    try:
        said = job_run_here(deploying.version_promote(version=version, user=None)).error
    except SearchAppError as error:
        said = error.message
    assert "2.0" in said
    assert versions.champion().version == first


@pytest.mark.parametrize("said", ["compatibility", "increment", "calibration"])
def test_the_version_it_was_made_beside_is_known_by_its_digest(
    first: ModelVersion, tmp_path: Path, said: str
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "compatibility": {"training": {"compatibility": {"parent": first.digest}}},
        "increment": {"training": {"parent": first.digest}},
        "calibration": {"calibration": {"self": outside.CALIBRATION, first.digest: outside.CALIBRATION}},
    }
    manifest = load_bundle(outside.bundle_made(tmp_path / "child", **changes[said])).manifest

    assert version_import.parent_of(manifest) == first
    ModelVersion.objects.filter(pk=first.pk).update(dimension=64)  # what it claims is of no use then
    assert version_import.parent_of(manifest) is None


@pytest.mark.parametrize(("bad", "reason"), AT_ONCE, ids=[bad.__name__ for bad, _ in AT_ONCE])
def test_a_bad_bundle_is_refused_at_the_door_with_its_reason_and_leaves_nothing(
    first: ModelVersion, good: Path, data_dir: Path, bad: Bad, reason: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        uploaded(bad(good))

    assert reason in refusal.value.message
    assert str(data_dir) not in refusal.value.message
    assert not Job.objects.filter(kind="import_version").exists()
    assert_untouched(first, data_dir)


@pytest.mark.parametrize(("bad", "reason"), BY_THE_JOB, ids=[bad.__name__ for bad, _ in BY_THE_JOB])
def test_a_bundle_whose_parts_do_not_belong_together_is_refused_by_the_job(
    first: ModelVersion, good: Path, data_dir: Path, bad: Bad, reason: str
) -> None:
    job = taken_in(bad(good))

    assert job.state == JobState.FAILED
    assert reason in job.error
    assert str(data_dir) not in job.error
    assert_untouched(first, data_dir)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin", "weights.npz", "weights.safetensors"])
def test_nothing_in_a_file_from_outside_is_ever_unpickled(
    first: ModelVersion, good: Path, tmp_path: Path, data_dir: Path, name: str
) -> None:
    """Alone, as an entry of a zip, and in place of the weights with a manifest that agrees."""
    marker = tmp_path / "marker"
    payload = pickle.dumps(Payload(marker))
    files = [payload, outside.zipped(good, more={f"x/{name}": payload})]
    if name == WEIGHTS_FILE:
        files.append(outside.pickle_in_disguise(good, payload))
    for data in files:
        with pytest.raises(InvalidInput):
            uploaded(data)

    assert not marker.exists()
    assert_untouched(first, data_dir)
    pickle.loads(payload)
    assert marker.exists()  # it would have been seen


def test_a_version_whose_weights_were_swapped_for_a_pickle_is_neither_served_nor_trained_from(
    first: ModelVersion, good: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    versions.bundle_store(good)
    version = versions.base_version_register(load_bundle(good).manifest)
    outside.pickle_in_disguise(versions.bundle_of(version).path, pickle.dumps(Payload(marker)))

    with pytest.raises(Conflict, match=r"The files of 2\.0 cannot be used"):
        deploying.version_promote(version=version, user=None, override_reason="all the same")
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        versions.bundle_of(version)
    assert not marker.exists()
    assert versions.champion().version == first


def test_a_bundle_that_is_here_already_is_named(first: ModelVersion, bundle_path: Path) -> None:
    with pytest.raises(Conflict, match=r"it is version 1\.0"):
        uploaded(outside.zipped(bundle_path))


def test_a_manifest_that_no_database_could_hold_is_refused(first: ModelVersion, tmp_path: Path) -> None:
    child = outside.bundle_made(tmp_path / "child", metrics={"note": "half \x00 a word"})

    with pytest.raises(InvalidInput, match="a NUL or half a character"):
        uploaded(outside.zipped(child))
    with pytest.raises(InvalidInput, match="method is 'x"):
        uploaded(outside.zipped(outside.bundle_made(tmp_path / "other", method="x" * 60)))


class TestCommand:
    def test_a_refusal_is_an_error_and_the_folder_stays_as_it_was(
        self, first: ModelVersion, good: Path, data_dir: Path
    ) -> None:
        outside.flip(good / WEIGHTS_FILE)
        with pytest.raises(CommandError, match="SHA-256 is"):
            call_command("import_version", good)

        assert (good / MANIFEST_FILE).exists()
        assert_untouched(first, data_dir)

    @pytest.mark.usefixtures("first")
    def test_links_are_not_followed(self, good: Path, tmp_path: Path) -> None:
        (good / WEIGHTS_FILE).rename(tmp_path / "elsewhere")
        (good / WEIGHTS_FILE).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(CommandError, match="is not a regular file"):
            call_command("import_version", good)


@pytest.mark.usefixtures("first")
class TestHttp:
    def test_a_bad_one_is_400_with_the_reason(self, good: Path) -> None:
        file = SimpleUploadedFile("bundle.zip", outside.no_manifest(good))
        answer = key_client(operator_make()).post("/api/v1/model-versions/import", {"file": file})

        assert "manifest.json is missing" in error_of(answer, 400)["message"]

    def test_the_page_takes_it_in_without_scripts_and_tells_of_it(self, good: Path) -> None:
        client = session_client(operator_make())
        page = client.post(
            "/ops/versions/import",
            {"file": SimpleUploadedFile("bundle.zip", outside.zipped(good))},
            follow=True,
        )
        assert "The files are whole" in page.content.decode()
        result = {"words": "every photo must be encoded by it"}
        Job.objects.filter(kind="import_version").update(state=JobState.DONE, result=result)

        assert "every photo must be encoded by it" in client.get("/ops/versions/import").content.decode()

    def test_the_page_says_why_a_file_was_refused(self, good: Path) -> None:
        client: Client = session_client(operator_make())
        file = SimpleUploadedFile("bundle.zip", outside.wrong_sha(good))
        page = client.post("/ops/versions/import", {"file": file})

        assert page.status_code == 400
        assert "The bundle was refused: weights.safetensors: SHA-256 is" in page.content.decode()
        assert client.post("/ops/versions/import").status_code == 400
