"""Photos people ask with are kept as sums of many, and a change of what they ask with is seen."""

from datetime import timedelta

import numpy as np
import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from searchapp.models import ModelVersion, QuerySum
from searchapp.services import query_drift, query_log, search, versions
from searchapp.services.query_drift import LEAST, drift_of, photo_note, sums_write
from tests.searchapp.galleries import shop

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("data_dir")]

RNG = np.random.default_rng(0)


def unit(towards: np.ndarray) -> np.ndarray:
    photo = towards + RNG.normal(0, 0.3, 8)
    return (photo / np.linalg.norm(photo)).astype(np.float32)


def asked(
    version: ModelVersion, towards: np.ndarray, *, days_ago: float, hours: int = 8, count: int = 60
) -> None:
    for hour in range(hours):
        photos = np.stack([unit(towards) for _ in range(60)]) * (count / 60)
        QuerySum.objects.create(
            version=version.name,
            hour=timezone.now() - timedelta(days=days_ago, hours=hour),
            count=count,
            total=photos.sum(axis=0).tolist(),
            best=30.0,
        )


def test_sums_of_fewer_photos_never_leave_the_process() -> None:
    photos = [unit(np.ones(8)) for _ in range(LEAST)]
    for photo in photos[:-1]:
        photo_note("1.0", photo, 0.5)
    assert sums_write() == 0
    assert not QuerySum.objects.exists()

    photo_note("1.0", photos[-1], 0.5)
    assert sums_write() == LEAST

    row = QuerySum.objects.get()
    assert (row.version, row.count, row.best) == ("1.0", LEAST, LEAST * 0.5)
    assert np.allclose(row.total, np.sum(photos, axis=0, dtype=np.float64), atol=1e-5)
    assert sums_write() == 0


def test_processes_add_to_the_row_of_the_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now().replace(minute=30)
    monkeypatch.setattr("django.utils.timezone.now", lambda: now)
    for _ in range(2):
        for _ in range(LEAST):
            photo_note("1.0", unit(np.ones(8)), 0.5)
        sums_write()

    assert QuerySum.objects.get().count == 2 * LEAST


def test_a_search_by_photo_is_added_up_and_no_other(
    photos: list[bytes], django_assert_num_queries: DjangoAssertNumQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(photos)
    monkeypatch.setattr(query_drift, "LEAST", 2)
    search.search_by_image(data=photos[0])
    search.search_by_item(sku="apple-0")
    search.search_by_image(data=photos[1], text="apple")  # its best score is of those that hold the word
    query_log.flush()
    assert not QuerySum.objects.exists()

    search.search_by_image(data=photos[2])
    query_log.flush()

    row = QuerySum.objects.get()
    assert (row.version, row.count, len(row.total)) == ("1.0", 2, 128)
    assert 0 < row.best <= 2


def test_photos_that_look_alike_have_not_drifted_and_others_have() -> None:
    version = versions.default_version_ensure()
    first, other = np.eye(8)[0], np.eye(8)[0] + 0.5 * np.eye(8)[1]
    asked(version, first, days_ago=20)
    asked(version, first, days_ago=1)
    same = drift_of(version)
    assert same is not None
    assert not same.has_drifted
    assert same.distance < 0.01
    assert (same.photos_then, same.photos_now, same.best_now) == (480, 480, 0.5)
    assert same.words.startswith(
        "People ask with photos like those when 1.0 came into use: cosine distance 0.0"
    )

    QuerySum.objects.filter(hour__gt=timezone.now() - timedelta(days=7)).delete()
    asked(version, other, days_ago=1)
    moved = drift_of(version)
    assert moved is not None
    assert moved.has_drifted
    assert 0.05 < moved.low <= moved.distance <= moved.high
    assert moved.words.startswith("People ask with other photos than when 1.0 came into use")


def test_a_few_hours_tell_nothing() -> None:
    version = versions.default_version_ensure()
    asked(version, np.ones(8), days_ago=20)
    asked(version, np.ones(8), days_ago=1, hours=5)

    assert drift_of(version) is None


def test_a_shop_with_thousands_of_photos_an_hour_is_told_as_well() -> None:
    version = versions.default_version_ensure()
    asked(version, np.ones(8), days_ago=20, count=6000)
    asked(version, np.ones(8), days_ago=1, count=6000)

    found = drift_of(version)

    assert found is not None
    assert found.photos_then == 48_000
