"""Backfill: older entries get one by the version in use, in order, stopped and taken up again; rows only added."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from ml.methods.corrector.config import FitConfig
from searchapp.exceptions import Conflict, InvalidInput
from searchapp.models import Category, GalleryEntry, ItemImage, Job, JobState, ModelVersion, PhotoFeature
from searchapp.services import (
    backfilling,
    code_statistics,
    correcting_fit,
    correctors,
    deploying,
    gallery_dump,
    index_audit,
    jobs,
    serving,
    versions,
)
from searchapp.services.backfilling import backfill_pause, backfill_resume, backfill_start
from searchapp.services.correcting import correction_start
from searchapp.services.stale_entries import stale_entries
from searchapp.services.staleness import CORRECTED, OWN, STORED, staleness
from tests.searchapp.api_cast import operator_make, session_client
from tests.searchapp.stale_shop import put_in_use, stale_shop

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("quiet_heartbeat")]


@pytest.fixture(autouse=True)
def _short_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The affine map alone mends what is only turned."""
    monkeypatch.setattr(correcting_fit, "CONFIG", FitConfig(steps=0))


@pytest.fixture
def second(data_dir: Path, data_packs: Path) -> ModelVersion:
    return stale_shop(data_packs, degrees=40.0)


def backfilled(**options: Any) -> dict[str, Any]:
    job = jobs.job_run_here(backfill_start(**{"user": None, **options}))
    assert job.state == JobState.DONE, job.error
    return job.result or {}


def producers() -> dict[str, int]:
    return dict(serving.current().champion.view.counts_by_producer)


def test_every_photo_gets_an_entry_by_the_version_in_use_and_none_changes(second: ModelVersion) -> None:
    first = ModelVersion.objects.get(major=1)
    code_statistics.entries_count(
        version=first, image_ids=list(ItemImage.objects.values_list("pk", flat=True))
    )
    rows = list(gallery_dump.rows())

    result = backfilled()

    assert {name: result[name] for name in ("encoded", "failed", "remaining", "version")} == {
        "encoded": 60,
        "failed": 0,
        "remaining": 0,
        "version": "2.0",
    }
    after = list(gallery_dump.rows())
    assert [row for row in after if row[2] == "1.0"] == rows
    assert len(after) == 120
    assert producers() == {"2.0": 60}
    assert PhotoFeature.objects.filter(trunk=second).count() == 60
    assert index_audit.audit().is_clean
    assert set(code_statistics.counted_items(second.lineage).values()) == {5}
    assert code_statistics.uncounted(second) == []
    labels = {pk: (pk,) for pk in Category.objects.values_list("pk", flat=True)}
    kept, told = (
        found(second.lineage, labels, second.code_bits)
        for found in (code_statistics.statistics_of, code_statistics.recounted)
    )
    assert (kept.gram == told.gram).all()
    with pytest.raises(Conflict, match="No photo is left"):
        backfill_start(user=None)
    deploying.version_rollback(user=None)
    assert producers() == {"1.0": 60}


def test_a_limit_is_kept_and_the_rest_is_the_next_one_s(second: ModelVersion) -> None:
    first = backfilled(limit=10)
    assert (first["encoded"], first["remaining"]) == (10, 50)
    assert producers() == {"1.0": 50, "2.0": 10}
    assert backfilled(limit=500)["encoded"] == 50


def test_orders_are_what_they_say(second: ModelVersion) -> None:
    oldest = list(GalleryEntry.objects.order_by("pk").values_list("image_id", flat=True))
    backfilled(limit=7, order="oldest")
    assert sorted(_done(second)) == sorted(oldest[:7])
    with pytest.raises(InvalidInput, match="error, oldest, random"):
        backfill_start(user=None, order="size")
    with pytest.raises(InvalidInput, match="1 or more"):
        backfill_start(user=None, limit=0)


def test_of_a_corrected_gallery_the_worst_predicted_come_first(second: ModelVersion) -> None:
    jobs.job_run_here(correction_start(user=None, override_reason="for the order"))
    live = versions.champion()
    maps = correctors.trunk_maps_of(live.view.corrector_digest)
    stale = stale_entries(second)
    predicted = dict(zip(stale.photos.tolist(), maps["1.0"].errors.predicted(stale.embeddings).tolist()))
    backfilled(limit=12, order="error")
    done = _done(second)
    assert len(done) == 12
    assert min(predicted[photo] for photo in done) >= max(
        error for photo, error in predicted.items() if photo not in done
    )


def _done(version: ModelVersion) -> set[int]:
    return set(GalleryEntry.objects.filter(producer=version).values_list("image_id", flat=True))


def test_paused_it_keeps_what_is_done_and_resumed_it_does_the_rest(
    second: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfilling, "CHUNK", 8)
    monkeypatch.setattr(
        "searchapp.services.leases.PROGRESS_SECONDS", 0.0
    )  # a quick machine looks up no less often
    job = backfill_start(user=None, limit=40)
    assert backfill_start(user=None, limit=40) == job
    with pytest.raises(Conflict, match="under way"):
        backfill_start(user=None)
    seen: list[int] = []

    def pausing(done: int, total: int, _: str) -> None:
        seen.append(total)
        if done >= 16:
            Job.objects.filter(pk=job.pk).update(cancel_requested=True)

    jobs.job_run(job.pk, "the test", on_progress=pausing)
    job.refresh_from_db()
    assert (job.state, set(seen)) == (JobState.CANCELLED, {40})
    done = _done(second)
    assert len(done) == 16

    again = jobs.job_run_here(backfill_resume(None))

    assert (again.result or {})["encoded"] == 40
    assert len(_done(second)) == 40
    assert done < _done(second)
    with pytest.raises(Conflict, match="was stopped"):
        backfill_resume(None)
    with pytest.raises(Conflict, match="No backfill"):
        backfill_pause(None)


