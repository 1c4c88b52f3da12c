"""The operator's pages of a training: what it would learn from, the running one, what became of it."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from ml.base_version.catalogue import GROWTH, SCRATCH_FACTOR
from ml.base_version.catalogue_photos import LEAST_OF_CLASS, ONE_IN
from searchapp.models import Job, JobState
from searchapp.services import training_plan as training_plan_module
from searchapp.services.training_photos import category_sizes, training_photos
from searchapp.services.training_plan import training_plan
from searchapp.views.training_form import share_words
from tests.searchapp.api_cast import operator_make, session_client
from tests.searchapp.galleries import item_with_photos, shop
from tests.searchapp.operating import HISTORY, running, training
from tests.searchapp.test_pages_search import text_of

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def olga() -> User:
    return operator_make()


@pytest.fixture
def operator(olga: User) -> Client:
    return session_client(olga)


def test_the_form_counts_what_would_be_learned_and_names_what_cannot_be(
    operator: Client, photos: Sequence[bytes], data_dir: Any
) -> None:
    shop(photos)
    item_with_photos("lonely", [photos[7]], "Garden > Lonely")

    page = text_of(operator.get("/ops/train"))

    assert re.search(r"Photos (\d+) Categories 2 Kept out 0 No photo is kept out", page)
    assert "1 category has fewer than 2 photos and cannot be learned Garden > Lonely" in page
    assert "No training was finished here yet" in page
    assert "Start the training" in page


def test_what_the_form_counts_is_what_a_training_would_take(photos: Sequence[bytes], data_dir: Any) -> None:
    shop(photos)
    item_with_photos("many", [photos[n] for n in (6, 7, 8, 9, 10, 11)], "Many")
    item_with_photos("again", [photos[6]], "Many")  # the same content twice
    counted = training_plan()

    sizes = category_sizes(training_photos())

    assert (counted.photos, counted.categories) == (sum(sizes.values()), len(sizes))


def test_the_time_it_may_take_is_told_at_the_pace_of_the_last_training(
    operator: Client, photos: Sequence[bytes], data_dir: Any
) -> None:
    shop(photos)
    plan = training_plan()
    done = {"seconds": 40.0, "photos": 2 * plan.photos, "architecture": "parity", "version": "9.9"}
    training(state=JobState.DONE, finished_at=timezone.now(), result=done)

    page = text_of(operator.get("/ops/train"))

    # 40 s / 2, as the last one was from scratch, * (1/2) ** 0.6: steps grow more slowly than photos
    assert f"About 13 s, if it goes as the last one did: {2 * plan.photos} photos in 40 s (parity)." in page


def test_the_last_training_from_scratch_counts_half_and_steps_are_those_of_the_recipe(
    photos: Sequence[bytes], data_dir: Any
) -> None:
    shop(photos)
    result = {"seconds": 40.0, "photos": training_plan().photos}
    training(state=JobState.DONE, finished_at=timezone.now(), result=result)
    Job.objects.update(payload={"from_scratch": True})

    assert training_plan().seconds_expected() == 20.0
    assert (training_plan_module.GROWTH, training_plan_module.SCRATCH_FACTOR) == (GROWTH, SCRATCH_FACTOR)
    assert (training_plan_module.CHECKED_ONE_IN, training_plan_module.CHECKED_LEAST) == (
        ONE_IN,
        LEAST_OF_CLASS,
    )


def test_photos_that_only_check_the_training_are_not_counted_as_labels(
    photos: Sequence[bytes], data_dir: Any
) -> None:
    item_with_photos("many", photos[:12], "Many")
    sizes = category_sizes(training_photos())
    plan = training_plan()

    assert plan.checked == sum(size // 8 for size in sizes.values() if size >= 8) == 1
    more = replace(plan, photos=40, categories=2, checked=4)
    assert share_words(more, "100") == (
        "The category of every photo is used: 36 labels, and 4 more that only check the result."
    )
    assert share_words(more, "10").startswith("About 4 labels.")


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


def test_starting_makes_one_job_of_what_was_chosen_and_leads_to_its_page(
    operator: Client, olga: User, photos: Sequence[bytes], data_dir: Any
) -> None:
    shop(photos)
    form = {"share": "other", "other_share": "2.5", "architecture": "budget", "start": "scratch"}

    response = operator.post("/ops/train", {**form, "promote": "on"})

    job = Job.objects.get(kind="train_base")
    assert response["Location"] == f"/ops/train/{job.pk}/"
    assert (job.created_by, job.queue, job.state) == (olga, Job.Queue.TRAINING, JobState.QUEUED)
    chosen = {"label_fraction": 0.025, "architecture": "budget", "from_scratch": True, "promote": True}
    assert chosen.items() <= job.payload.items()


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


def test_a_training_is_found_only_under_its_own_kind(operator: Client) -> None:
    other = Job.objects.create(kind="import_catalogue")

    assert operator.get(f"/ops/train/{other.pk}/").status_code == 404
    assert operator.post(f"/ops/train/{other.pk}/cancel").status_code == 404
    other.refresh_from_db()
    assert (other.state, other.cancel_requested) == (JobState.QUEUED, False)


PILOT = {"words": "After 2 of 5 epochs the candidate finds what is stored.", "cross_map": 0.37}


def candidate_training(**fields: Any) -> Job:
    history = [
        {"epoch": 1, "loss": 4.0},
        {"epoch": 2, "loss": 3.0, "validation": 0.4, "cross": 0.3, "own": 0.5},
    ]
    checkpoint = {"stage": "training", "epochs": 5, "history": history, "pilot": PILOT}
    payload = {"method": "ndpp", "architecture": "budget", "scope": {}, "pilot": True}
    return running(**{"kind": "train_candidate", "payload": payload, "checkpoint": checkpoint, **fields})


def test_a_candidate_is_asked_for_with_a_method_a_network_and_a_pilot(
    operator: Client, photos: Sequence[bytes], data_dir: Any
) -> None:
    shop(photos)
    asked = text_of(operator.get("/ops/candidates/train"))
    form = {
        "method": "odpp",
        "architecture": "residual",
        "scope": "vertical=product",
        "epochs": "3",
        "pilot": "on",
    }

    response = operator.post("/ops/candidates/train", form)
    wrong = operator.post("/ops/candidates/train", {**form, "method": "magic", "epochs": "0"})

    job = Job.objects.get(kind="train_candidate")
    assert "NDPP Finds what is stored as well as it can" in asked
    assert response["Location"] == f"/ops/train/{job.pk}/"
    wish = {
        "method": "odpp",
        "architecture": "residual",
        "scope": {"vertical": "product"},
        "epochs": 3,
        "pilot": True,
    }
    assert wish.items() <= job.payload.items()
    assert wrong.status_code == 400
    assert "magic is not one of the available choices" in text_of(wrong)
    assert Job.objects.filter(kind="train_candidate").count() == 1


def test_a_candidate_s_training_tells_what_its_pilot_said_and_how_it_finds_what_is_stored(
    operator: Client,
) -> None:
    path = f"/ops/train/{candidate_training().pk}/?figures=table"

    page = text_of(operator.get(path))

    assert "Method: NDPP Architecture: budget" in page
    assert "Read the photos , done Try a tenth , done Train , now Read what is stored , to come Judge" in page
    assert "What the pilot says After 2 of 5 epochs the candidate finds what is stored." in page
    assert "How it finds what is stored is 0.300 in epoch 2." in page
    assert "2 3.0000 0.4000 0.3000 0.5000" in page


def test_what_the_pilot_said_stands_beside_what_came_of_it(operator: Client) -> None:
    outcome = {"cross_map": 0.412, "seconds": 300.0}
    job = candidate_training(state=JobState.DONE, result={"pilot": {**PILOT, "outcome": outcome}})

    assert "It came to 0.412 after 5 min." in text_of(operator.get(f"/ops/train/{job.pk}/"))
