"""What an increment saves is told by what was measured on this machine, and by nothing else."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from pytest_django.fixtures import Settings

from ml.base_version.catalogue import recipe_for
from searchapp.models import EvaluationQuery, ItemImage, Job, JobState
from searchapp.services import catalogue, media, savings
from searchapp.services.jobs import job_run_here
from searchapp.services.pace_measuring import TIMED_STEPS, steps_of
from searchapp.services.savings import duration_words, pace_if_due, rates_here, savings_of
from tests.searchapp.coded_rows import items_of
from tests.searchapp.galleries import shop
from tests.searchapp.trainings import small_shop

pytestmark = [pytest.mark.django_db, pytest.mark.database]

INCREMENT = {"version": "1.1", "categories": ["kiwi", "leek"], "seconds": 41.2}


@pytest.fixture(autouse=True)
def _no_heartbeat(settings: Settings) -> None:
    """The lease's thread has a connection of its own and cannot see this test's rows."""
    settings.JOB_LEASE_SECONDS = 3600


def photos_of(count: int) -> None:
    items_of(catalogue.category_ensure("Apple", waits=False), [1] * count)


def done(kind: str, result: dict[str, Any], *, minutes_ago: int = 0, **payload: Any) -> Job:
    at = timezone.now() - timedelta(minutes=minutes_ago)
    return Job.objects.create(kind=kind, state=JobState.DONE, result=result, payload=payload, finished_at=at)


def test_what_nobody_measured_is_not_told() -> None:
    photos_of(10)

    found = savings_of(INCREMENT)

    assert (found.update_seconds, found.retrain_seconds, found.encode_seconds) == (41.2, None, None)
    assert found.how_measured == ""
    assert (
        found.sentence
        == "Learned 2 categories in 41 s. How long a full retrain would take here was not measured yet."
    )


def test_the_last_standard_training_and_encoding_are_the_measure_and_grow_with_the_catalogue() -> None:
    photos_of(1000)
    done("train_base", {"training_seconds": 600.0, "seconds": 900.0, "photos": 500}, config={})
    done("encode_images", {"encoded": 400, "seconds": 8.0})

    found = savings_of(INCREMENT)

    assert found.retrain_seconds == pytest.approx(600 * 2**0.6)
    assert found.encode_seconds == pytest.approx(20.0)
    assert found.sentence == (
        "Learned 2 categories in 41 s; a full retrain and encoding all 1,000 photos again take about 15 min here "
        "(training: as the last one did, 500 photos in 10 min; encoding: as the last 400 photos took, 8.0 s)."
    )


def test_held_out_and_unreadable_photos_are_no_part_of_what_is_trained() -> None:
    photos_of(4)
    unreadable, held_out, *_ = ItemImage.objects.select_related("item__category")
    ItemImage.objects.filter(pk=unreadable.pk).update(failure="The stored file is missing.")
    EvaluationQuery.objects.create(
        source="test:1", split="test", image_sha256=held_out.image_sha256, upload_sha256="a" * 64, extension="jpg",
        relevance="category", category=held_out.item.category,
    )  # fmt: skip

    found = rates_here()

    assert (found.to_train, found.to_encode) == (2, 3)


def test_a_training_with_settings_of_its_own_and_an_encoding_of_a_few_photos_measure_nothing() -> None:
    photos_of(10)
    done("train_base", {"training_seconds": 600.0, "photos": 10}, config={}, minutes_ago=5)
    done("train_base", {"training_seconds": 2.0, "photos": 10}, config={"fit": {"epochs": 9}})
    done("encode_images", {"encoded": 99, "seconds": 8.0})

    found = savings_of(INCREMENT)

    assert found.retrain_seconds == pytest.approx(600)
    assert found.encode_seconds is None
    assert "a full retrain, without encoding again, takes about 10 min here" in found.sentence


def test_a_training_from_random_weights_took_twice_as_long_as_one_that_goes_on() -> None:
    photos_of(10)
    done("train_base", {"training_seconds": 600.0, "photos": 10}, config={}, from_scratch=True)

    found = savings_of(INCREMENT)

    assert found.retrain_seconds == pytest.approx(300)
    assert found.how_measured == (
        "training: half of the last one, which began from random weights, 10 photos in 10 min"
    )


def test_steps_and_photos_are_timed_where_no_training_was_and_a_damaged_photo_is_left_out(
    data_packs: Path, data_dir: Path
) -> None:
    small_shop(data_packs, count=9)
    damaged = ItemImage.objects.order_by("-pk")[0]
    media.media_path(damaged.path).write_bytes(b"no picture")

    job = job_run_here(savings.pace_start())

    result = dict(job.result or {})
    assert job.state == JobState.DONE, job.error
    assert result["timed_steps"] == TIMED_STEPS
    assert result["photos"] == 18
    assert result["encoded_photos"] == 17
    assert 0 < result["step_seconds"] < 30
    assert result["steps"] == steps_of(recipe_for("parity", [9, 9]), [9, 9])
    found = savings_of(INCREMENT)
    assert found.retrain_seconds == pytest.approx(result["step_seconds"] * result["steps"])
    assert found.encode_seconds == pytest.approx(18 * result["encode_seconds"] / 17)
    assert (
        f"estimated from {TIMED_STEPS} timed steps of the {result['steps']:,} it would take"
        in found.how_measured
    )
    assert "estimated from 17 timed photos" in found.how_measured


def test_a_measured_training_is_believed_before_timed_steps() -> None:
    photos_of(10)
    timed = {"photos": 10, "steps": 100, "timed_steps": 12, "step_seconds": 9.0, "encoded_photos": 30}
    done("measure_pace", {**timed, "encode_seconds": 3.0})
    estimated = savings_of(INCREMENT)
    done("train_base", {"training_seconds": 600.0, "photos": 10}, config={})

    measured = savings_of(INCREMENT)

    assert estimated.retrain_seconds == pytest.approx(900)
    assert measured.retrain_seconds == pytest.approx(600)
    assert measured.encode_seconds == estimated.encode_seconds == pytest.approx(1.0)


def test_steps_are_those_of_a_whole_training_less_the_photos_that_check_it() -> None:
    recipe = recipe_for("parity", [40, 24, 7])

    batch = recipe.sampling.classes_per_batch * recipe.sampling.images_per_class
    assert steps_of(recipe, [40, 24, 7]) == recipe.fit.epochs * max(1, (40 - 5 + 24 - 3 + 7) // batch)


def test_too_little_to_train_on_is_said_and_nothing_is_timed(photos: Sequence[bytes], data_dir: Path) -> None:
    items = shop(photos)
    for item in items[:3]:
        item.delete()

    job = job_run_here(savings.pace_start())

    assert job.state == JobState.FAILED
    assert job.error.startswith("1 categories have two or more photos to train on, at least 2 are needed")
    assert savings_of(INCREMENT).retrain_seconds is None


def test_the_machine_is_timed_once_there_is_an_increment_and_while_no_training_runs() -> None:
    before = pace_if_due()
    done("learn_categories", INCREMENT)
    training = Job.objects.create(kind="train_base", queue=Job.Queue.TRAINING)
    meanwhile = pace_if_due()
    training.delete()
    due = pace_if_due()

    assert (before, meanwhile) == (None, None)
    assert due is not None
    assert pace_if_due() is None


def test_a_timing_that_failed_is_tried_again_after_an_hour_and_a_measured_machine_is_not_timed() -> None:
    done("learn_categories", INCREMENT)
    failed = Job.objects.create(kind="measure_pace", state=JobState.FAILED)
    at_once = pace_if_due()
    Job.objects.filter(pk=failed.pk).update(created_at=timezone.now() - timedelta(minutes=61))
    done("train_base", {"training_seconds": 600.0, "photos": 10}, config={})
    encoding = done("encode_images", {"encoded": 400, "seconds": 8.0})
    measured = pace_if_due()
    encoding.delete()

    assert (at_once, measured) == (None, None)
    assert pace_if_due() is not None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0.4 s"), (41.2, "41 s"), (89.4, "89 s"), (90, "2 min"), (2280, "38 min"), (7200, "2.0 h")],
)
def test_durations_are_told_in_the_unit_that_suits(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words
