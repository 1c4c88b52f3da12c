"""A category's page: from uploaded to learned, with the proof, or with what stands in the way."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from searchapp.models import Category, EvaluationQuery, Item, ItemImage, Job, JobState, ModelVersion
from searchapp.services import catalogue
from searchapp.services.category_progress import CategoryProgress, category_progress
from tests.searchapp.api_cast import session_client, user_make
from tests.searchapp.galleries import encode_missing, item_with_photos, shop
from tests.searchapp.new_categories import (
    CATEGORIES,
    GATES,
    RESULT,
    in_use,
    job_change,
    learned,
    learning_job,
    page_of,
    papaya_added,
)
from tests.searchapp.test_pages_search import HOSTILE, text_of

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def sue(data_dir: Path) -> User:
    return user_make("sue", is_staff=True, is_superuser=True)


@pytest.fixture
def admin(sue: User) -> Client:
    return session_client(sue)


@pytest.fixture
def papaya(sue: User, photos: list[bytes]) -> Category:
    return papaya_added(photos, sue)


def states(progress: CategoryProgress) -> dict[str, str]:
    return {step.name: step.state for step in progress.steps}


def test_stock_is_known_and_needs_no_learning(admin: Client, photos: list[bytes], sue: User) -> None:
    apple = shop(photos)[0].category

    progress = category_progress(apple)

    assert (progress.state, progress.may_learn, progress.is_active) == ("known", False, False)
    assert states(progress) == {
        "uploaded": "done", "checked": "done", "learning": "skipped", "coded": "done", "searchable": "done",
    }  # fmt: skip
    assert {photo.state for photo in progress.photos} == {"searchable"}
    assert "Known since the gallery was stocked. All 3 photos are found." in text_of(
        admin.get(page_of(apple))
    )


def test_a_new_category_goes_from_uploaded_to_provisional_to_learned(papaya: Category) -> None:
    uploaded = category_progress(papaya)
    encode_missing()
    found = category_progress(papaya)
    job_change(
        state=JobState.RUNNING, started_at=timezone.now(), done_count=400, total_count=1000,
        checkpoint={"stage": "training", "categories": ["papaya"], "epochs": 15, "history": [{"epoch": 4, "loss": 1}]},
    )  # fmt: skip
    training = category_progress(papaya)
    version = learned(papaya)
    done = category_progress(papaya)

    waiting = {"uploaded": "done", "checked": "done", "learning": "waiting", "coded": "waiting"}
    assert states(uploaded) == {**waiting, "searchable": "waiting"}
    assert (uploaded.state, uploaded.job, uploaded.is_active) == ("waiting", learning_job(), True)
    assert {photo.state for photo in uploaded.photos} == {"pending"}
    assert states(found) == {**waiting, "searchable": "now"}
    assert {photo.state for photo in found.photos} == {"provisional"}
    assert (training.state, states(training)["learning"]) == ("learning", "now")
    assert (training.step("learning").done, training.step("learning").total) == (400, 1000)
    assert training.eta_seconds is not None
    assert set(states(done).values()) == {"done"}
    assert (done.state, done.learned_by, done.is_active) == ("learned", version, False)
    assert (done.counts.coded, {photo.state for photo in done.photos}) == (3, {"learned"})


def test_the_page_asks_again_every_two_seconds_while_something_moves_and_then_stops(
    admin: Client, papaya: Category
) -> None:
    moving = admin.get(page_of(papaya)).content.decode()
    part = admin.get(page_of(papaya), headers={"HX-Request": "true"}).content.decode()
    learned(papaya)
    Job.objects.filter(kind="encode_images").update(state=JobState.DONE)
    settled = admin.get(page_of(papaya), headers={"HX-Request": "true"}).content.decode()

    assert 'hx-trigger="every 2s"' in moving
    assert f'href="{page_of(papaya)}">Refresh</a>' in moving
    assert part.lstrip().startswith('<div id="category-live"')
    assert 'hx-trigger="every 2s"' in part
    assert "every 2s" not in settled
    assert "Refresh" not in settled


def test_the_proof_says_how_many_codes_were_checked_and_what_the_answers_gained(
    admin: Client, papaya: Category
) -> None:
    learned(papaya)

    page = text_of(admin.get(page_of(papaya)))

    assert "4,752 stored codes checked · 0 changed · a91fa91f… = a91fa91f…" in page
    assert "Version 1.1 out of 1.0, together with 1 other; 11.6 s of training." in page
    assert "Learned 2 categories in 13 s" in page
    for figure in ("0.612", "0.611", "−0.001", "0.310", "0.780", "+0.470"):
        assert figure in page
    assert "Undo: go back to 1.0" in page


def test_the_proof_is_there_as_soon_as_the_version_is_in_use_and_the_page_waits_for_the_job_to_end(
    admin: Client, papaya: Category
) -> None:
    learned(papaya)
    job_change(state=JobState.RUNNING, result=None, checkpoint={"stage": "publishing", "published": RESULT})

    page = admin.get(page_of(papaya))

    assert "4,752 stored codes checked · 0 changed" in text_of(page)
    assert "every 2s" in page.content.decode()
    assert "cancel-learning" not in page.content.decode()


def test_a_photo_that_cannot_be_read_says_why_and_the_others_go_on(admin: Client, papaya: Category) -> None:
    image = ItemImage.objects.filter(item__category=papaya).first()
    assert image is not None
    ItemImage.objects.filter(pk=image.pk).update(
        failure="The stored file is missing; upload the photo again."
    )

    progress = category_progress(papaya)

    assert states(progress)["checked"] == "failed"
    assert (progress.counts.usable, progress.counts.failed) == (2, 1)
    page = text_of(admin.get(page_of(papaya)))
    assert "The stored file is missing; upload the photo again." in page
    assert "2 of 3" in page


def test_a_refused_increment_shows_the_reason_the_gates_and_what_would_have_been_seen(
    admin: Client, papaya: Category
) -> None:
    encode_missing()
    job_change(
        state=JobState.FAILED, error="The new version was not put in use, and nothing was changed. (Conflict)",
        checkpoint={"stage": "checking", "categories": ["papaya"], "gates": GATES},
    )  # fmt: skip

    progress = category_progress(papaya)
    page = text_of(admin.get(page_of(papaya)))

    assert (progress.state, states(progress)["learning"], progress.may_learn) == ("waiting", "failed", True)
    assert "Learning stopped; nothing stored was changed. All 3 photos are found already" in page
    assert "The new version was not put in use" in page
    assert "(Conflict)" not in page
    assert "0.0500 (0.0200 to 0.0800)" in page
    assert "a loss of more than 0.0400 would have been seen" in page
    assert "Try again" in page


def test_learning_is_cancelled_and_asked_for_again_on_the_page(admin: Client, papaya: Category) -> None:
    admin.post(f"{CATEGORIES}{papaya.pk}/cancel/")
    cancelled = learning_job()
    page = text_of(admin.get(page_of(papaya)))
    admin.post(f"{CATEGORIES}{papaya.pk}/learn/")

    assert cancelled.state == JobState.CANCELLED
    assert "Learning was cancelled; nothing stored was changed." in page
    again = Job.objects.filter(kind="learn_categories").exclude(pk=cancelled.pk).get()
    assert again.state == JobState.QUEUED
    assert category_progress(papaya).job == again


def test_a_job_that_was_cancelled_before_the_category_came_is_none_of_its_business(papaya: Category) -> None:
    job_change(state=JobState.CANCELLED, finished_at=papaya.created_at - timedelta(minutes=1))

    progress = category_progress(papaya)

    assert (progress.job, progress.may_learn) == (None, True)


def test_no_time_left_is_told_before_two_rounds_show_the_pace(admin: Client, papaya: Category) -> None:
    rounds = [{"epoch": number, "loss": 1.0} for number in (1, 2)]
    pages = []
    for history in (rounds[:1], rounds):
        job_change(
            state=JobState.RUNNING, started_at=timezone.now() - timedelta(seconds=30), done_count=400, total_count=800,
            checkpoint={"stage": "training", "categories": ["papaya"], "epochs": 15, "history": history},
        )  # fmt: skip
        pages.append(text_of(admin.get(page_of(papaya))))

    assert "Learning: round 2 of 15. " in pages[0]
    assert "Learning: round 3 of 15, about 30 s left. " in pages[1]


def test_after_going_back_it_says_that_the_version_in_use_has_not_learned_it(
    admin: Client, papaya: Category
) -> None:
    version = learned(papaya)
    first = ModelVersion.objects.get(minor=0)
    in_use(first)

    progress = category_progress(papaya)
    page = text_of(admin.get(page_of(papaya)))

    assert (progress.state, progress.is_forgotten, progress.learned_by) == ("waiting", True, version)
    assert {photo.state for photo in progress.photos} == {"provisional"}
    assert "Version 1.1 learned it, but version 1.0, which is in use, has not." in page
    assert "Learn again" in page
    assert "Undo" not in page


def test_learned_anew_after_going_back_it_is_the_new_version_that_is_named(papaya: Category) -> None:
    version = learned(papaya)
    first = ModelVersion.objects.get(minor=0)
    in_use(first)
    version.pk, version.minor, version.digest, version.parent = None, 2, "e" * 64, first
    version.save(force_insert=True)
    again = Job.objects.create(
        kind="learn_categories", state=JobState.DONE, result={**RESULT, "version": "1.2", "parent": "1.0"}
    )
    in_use(version)
    later = ModelVersion.objects.get(pk=version.pk)
    later.pk, later.minor, later.digest, later.parent = None, 3, "f" * 64, version
    later.save(force_insert=True)
    in_use(later)

    progress = category_progress(papaya)

    assert (str(progress.version), str(progress.learned_by)) == ("1.3", "1.2")
    assert progress.job == again


def test_a_search_is_tried_with_a_photo_that_was_held_out_or_else_with_one_of_its_own(
    admin: Client, papaya: Category
) -> None:
    encode_missing()
    Job.objects.update(state=JobState.DONE)
    own = admin.get(page_of(papaya)).content.decode()
    image = ItemImage.objects.filter(item__category=papaya)[0]
    query = EvaluationQuery.objects.create(
        source="a test photo", split="test", image_sha256=image.image_sha256, upload_sha256=image.upload_sha256,
        extension=image.extension, relevance="category", category=papaya,
    )  # fmt: skip
    held_out = admin.get(page_of(papaya)).content.decode()
    kept = own.partition('name="kept" value="')[2].partition('"')[0]

    assert f'href="/?sample={query.pk}#results"' in held_out
    found = admin.post("/search", {"kept": kept})
    assert found.status_code == 200
    assert 'href="/items/papaya' in found.content.decode()


def test_hostile_names_and_reasons_are_text(admin: Client, papaya: Category) -> None:
    catalogue.category_update(category=papaya, name=HOSTILE.replace(">", "}"))
    Item.objects.filter(category=papaya).update(title=HOSTILE)
    ItemImage.objects.filter(item__category=papaya).update(failure=HOSTILE)
    job_change(state=JobState.FAILED, error=HOSTILE, checkpoint={"categories": ["papaya"], "gates": GATES})

    html = admin.get(page_of(papaya)).content.decode()

    assert "<script>alert(1)" not in html
    assert "<img src=x" not in html


def test_the_page_costs_the_same_queries_for_one_photo_as_for_many(
    admin: Client, papaya: Category, photos: list[bytes]
) -> None:
    admin.get(page_of(papaya))
    with CaptureQueriesContext(connection) as few:
        admin.get(page_of(papaya))
    item_with_photos("more", photos[9:], "Papaya")

    with CaptureQueriesContext(connection) as many:
        admin.get(page_of(papaya))

    assert len(few) == len(many)
