"""The operator's pages: model versions, the training of one from the catalogue, and the buttons that move the pointer."""

import re
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from searchapp.models import Deployment, Evaluation, Job, JobState, ModelVersion
from searchapp.services import versions
from tests.searchapp.api_cast import operator_make, session_client, user_make
from tests.searchapp.galleries import item_with_photos, shop
from tests.searchapp.test_pages_search import text_of

pytestmark = [pytest.mark.django_db, pytest.mark.database]
HISTORY = [
    {"epoch": 1, "loss": 4.0},
    {"epoch": 2, "loss": 3.0, "validation": 0.25},
    {"epoch": 3, "loss": 1.0, "validation": 0.5},
]


@pytest.fixture
def olga() -> User:
    return operator_make()


@pytest.fixture
def operator(olga: User) -> Client:
    return session_client(olga)


def training(**fields: Any) -> Job:
    return Job.objects.create(
        **{
            "kind": "train_base",
            "queue": Job.Queue.TRAINING,
            "subject": "Base version from 61 photos",
            "payload": {"label_fraction": 0.1, "architecture": "budget", "from_scratch": True},
            **fields,
        }
    )


def running(**fields: Any) -> Job:
    checkpoint = {"stage": "training", "epochs": 5, "history": HISTORY}
    started = timezone.now() - timedelta(seconds=60)
    moving = {"state": JobState.RUNNING, "started_at": started, "done_count": 3, "total_count": 6}
    return training(**{**moving, "checkpoint": checkpoint, **fields})


def candidate(olga: User | None = None) -> ModelVersion:
    first = versions.default_version_ensure()
    return ModelVersion.objects.create(
        major=2, minor=0, digest="b" * 64, lineage=uuid.uuid4(), method="twin-bottleneck",
        architecture="compact", code_bits=128, dimension=128, size_bytes=1_500_000, manifest=first.manifest,
        created_by=olga,
    )  # fmt: skip


# --- who may


@pytest.mark.parametrize("path", ["/ops/", "/ops/train", "/ops/rollback", "/ops/versions/1.0/promote"])
def test_the_pages_are_for_operators_alone_and_send_the_others_away(path: str) -> None:
    staff = session_client(user_make("sam", is_staff=True), raise_request_exception=False)

    assert Client().get(path)["Location"].startswith("/login/?next=")
    assert staff.get(path).status_code == 403


def test_only_an_operator_s_header_leads_to_the_models(operator: Client, data_dir: Any) -> None:
    staff = session_client(user_make("sam", is_staff=True))

    assert 'href="/ops/"' in operator.get("/jobs/").content.decode()
    assert 'href="/ops/"' not in staff.get("/jobs/").content.decode()
    assert 'href="/ops/"' not in Client().get("/login/").content.decode()


def test_a_training_is_found_only_under_its_own_kind(operator: Client) -> None:
    other = Job.objects.create(kind="import_catalogue")

    assert operator.get(f"/ops/train/{other.pk}/").status_code == 404
    assert operator.post(f"/ops/train/{other.pk}/cancel").status_code == 404
    other.refresh_from_db()
    assert (other.state, other.cancel_requested) == (JobState.QUEUED, False)


# --- the versions


def test_without_any_version_the_page_says_what_is_missing(operator: Client) -> None:
    page = text_of(operator.get("/ops/"))

    assert "No version yet" in page
    assert "is in use" not in page


def test_the_version_in_use_says_since_when_what_it_made_and_that_it_answers_everything(
    operator: Client, photos: Sequence[bytes], data_dir: Any
) -> None:
    shop(photos)

    page = text_of(operator.get("/ops/"))

    assert "1.0 is in use put in use now · the version Perennial is shipped with" in page
    assert "1.0 6 · 100 %" in page
    assert "In use, answers every query shipped with Perennial" in page
    assert "Gallery 6 of 6 photos encoded" in page
    assert "Put in use" not in page


def test_a_candidate_says_who_made_it_from_what_and_offers_to_be_used(
    operator: Client, olga: User, data_dir: Any
) -> None:
    candidate(olga)

    page = text_of(operator.get("/ops/"))

    assert "2.0 Not in use, answers no query made by olga, now" in page
    assert "Method twin-bottleneck hashing Architecture compact Size 1.4 MB" in page.replace("\xa0", " ")
    assert "Lineage its own; compared with no other version" in page
    assert "Put in use" in page


