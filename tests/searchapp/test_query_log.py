"""The query log: never in the request's path, never more memory than it may have, feedback that can be changed."""

import errno
import stat
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError
from django.utils import timezone
from PIL import Image
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings

from searchapp.exceptions import BadImage, InvalidInput, NoSpace, NotFound
from searchapp.models import Feedback, Query
from searchapp.services import query_log, search, serving
from searchapp.services.search_options import SearchOptions
from tests.searchapp.galleries import shop

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_a_search_is_logged_in_a_batch_and_not_in_the_request(
    data_dir: Path, photos: list[bytes], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    shop(photos)
    answer = search.search_by_image(data=photos[0], options=SearchOptions.parse({"k": 2, "tag": "fresh"}))
    again = search.search_by_item(sku="apple-0")
    assert not Query.objects.exists()

    with django_assert_num_queries(1):
        assert query_log.flush() == 2

    row = Query.objects.get(pk=answer.query_id)
    assert (row.kind, row.version, row.arm, row.filters) == ("image", "1.0", "champion", {"tag": ["fresh"]})
    assert row.result_skus == [result.sku for result in answer.results]
    assert row.strong_count == sum(result.strength == "strong" for result in answer.results)
    assert set(row.took_ms) == {"intake", "encode", "shortlist", "rerank", "rows", "total"}
    assert Query.objects.get(pk=again.query_id).kind == "item"


def test_recording_the_same_answer_twice_keeps_one_row(data_dir: Path, photos: list[bytes]) -> None:
    shop(photos)
    answer = search.search_by_item(sku="apple-0")
    query_log.query_record(answer)
    query_log.flush()
    query_log.query_record(answer)

    query_log.flush()

    assert Query.objects.count() == 1


def test_a_full_buffer_forgets_the_oldest_and_counts_them(
    data_dir: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(photos)
    monkeypatch.setattr(query_log, "CAPACITY", 3)
    before = query_log.dropped_count()
    ids = [search.search_by_item(sku="apple-0").query_id for _ in range(5)]

    assert query_log.dropped_count() - before == 2
    assert query_log.flush() == 3
    assert set(Query.objects.values_list("pk", flat=True)) == set(ids[2:])


def test_a_batch_the_database_refused_is_kept_for_the_next_time(
    data_dir: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(photos)
    answer = search.search_by_item(sku="apple-0")

    def away(*args: object, **kwargs: object) -> None:
        raise DatabaseError("away")

    with monkeypatch.context() as patched:
        patched.setattr(Query.objects, "bulk_create", away)
        with pytest.raises(DatabaseError):
            query_log.flush()

    assert query_log.flush() == 1
    assert Query.objects.get().pk == answer.query_id


@pytest.mark.django_db(transaction=True)
def test_the_thread_writes_what_was_asked_within_moments(
    data_dir: Path, photos: list[bytes], settings: Settings
) -> None:
    shop(photos)
    serving.follow_once()
    settings.GALLERY_FOLLOW_SECONDS = 0.05
    answer = search.search_by_item(sku="apple-0")
    deadline = time.monotonic() + 10
    while not Query.objects.filter(pk=answer.query_id).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    serving.stop_follower()
    time.sleep(0.1)  # the flusher closes its connection


@pytest.mark.usefixtures("data_dir")
class TestFeedback:
    @pytest.fixture
    def query_id(self, photos: list[bytes]) -> UUID:
        shop(photos)
        return uuid4()

    def test_it_is_kept_once_changed_and_taken_back(self, query_id: UUID) -> None:
        query_log.feedback_record(query_id, sku="apple-0", verdict="right")
        query_log.feedback_record(str(query_id), sku="apple-0", verdict="right")
        assert Feedback.objects.get().verdict == "right"

        query_log.feedback_record(query_id, sku="apple-0", verdict="wrong")
        assert Feedback.objects.get().verdict == "wrong"

        query_log.feedback_record(query_id, sku="apple-0", verdict=None)
        query_log.feedback_record(query_id, sku="apple-0", verdict=None)
        assert not Feedback.objects.exists()

    def test_it_remembers_who_said_it_when_somebody_is_signed_in(self, query_id: UUID) -> None:
        user = User.objects.create(username="anna")

        query_log.feedback_record(query_id, sku="apple-0", verdict="right", user=user)

        assert Feedback.objects.get().user == user

    @pytest.mark.parametrize(
        ("changed", "error"),
        [
            ({"verdict": "maybe"}, InvalidInput),
            ({"verdict": ""}, InvalidInput),
            ({"sku": "nothing"}, NotFound),
            ({"sku": "a\x00"}, NotFound),
            ({"query_id": "not-a-uuid"}, NotFound),
            ({"image": b"%PDF"}, BadImage),
        ],
    )
    def test_what_cannot_be_kept_is_refused_and_nothing_is_written(
        self, query_id: UUID, data_dir: Path, changed: dict[str, Any], error: type[Exception]
    ) -> None:
        values: dict[str, Any] = {"query_id": query_id, "sku": "apple-0", "verdict": "right", **changed}

        with pytest.raises(error):
            query_log.feedback_record(values.pop("query_id"), **values)

        assert not Feedback.objects.exists()
        assert not list(data_dir.glob("query_images/*"))

    def test_a_full_disk_is_said_so_and_leaves_neither_verdict_nor_half_a_picture(
        self, query_id: UUID, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(NoSpace, match="The disk is full"):
            query_log.feedback_record(query_id, sku="apple-0", verdict="right", image=photos[0])

        assert not Feedback.objects.exists()
        assert not list(query_log.query_image_folder().iterdir())

    def test_no_picture_is_kept_without_consent(self, query_id: UUID, data_dir: Path) -> None:
        query_log.feedback_record(query_id, sku="apple-0", verdict="right")

        assert Feedback.objects.get().image_sha256 == ""
        assert not (data_dir / "query_images").exists()

    def test_a_kept_picture_is_cleaned_and_out_of_reach_of_the_web(
        self, query_id: UUID, photos: list[bytes], settings: Settings
    ) -> None:
        query_log.feedback_record(
            query_id, sku="apple-0", verdict="right", image=photos[0] + b"appended by somebody"
        )

        path = query_log.query_image_path(Feedback.objects.get().image_sha256)
        assert settings.MEDIA_ROOT not in path.parents
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert b"appended by somebody" not in path.read_bytes()
        with Image.open(path) as kept:
            assert kept.format == "JPEG"

    def test_kept_pictures_go_after_the_retention_and_the_verdict_stays(
        self, query_id: UUID, photos: list[bytes], settings: Settings
    ) -> None:
        query_log.feedback_record(query_id, sku="apple-0", verdict="right", image=photos[0])
        query_log.feedback_record(query_id, sku="apple-1", verdict="wrong", image=photos[1])
        old, young = Feedback.objects.order_by("pk")
        age = timedelta(days=settings.QUERY_IMAGE_RETENTION_DAYS, hours=1)
        Feedback.objects.filter(pk=old.pk).update(created_at=timezone.now() - age)
        for path in query_log.query_image_folder().iterdir():
            age_file(path)

        assert query_log.query_images_expire() == 1

        assert not query_log.query_image_path(old.image_sha256).exists()
        assert query_log.query_image_path(young.image_sha256).exists()
        old.refresh_from_db()
        assert (old.verdict, old.image_sha256) == ("right", "")
        assert query_log.query_images_expire() == 0

    def test_a_picture_whose_verdict_was_taken_back_goes_too(
        self, query_id: UUID, photos: list[bytes]
    ) -> None:
        query_log.feedback_record(query_id, sku="apple-0", verdict="right", image=photos[0])
        path = query_log.query_image_path(Feedback.objects.get().image_sha256)
        query_log.feedback_record(query_id, sku="apple-0", verdict=None)
        age_file(path)

        assert query_log.query_images_expire() == 1
        assert not path.exists()


def age_file(path: Path) -> None:
    import os

    an_hour_ago = time.time() - 3600
    os.utime(path, (an_hour_ago, an_hour_ago))


def test_the_half_written_picture_of_a_killed_writer_does_not_outlive_the_retention(data_dir: Path) -> None:
    folder = query_log.query_image_folder()
    folder.mkdir(parents=True)
    old, fresh = folder / ".aa.img.12.34.tmp", folder / ".bb.img.12.34.tmp"
    for path in (old, fresh):
        path.write_bytes(b"half a picture")
    age_file(old)

    assert query_log.query_images_expire() == 1

    assert list(folder.iterdir()) == [fresh]


def test_feedback_on_a_sku_that_no_database_can_hold_is_about_nothing(data_dir: Path) -> None:
    for verdict in ("right", None):
        with pytest.raises(NotFound):
            query_log.feedback_record(uuid4(), sku="a\x00b", verdict=verdict)
