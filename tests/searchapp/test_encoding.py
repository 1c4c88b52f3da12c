"""Photos without an entry get exactly one, failures are kept with their reason, a kill loses nothing."""

from pathlib import Path

import numpy as np
import pytest
from django.db import transaction

from searchapp.models import ChangeKind, GalleryChange, GalleryEntry, ItemImage, Job, JobState
from searchapp.services import catalogue, encoding, intake, jobs, versions
from tests.searchapp.galleries import encode_missing, item_with_photos

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def run_job() -> Job:
    with transaction.atomic():
        job = encoding.encode_job_ensure()
    return jobs.job_run_here(job)


def test_every_photo_gets_one_entry_by_the_champion(data_dir: Path, photos: list[bytes]) -> None:
    item_with_photos("a", photos[:3])
    item_with_photos("b", photos[3:5])

    job = run_job()

    assert job.state == JobState.DONE
    assert {name: (job.result or {})[name] for name in ("encoded", "failed")} == {"encoded": 5, "failed": 0}
    version = versions.champion().version
    assert GalleryEntry.objects.filter(producer=version, provenance="encoded").count() == 5
    entry_ids = set(GalleryEntry.objects.values_list("pk", flat=True))
    announced = GalleryChange.objects.filter(kind=ChangeKind.ENTRY_ADDED).values_list("subject_id", flat=True)
    assert set(announced) == entry_ids
    assert len(announced) == 5


def test_an_entry_holds_what_the_encoder_makes_of_the_stored_file(
    data_dir: Path, photos: list[bytes]
) -> None:
    image = item_with_photos("a", photos[:1]).images.get()
    encode_missing()

    encoder = versions.encoder_of(versions.champion().version)
    stored = intake.stored_pixels(image.path, input_size=encoder.input_size)
    expected = encoder.encode(stored[None])
    entry = image.entries.get()
    assert bytes(entry.code) == expected.packed_codes[0].tobytes()
    assert bytes(entry.embedding) == expected.embeddings[0].astype(np.float16).tobytes()
    assert entry.image_sha256 == image.image_sha256


def test_running_it_twice_adds_nothing(data_dir: Path, photos: list[bytes]) -> None:
    item_with_photos("a", photos[:2])
    run_job()

    again = run_job()

    assert {name: (again.result or {})[name] for name in ("encoded", "failed")} == {"encoded": 0, "failed": 0}
    assert GalleryEntry.objects.count() == 2


def test_a_photo_that_cannot_be_read_is_named_and_stops_no_other(data_dir: Path, photos: list[bytes]) -> None:
    good, cut, lost = item_with_photos("a", photos[:3]).images.order_by("pk")
    path = data_dir / "media" / cut.path
    path.write_bytes(path.read_bytes()[:200])
    (data_dir / "media" / lost.path).unlink()

    job = run_job()

    assert {name: (job.result or {})[name] for name in ("encoded", "failed")} == {"encoded": 1, "failed": 2}
    cut.refresh_from_db()
    lost.refresh_from_db()
    assert cut.failure.startswith("The stored file cannot be read (")
    assert lost.failure == "The stored file is missing; upload the photo again."
    assert list(GalleryEntry.objects.values_list("image_id", flat=True)) == [good.pk]


def test_a_failed_photo_is_not_tried_again_until_somebody_asks(data_dir: Path, photos: list[bytes]) -> None:
    image = item_with_photos("a", photos[:1]).images.get()
    path = data_dir / "media" / image.path
    whole = path.read_bytes()
    path.write_bytes(b"")
    run_job()
    path.write_bytes(whole)

    assert (run_job().result or {})["encoded"] == 0
    catalogue.image_retry(image=ItemImage.objects.get(pk=image.pk))
    assert (run_job().result or {})["encoded"] == 1
    assert ItemImage.objects.get(pk=image.pk).failure == ""


def test_many_new_photos_wait_for_one_job(data_dir: Path, photos: list[bytes]) -> None:
    item_with_photos("a", photos[:3])
    item_with_photos("b", photos[3:6])

    assert Job.objects.filter(kind="encode_images").count() == 1


def test_a_photo_added_while_the_job_runs_gets_a_job_of_its_own(data_dir: Path, photos: list[bytes]) -> None:
    item_with_photos("a", photos[:1])
    Job.objects.update(state=JobState.RUNNING)

    item_with_photos("b", photos[1:2])

    assert sorted(Job.objects.values_list("state", flat=True)) == ["queued", "running"]


def test_a_run_taken_up_again_goes_on_behind_its_checkpoint(
    data_dir: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after the first chunk committed; the second attempt encodes the rest and counts everything."""
    monkeypatch.setattr(encoding, "CHUNK", 2)
    item_with_photos("a", photos[:5])

    def dies(name: str) -> None:
        raise KeyboardInterrupt(name)

    with monkeypatch.context() as patched:
        patched.setattr(encoding, "failpoint", dies)
        with pytest.raises(KeyboardInterrupt):
            run_job()
    assert GalleryEntry.objects.count() == 2

    job = jobs.job_run_here(Job.objects.get(kind="encode_images"))

    assert {name: (job.result or {})[name] for name in ("encoded", "failed")} == {"encoded": 5, "failed": 0}
    assert GalleryEntry.objects.count() == 5


def test_a_photo_replaced_or_deleted_while_it_was_encoded_gets_no_entry(
    data_dir: Path, photos: list[bytes]
) -> None:
    from searchapp.services.gallery import entries_add, gallery_transaction

    version = versions.default_version_ensure()
    gone, changed = item_with_photos("a", photos[:2]).images.order_by("pk")
    entries = encoding.encode_images(version=version, image_ids=[gone.pk, changed.pk])
    ItemImage.objects.filter(pk=changed.pk).update(image_sha256="0" * 64)
    gone.delete()

    with gallery_transaction() as changes:
        added = entries_add(changes, version=version, entries=entries)

    assert added == 0
    assert GalleryEntry.objects.count() == 0


def test_a_photo_asked_for_again_does_not_join_a_waiting_job_that_has_passed_it(
    data_dir: Path, photos: list[bytes]
) -> None:
    image = item_with_photos("a", photos[:1]).images.get()
    Job.objects.all().delete()
    ItemImage.objects.update(failure="unreadable")
    with transaction.atomic():
        interrupted = encoding.encode_job_ensure()
    Job.objects.filter(pk=interrupted.pk).update(checkpoint={"after": image.pk, "encoded": 1, "failed": 0})

    catalogue.image_retry(image=image)
    for job in Job.objects.order_by("created_at"):
        jobs.job_run_here(job)

    assert image.entries.count() == 1