def test_the_list_costs_the_same_queries_for_many_versions_and_trainings(
    operator: Client, data_dir: Any
) -> None:
    candidate()
    training(state=JobState.DONE)
    operator.get("/ops/")
    with CaptureQueriesContext(connection) as few:
        operator.get("/ops/")
    for number in range(3, 9):
        ModelVersion.objects.create(
            major=number, minor=0, digest=str(number) * 64, lineage=uuid.uuid4(), method="compact",
            architecture="compact", code_bits=128, dimension=128, size_bytes=1,
        )  # fmt: skip
        training(state=JobState.DONE)

    with CaptureQueriesContext(connection) as many:
        operator.get("/ops/")

    assert len(many) == len(few)


# --- before a training


def test_the_form_counts_what_would_be_learned_and_names_what_cannot_be(
    operator: Client, photos: Sequence[bytes], data_dir: Any
) -> None:
    shop(photos)
    item_with_photos("lonely", [photos[7]], "Garden > Lonely")

    page = text_of(operator.get("/ops/train"))

    assert "Photos 6 Categories 2 Kept out 0" in page
    assert "1 category has fewer than 2 photos and cannot be learned Garden > Lonely" in page
    assert "No training was finished here yet" in page
    assert "Start the training" in page


def test_too_small_a_catalogue_is_told_so_and_gets_no_button(operator: Client, data_dir: Any) -> None:
    page = text_of(operator.get("/ops/train"))

    assert "Too little to learn from" in page
    assert "Start the training" not in page


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"share": "other", "other_share": ""}, "Give the share in percent"),
        ({"share": "other", "other_share": "0"}, "greater than or equal to 0.1"),
        ({"share": "other", "other_share": "101"}, "less than or equal to 100"),
        ({"share": "other", "other_share": "all"}, "Enter a number"),
        ({"share": "50"}, "50 is not one of the available choices"),
        ({"architecture": "enormous"}, "enormous is not one of the available choices"),
        ({"start": ""}, "This field is required"),
    ],
)
def test_wrong_input_is_refused_beside_its_field_and_starts_nothing(
    operator: Client, photos: Sequence[bytes], data_dir: Any, changed: dict[str, str], said: str
) -> None:
    shop(photos)
    form = {"share": "100", "other_share": "", "architecture": "parity", "start": "in_use", **changed}

    response = operator.post("/ops/train", form)

    assert response.status_code == 400
    assert said in text_of(response)
    assert not Job.objects.filter(kind="train_base").exists()


# --- a training


def test_a_waiting_training_says_so_and_has_no_curves_yet(operator: Client) -> None:
    page = text_of(operator.get(f"/ops/train/{training().pk}/"))

    assert "Waiting" in page
    assert "Waits for its turn: one training runs at a time." in page
    assert "The curves appear with the first epoch." in page


def test_a_running_training_tells_its_state_its_choices_and_its_curves_in_words(operator: Client) -> None:
    response = operator.get(f"/ops/train/{running().pk}/")
    page, html = text_of(response), response.content.decode()

    assert "Labels used: 10 % Architecture: budget Start: from scratch" in page
    assert "Running 50 %" in page
    assert re.search(r"Learning, epoch 3 of 5, about (5\d|6\d) s left\.", page)
    assert "Read the photos , done Train , now Encode the catalogue , to come" in page
    assert "The loss went from 4.000 in epoch 1 to 1.000 in epoch 3; lowest 1.000 in epoch 3." in page
    assert "from 0.250 in epoch 2 to 0.500 in epoch 3; highest 0.500 in epoch 3." in page
    assert html.count("<polyline") == 2
    assert 'hx-trigger="every 2s"' in html
    assert "without-script" in html  # a plain link that loads the page again


def test_what_is_not_a_number_is_left_out_of_curve_and_table(operator: Client) -> None:
    odd = [{"epoch": 1, "loss": None}, {"epoch": 2, "loss": 2.0}, {"loss": 9.0}, {"epoch": 3, "loss": "?"}]
    job = running(checkpoint={"stage": "training", "epochs": 3, "history": odd})

    page = text_of(operator.get(f"/ops/train/{job.pk}/?figures=table"))

    assert "The loss is 2.000 in epoch 2." in page
    assert "3 – – 2 2.0000 – 1 – –" in page


