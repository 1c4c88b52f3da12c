"""The operator's page of increments: what each learned, its proof and gates, undoing one, and the alarm beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from searchapp.models import Deployment, GalleryView, Job, JobState, ModelVersion
from searchapp.services import catalogue, drift_watch, versions
from searchapp.services.learning import learn_ask
from tests.searchapp.api_cast import operator_make, session_client
from tests.searchapp.galleries import shop
from tests.searchapp.test_pages_search import text_of

pytestmark = [pytest.mark.django_db, pytest.mark.database]

DIGEST = "9bfd3055" + "a" * 56
GATE = {"value": None, "low": None, "high": None, "seen_from": None, "threshold": 0.0, "items": 6}
LOSS = {"name": "old_query_map_loss", "threshold": 0.01, "value": 0.003, "low": -0.005, "high": 0.009}
GAIN = {"name": "new_class_gain", "value": 0.05, "low": -0.1, "high": 0.2, "verdict": "cannot_tell"}
GATES = [
    {**GATE, "name": "old_codes_changed", "verdict": "pass", "note": "6 old codes checked, 0 changed"},
    {**GATE, "name": "weights_not_finite", "verdict": "pass", "value": 0.0, "items": 404_001, "note": ""},
    {**GATE, **LOSS, "verdict": "pass", "note": "", "items": 12, "seen_from": 0.018},
    {**GATE, **GAIN, "note": "", "items": 3, "seen_from": -0.15},
]
RESULT: dict[str, Any] = {
    "parent": "1.0", "categories": ["kiwi", "leek"], "seconds": 41.2, "photos": 26,
    "old_codes_checked": 6, "old_codes_changed": 0, "old_digest_before": DIGEST, "old_digest_after": DIGEST,
    "old_queries": {"n": 40, "recall_at_1_before": 0.64, "recall_at_1_after": 0.635},
    "new_queries": {"n": 9, "recall_at_1_before": 0.25, "recall_at_1_after": 0.75},
    "gates": GATES,
}  # fmt: skip


@pytest.fixture
def operator() -> Client:
    return session_client(operator_make())


@pytest.fixture
def stocked(photos: Sequence[bytes], data_dir: Path) -> ModelVersion:
    shop(photos)
    return versions.champion().version


def increment(
    parent: ModelVersion, *, minor: int = 1, names: Sequence[str] = ("Kiwi", "Leek")
) -> ModelVersion:
    """What learning leaves: a version that is in use, its categories, and the job with its result."""
    learn_ask([catalogue.category_ensure(name) for name in names])
    slugs = [name.lower() for name in names]
    version = ModelVersion.objects.create(
        major=1, minor=minor, digest=str(minor) * 64, parent=parent, lineage=parent.lineage, method="lifelong",
        architecture="compact", code_bits=128, dimension=128, size_bytes=1, manifest=parent.manifest,
        label_registry=[*parent.label_registry, *slugs],
    )  # fmt: skip
    live = versions.champion()
    Deployment.objects.filter(pk=live.pk).update(ended_at=timezone.now())
    view = GalleryView.objects.create(version=version)
    Deployment.objects.create(version=version, view=view, previous=live, reason="learned kiwi, leek")
    result = {**RESULT, "version": version.name, "parent": parent.name, "categories": slugs}
    Job.objects.create(
        kind="learn_categories", state=JobState.DONE, result=result, finished_at=timezone.now()
    )
    return version


def test_an_increment_says_what_it_learned_from_what_and_that_no_code_changed(
    operator: Client, stocked: ModelVersion
) -> None:
    increment(stocked)

    page = text_of(operator.get("/ops/"))

    assert "1.1 In use, answers every query" in page
    assert "Learned Kiwi and Leek from 26 photos." in page
    assert "6 stored codes of known categories checked, 0 changed: 9bfd3055 = 9bfd3055" in page
    assert (
        "Put there in 41.2 s. Stored codes of known categories before and after: 9bfd3055 = 9bfd3055" in page
    )
    assert "Method increment: new categories learned, stored codes kept" in page
    assert "Made from 1.0 Lineage may be compared with 1.0" in page
    assert "Gallery 0 codes of its own; it reads those of 1.0 too" in page


def test_its_quality_is_told_before_and_after_and_each_gate_with_what_it_would_have_seen(
    operator: Client, stocked: ModelVersion
) -> None:
    increment(stocked)

    page = text_of(operator.get("/ops/"))

    assert "Known categories, right at first place (40) 64.0 % 63.5 %" in page
    assert "New categories, right at first place (9) 25.0 % 75.0 %" in page
    assert "Passes No stored code of known categories may change: 6 old codes checked, 0 changed" in page
    assert "Passes Every weight must be a finite number: all 404,001 are" in page
    assert (
        "Passes Known categories may lose at most 1 point of mean average precision: measured −0.3; a fall of more "
        "than 1.8 points would have been seen (−0.9 to +0.5)"
    ) in page
    assert (
        "Cannot tell New categories must not be found worse than before: measured +5.0, on photos of 3 items; 10 are "
        "needed; a fall of more than 15.0 points would have been seen (−10.0 to +20.0)"
    ) in page


def test_what_it_saved_is_told_by_what_was_measured(operator: Client, stocked: ModelVersion) -> None:
    increment(stocked)
    unknown = text_of(operator.get("/ops/"))
    timed = {"photos": 6, "steps": 1000, "timed_steps": 12, "step_seconds": 2.0}
    timed |= {"encoded_photos": 6, "encode_seconds": 0.6}
    Job.objects.create(kind="measure_pace", state=JobState.DONE, result=timed, finished_at=timezone.now())

    page = text_of(operator.get("/ops/"))

    learned = "Learned 2 categories in 41 s"
    assert f"{learned}. How long a full retrain would take here was not measured yet." in unknown
    assert f"{learned}; a full retrain and encoding all 6 photos again take about 33 min here" in page


def test_many_increments_cost_no_more_queries_than_one(operator: Client, stocked: ModelVersion) -> None:
    latest = increment(stocked)
    operator.get("/ops/")
    with CaptureQueriesContext(connection) as one:
        operator.get("/ops/")
    for minor in range(2, 6):
        latest = increment(latest, minor=minor, names=[f"Fruit{minor}"])

    with CaptureQueriesContext(connection) as many:
        page = text_of(operator.get("/ops/"))

    assert "Learned Fruit5 from 26 photos." in page
    assert len(many) == len(one)


def test_a_category_that_is_gone_is_named_by_its_address(operator: Client, stocked: ModelVersion) -> None:
    increment(stocked)
    catalogue.category_ensure("Leek").delete()

    assert "Learned Kiwi and leek from 26 photos." in text_of(operator.get("/ops/"))


def test_going_back_from_an_increment_says_what_waits_again_and_how_it_was_measured(
    operator: Client, stocked: ModelVersion
) -> None:
    increment(stocked)

    page = text_of(operator.get("/ops/rollback"))

    assert "This undoes what 1.1 learned: Kiwi and Leek." in page
    assert (
        "Measured when 1.1 was learned, on held-out photos, their number in brackets: before is 1.0." in page
    )
    assert "New categories, right at first place (9) 25.0 % 75.0 %" in page
    assert "Kiwi and Leek will wait to be learned again. Their photos are still found" in page
    assert "All 6 photos are encoded for 1.0" in page


def test_an_increment_that_failed_says_why_on_the_page(operator: Client, stocked: ModelVersion) -> None:
    Job.objects.create(
        kind="learn_categories", subject="Learn Kiwi", state=JobState.FAILED, finished_at=timezone.now(),
        error="old queries lose 0.0400 of mean average precision (Conflict)",
    )  # fmt: skip

    page = text_of(operator.get("/ops/"))

    assert "Learn Kiwi Failed" in page
    assert "old queries lose 0.0400 of mean average precision" in page


# --- the alarm


def look(version: ModelVersion, **found: Any) -> None:
    result = {
        "version": version.name, "lineage": str(version.lineage), "gallery": 1, "shift": None,
        "shift_untold": "not enough new photos to tell (0 of 32 needed)", "labels": None, "space": None,
        "limits": {"partial_from": 0.137, "full_from": 1.98, "lost_from": 0.0142, "crowded_below": None},
        "remedy": "none", "due": [], "reasons": [], "usual": [],
    }  # fmt: skip
    Job.objects.create(
        kind="watch_drift", state=JobState.DONE, result={**result, **found}, finished_at=timezone.now()
    )


def shift(statistic: float) -> dict[str, Any]:
    return {
        "statistic": statistic,
        "high": 0.1,
        "has_fired": statistic > 0.1,
        "photos": 300,
        "items": 57,
        "held_out": 500,
    }


BUTTON = "Train a candidate from all data"


def test_before_the_first_look_nothing_is_claimed(operator: Client, stocked: ModelVersion) -> None:
    page = text_of(operator.get("/ops/"))

    assert "Photos and labels: not looked at yet" in page
    assert BUTTON not in page


@pytest.mark.parametrize(
    ("statistic", "words"),
    [
        (
            0.0,
            "The newest 300 photos look like the held-out ones: 0.00 standard deviations apart on the mean",
        ),
        (0.12, "chance alone reaches 0.10, but only from 0.137 on it costs quality."),
    ],
)
def test_what_is_as_usual_is_told_quietly_and_offers_no_candidate(
    operator: Client, stocked: ModelVersion, statistic: float, words: str
) -> None:
    look(stocked, shift=shift(statistic), labels={"entries": 6, "moved": 0, "lost": 0.0})

    page = text_of(operator.get("/ops/"))

    assert "Photos and labels: as usual" in page
    assert words in page
    assert "0 of 6 stored codes have another category than they were made for." in page
    assert BUTTON not in page


@pytest.mark.parametrize(
    ("statistic", "meaning"),
    [
        (0.5, "A small update could give back a part of that"),
        (2.5, "a small update could give back little of that"),
    ],
)
def test_shifted_photos_raise_an_alarm_with_the_reason_as_measured_and_one_button(
    operator: Client, stocked: ModelVersion, statistic: float, meaning: str
) -> None:
    look(stocked, shift=shift(statistic), remedy="partial", due=["shift"])

    response = operator.get("/ops/")

    page = text_of(response)
    assert "New photos look different" in page
    assert (
        f"The newest 300 photos lie {statistic:.2f} standard deviations from where 500 held-out photos of their "
        "categories lie; chance alone reaches 0.10, and from 0.137 on it costs quality."
    ) in page
    assert meaning in page
    assert f'href="/ops/train">{BUTTON}</a>' in response.content.decode()


def test_moved_labels_raise_an_alarm_beside_the_other_one(operator: Client, stocked: ModelVersion) -> None:
    labels = {"entries": 2605, "moved": 79, "lost": 0.0332}
    look(stocked, shift=shift(0.5), labels=labels, remedy="full", due=["shift", "labels"])

    page = text_of(operator.get("/ops/"))

    assert "New photos look different, and categories moved away from their codes" in page
    assert (
        "79 of 2,605 stored codes have another category than they were made for: 3.32 % of code similarity is lost, "
        "and new codes are due from 1.42 % on."
    ) in page
    assert page.count(BUTTON) == 1


def test_measure_now_starts_one_look_and_the_page_follows_it(operator: Client, stocked: ModelVersion) -> None:
    for _ in range(2):
        told = operator.post("/ops/look", follow=True)

    assert "New photos and labels are being looked at" in text_of(told)
    assert "Being looked at now" in text_of(told)
    assert 'hx-trigger="every 2s"' in told.content.decode()
    assert Job.objects.filter(kind=drift_watch.KIND).count() == 1


def test_a_look_at_an_empty_catalogue_is_refused_in_words(operator: Client, data_dir: Path) -> None:
    versions.default_version_ensure()

    told = operator.post("/ops/look", follow=True)

    assert "There is nothing to look at yet" in text_of(told)
    assert Job.objects.count() == 0
