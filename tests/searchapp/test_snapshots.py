"""A snapshot spares reading all rows; a damaged, foreign or outdated one never changes an answer."""

import random
import shutil
from pathlib import Path

import pytest

from ml.retrieval.snapshot import read_manifest
from searchapp.models import GalleryChange, GalleryCounter, GalleryEntry, Job, ModelVersion
from searchapp.services import arms, catalogue, jobs, serving, snapshots, versions
from tests.searchapp.galleries import encode_missing, item_with_photos, shop

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def version(data_dir: Path, photos: list[bytes]) -> ModelVersion:
    shop(photos)
    return versions.champion().version


def forbid_reading_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "view_rebuilt", None)


def served() -> dict[int, bytes]:
    entries = serving.follow_once().champion.view.compacted_entries()
    return {pk: code.tobytes() for pk, code in zip(entries.entry_ids.tolist(), entries.codes)}


def rows() -> dict[int, bytes]:
    return {pk: bytes(code) for pk, code in GalleryEntry.objects.values_list("pk", "code")}


def test_a_start_loads_the_snapshot_and_what_changed_since(
    version: ModelVersion, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots.snapshot_write(version)
    item_with_photos("late", photos[8:10])
    encode_missing()
    catalogue.item_delete(item=GalleryEntry.objects.earliest("pk").image.item)
    forbid_reading_rows(monkeypatch)

    assert served() == rows()
    assert len(rows()) == 7


def test_a_deleted_snapshot_folder_is_no_loss(version: ModelVersion, data_dir: Path) -> None:
    snapshots.snapshot_write(version)
    shutil.rmtree(data_dir / "snapshots")

    assert served() == rows()


def test_forty_flipped_bits_and_ten_truncations_are_all_refused_and_answers_stay_right(
    version: ModelVersion, data_dir: Path
) -> None:
    """The seeded places of reliability row D3, at the size of a unit test; the manifest is one of the files."""
    generator = random.Random(20240229)
    whole = snapshots.snapshot_write(version)
    kept = data_dir / "kept"
    shutil.copytree(whole, kept)
    files = sorted(path.name for path in kept.iterdir())
    for fault in range(50):
        shutil.rmtree(whole, ignore_errors=True)
        shutil.copytree(kept, whole)
        path = whole / generator.choice(files)
        content = bytearray(path.read_bytes())
        if fault < 40:
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        else:
            content = content[: generator.randrange(len(content))]
        path.write_bytes(content)

        assert snapshots.view_loaded(version) is None, f"fault {fault} in {path.name} was served"
        assert not whole.exists()  # set aside, so nobody tries it again
        for aside in (data_dir / "snapshots").glob(".damaged-*"):
            shutil.rmtree(aside)
    assert served() == rows()


def test_an_older_good_snapshot_serves_when_the_newest_is_damaged(
    version: ModelVersion, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots.snapshot_write(version)
    item_with_photos("late", photos[8:9])
    encode_missing()
    newest = snapshots.snapshot_write(version)
    (newest / "entries.codes.npy").write_bytes(b"nothing")
    forbid_reading_rows(monkeypatch)

    assert served() == rows()


def test_a_snapshot_of_another_installation_is_not_served(version: ModelVersion) -> None:
    snapshots.snapshot_write(version)
    ModelVersion.objects.filter(pk=version.pk).update(lineage="00000000-0000-4000-8000-000000000000")

    assert snapshots.view_loaded(versions.champion().version) is None


def test_a_snapshot_from_a_past_that_was_rolled_back_is_not_served(
    version: ModelVersion, photos: list[bytes]
) -> None:
    """The database was restored and lived on: the same numbers now stand for other entries."""
    snapshots.snapshot_write(version)
    row = GalleryEntry.objects.order_by("-pk").first()
    assert row is not None
    pk, image = row.pk, row.image
    catalogue.image_delete(image=image)
    image.pk = None
    image.save(force_insert=True)
    other = bytes(255 - byte for byte in bytes(row.code))
    GalleryEntry.objects.create(
        pk=pk,
        image=image,
        image_sha256=image.image_sha256,
        producer=version,
        code=other,
        embedding=bytes(row.embedding),
    )

    assert snapshots.view_loaded(version) is None
    assert served()[pk] == other


def test_a_snapshot_ahead_of_the_counter_is_not_served(version: ModelVersion) -> None:
    snapshots.snapshot_write(version)
    GalleryCounter.objects.update(value=1)

    assert snapshots.view_loaded(version) is None


def test_writing_an_unchanged_gallery_again_gives_the_same_snapshot(version: ModelVersion) -> None:
    first = snapshots.snapshot_write(version)

    assert snapshots.snapshot_write(version) == first
    assert snapshots.snapshots_of(version) == [first]


def test_the_last_three_are_kept_and_the_changes_they_need(
    version: ModelVersion, photos: list[bytes]
) -> None:
    written = []
    for number in range(5):
        item_with_photos(f"more-{number}", photos[6 + number : 7 + number])
        encode_missing()
        written.append(snapshots.snapshot_write(version))

    assert snapshots.snapshots_of(version) == written[:1:-1]
    oldest_kept = read_manifest(written[2]).sequence
    assert GalleryChange.objects.earliest("sequence").sequence == oldest_kept + 1
    assert served() == rows()


def test_the_worker_writes_a_snapshot_when_enough_changed_and_asks_once(
    version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots.snapshot_job_ensure_if_due(version, entries=6)
    assert not Job.objects.filter(kind="write_snapshot").exists()  # too small to be worth it
    monkeypatch.setattr(snapshots, "WORTHWHILE_FROM", 5)

    snapshots.snapshot_job_ensure_if_due(version, entries=6)
    snapshots.snapshot_job_ensure_if_due(version, entries=6)
    job = jobs.job_run_here(Job.objects.get(kind="write_snapshot"))

    assert job.state == "done", job.error
    assert [path.name for path in snapshots.snapshots_of(version)] == [(job.result or {})["snapshot"]]
    snapshots.snapshot_job_ensure_if_due(version, entries=6)
    assert Job.objects.filter(kind="write_snapshot").count() == 1  # nothing changed since