def test_the_curves_come_as_a_table_too_and_polling_keeps_it_open(operator: Client) -> None:
    path = f"/ops/train/{running().pk}/?figures=table"
    response = operator.get(path)

    assert "Epoch Loss Validation 3 1.0000 0.5000 2 3.0000 0.2500 1 4.0000 –" in text_of(response)
    assert f'hx-get="{path}"' in response.content.decode()


def test_polling_gives_the_moving_part_and_once_it_has_ended_asks_for_the_page_anew(operator: Client) -> None:
    job = running()
    moving = operator.get(f"/ops/train/{job.pk}/", headers={"HX-Request": "true"})
    Job.objects.filter(pk=job.pk).update(state=JobState.DONE, result={})
    ended = operator.get(f"/ops/train/{job.pk}/", headers={"HX-Request": "true"})

    assert "<html" not in moving.content.decode()
    assert "Cancel" not in moving.content.decode()  # what has the focus is never replaced
    assert "HX-Refresh" not in moving
    assert ended["HX-Refresh"] == "true"
    assert "hx-trigger" not in operator.get(f"/ops/train/{job.pk}/").content.decode()


def test_a_failed_training_says_why_and_what_is_kept(operator: Client) -> None:
    job = running(state=JobState.FAILED, error="no space: free some on the disk, then retry (NoSpace)")

    page = text_of(operator.get(f"/ops/train/{job.pk}/"))

    assert "Failed Stopped after epoch 3 of 5." in page
    assert "no space: free some on the disk, then retry (NoSpace) The first 3 epochs are kept." in page
    assert "Go on where it stopped" in page


def test_cancelling_asks_first_and_tells_what_is_kept(operator: Client) -> None:
    job = running()

    asked = operator.get(f"/ops/train/{job.pk}/cancel")
    job.refresh_from_db()
    before = job.cancel_requested
    answered = operator.post(f"/ops/train/{job.pk}/cancel", follow=True)

    job.refresh_from_db()
    assert "The first 3 epochs are kept." in text_of(asked)
    assert (before, job.cancel_requested) == (False, True)
    assert "The training is being cancelled." in text_of(answered)
    assert "Cancelling" in text_of(answered)


def test_a_cancelled_training_goes_on_from_where_it_stopped_as_a_new_job(operator: Client) -> None:
    job = running(state=JobState.CANCELLED)

    page = text_of(operator.get(f"/ops/train/{job.pk}/"))
    response = operator.post(f"/ops/train/{job.pk}/retry")

    again = Job.objects.get(retry_of=job)
    assert "Cancelled after epoch 3 of 5." in page
    assert response["Location"] == f"/ops/train/{again.pk}/"
    assert again.checkpoint["history"] == HISTORY


def test_a_training_that_is_done_cannot_be_cancelled_or_retried_and_says_so(operator: Client) -> None:
    job = training(state=JobState.DONE, result={})

    cancelled = operator.post(f"/ops/train/{job.pk}/cancel", follow=True)
    retried = operator.post(f"/ops/train/{job.pk}/retry", follow=True)

    assert "only a waiting or running one can be cancelled" in text_of(cancelled)
    assert "only a failed or cancelled one can be retried" in text_of(retried)
    assert Job.objects.count() == 1


# --- moving the pointer


def test_without_a_token_nothing_starts_stops_or_moves(olga: User, data_dir: Any) -> None:
    candidate()
    job = running()
    strict = session_client(olga, enforce_csrf_checks=True)
    paths = ["/ops/train", "/ops/rollback", "/ops/versions/2.0/promote"]
    paths += [f"/ops/train/{job.pk}/{verb}" for verb in ("cancel", "retry")]

    assert {strict.post(path).status_code for path in paths} == {403}
    job.refresh_from_db()
    assert job.cancel_requested is False
    assert Job.objects.count() == 1
    assert Deployment.objects.get(ended_at__isnull=True).version.name == "1.0"


def test_an_unknown_version_is_404(operator: Client) -> None:
    assert operator.get("/ops/versions/7.7/promote").status_code == 404
    assert operator.post("/ops/versions/7.7/promote").status_code == 404