def test_another_training_that_waits_goes_first(
    second: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfilling, "CHUNK", 8)
    monkeypatch.setattr(backfilling, "TURN_SECONDS", 0.0)
    job = backfill_start(user=None, limit=20)
    waiting = jobs.job_create(kind="measure_pace", payload={})
    result = jobs.job_run_here(job).result or {}
    assert result["encoded"] == 8
    rest = Job.objects.get(pk=result["continued_by"])
    assert (rest.state, rest.payload["limit"]) == (JobState.QUEUED, 12)
    assert waiting.created_at < rest.created_at
    jobs.job_cancel(waiting)
    assert (jobs.job_run_here(rest).result or {})["encoded"] == 12


def test_a_photo_that_cannot_be_read_is_marked_and_left(second: ModelVersion, data_dir: Path) -> None:
    photo = ItemImage.objects.order_by("pk")[3]
    (data_dir / "media" / photo.path).unlink()
    result = backfilled()
    assert (result["encoded"], result["failed"], result["remaining"]) == (59, 1, 0)
    photo.refresh_from_db()
    assert "missing" in photo.failure


def test_it_ends_when_another_encoder_is_put_in_use(
    second: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfilling, "CHUNK", 8)
    job = backfill_start(user=None)

    def moving(done: int, total: int, _: str) -> None:
        if done == 16:
            put_in_use(ModelVersion.objects.get(major=1))

    jobs.job_run(job.pk, "the test", on_progress=moving)
    job.refresh_from_db()
    assert (job.state, (job.result or {})["encoded"]) == (JobState.DONE, 16)
    assert index_audit.audit().is_clean


def test_the_staleness_map_tells_producers_apart_and_what_is_left(second: ModelVersion) -> None:
    found = staleness()
    (one,) = found.producers
    assert (one.name, one.entries, one.seen, one.bands) == ("1.0", 60, STORED, ())
    assert (found.stale, found.sample, found.asked) == (60, 60, 12)

    jobs.job_run_here(correction_start(user=None, override_reason="for the map"))
    backfilled(limit=20)

    found = staleness()
    assert [(one.name, one.entries, one.seen) for one in found.producers] == [
        ("2.0", 20, OWN),
        ("1.0", 40, CORRECTED),
    ]
    old = found.producers[1]
    assert sum(old.bands) == pytest.approx(1)
    assert old.expected_cosine is not None
    assert 0.5 < old.expected_cosine <= 1
    assert found.pace is not None
    assert found.backfill_seconds == pytest.approx(40 * found.pace.seconds_each)
    assert "last 20 photos" in found.pace.how


def test_the_command_prints_the_contract(second: ModelVersion) -> None:
    out = StringIO()
    call_command("backfill", "--limit", "5", "--order", "random", "--json", stdout=out)
    result = json.loads(out.getvalue())
    assert (result["encoded"], result["remaining"]) == (5, 55)
    with pytest.raises(CommandError, match="order") as wrong:
        call_command("backfill", "--order", "size")
    assert wrong.value.returncode == 2


def test_the_page_shows_the_map_starts_both_ways_pauses_and_goes_on(second: ModelVersion) -> None:
    client = session_client(operator_make())
    page = client.get("/ops/gallery").content.decode()
    assert "60 of 60 entries" in page
    assert "as they were stored" in page
    asked = client.get("/ops/gallery/backfill").content.decode()
    assert "Encodes 60 photos" in asked
    assert "category’s mean" in asked
    assert "held-out ones" in client.get("/ops/gallery/correct").content.decode()

    assert client.post("/ops/gallery/backfill", {"order": "oldest", "limit": "many"}).status_code == 400
    assert client.post("/ops/gallery/backfill", {"order": "oldest", "limit": ""}).status_code == 302
    job = Job.objects.get(kind="backfill")
    assert job.created_by is not None
    assert (job.payload, job.created_by.username) == ({"order": "oldest", "limit": None}, "olga")
    assert ">Pause</button>" in client.get("/ops/gallery").content.decode()
    client.post("/ops/gallery/pause", {"what": "backfill"})
    assert "Go on where it stopped" in client.get("/ops/gallery").content.decode()
    client.post("/ops/gallery/resume")
    again = Job.objects.get(kind="backfill", state=JobState.QUEUED)
    assert again.retry_of == job
    client.post("/ops/gallery/pause", {"what": "backfill"})

    refused = client.post("/ops/gallery/correct", {"fit_items": "3"})
    assert refused.status_code == 400
    assert "40 to 100,000" in refused.content.decode()
    client.post("/ops/gallery/correct", {"fit_items": "60", "reason": "to look at it"})
    jobs.job_run_here(Job.objects.get(kind="correct_gallery"))
    done = client.get("/ops/gallery").content.decode()
    assert "through the correction" in done
    assert "Take the correction back" in done
    assert "not one changed" in done
    assert "cosine 0.95 and above" in done


def test_the_gallery_pages_are_for_operators(second: ModelVersion, staff: Client) -> None:
    for path in ("/ops/gallery", "/ops/gallery/correct", "/ops/gallery/backfill"):
        assert staff.get(path).status_code in (302, 403)
