"""The operator's page of model versions, and the two buttons that move the pointer."""

import re
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from searchapp.models import Deployment, EvaluationQuery, ItemImage, Job, JobState, ModelVersion
from searchapp.services import deploying, versions
from searchapp.services.deploying import version_promote
from searchapp.services.encoding import entries_fill
from tests.searchapp.api_cast import operator_make, session_client, user_make
from tests.searchapp.galleries import shop
from tests.searchapp.operating import candidate, measured, other_version, running, training, work_off
from tests.searchapp.test_pages_search import text_of

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def olga() -> User:
    return operator_make()


@pytest.fixture
def operator(olga: User) -> Client:
    return session_client(olga)


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


def test_without_any_version_the_page_says_what_is_missing(operator: Client) -> None:
    page = text_of(operator.get("/ops/"))

    assert "No version yet" in page
    assert "is in use" not in page


def test_the_version_in_use_says_since_when_what_it_made_and_that_it_answers_everything(
    operator: Client, photos: Sequence[bytes], data_dir: Any
) -> None:
    shop(photos)

    page = text_of(operator.get("/ops/"))

    assert re.search(r"1\.0 is in use put in use [\w ]+ · the version Perennial is shipped with", page)
    assert "1.0 6 · 100 %" in page
    assert "In use, answers every query shipped with Perennial" in page
    assert "Gallery 6 of 6 photos encoded" in page
    assert "Put 1.0 in use" not in page


def test_a_candidate_says_who_made_it_from_what_and_offers_to_be_used(
    operator: Client, olga: User, data_dir: Any
) -> None:
    candidate(olga)

    page = text_of(operator.get("/ops/"))

    assert "2.0 Not in use, answers no query made by olga" in page
    assert "Method twin-bottleneck hashing Architecture compact Size 1.4 MB" in page.replace("\xa0", " ")
    assert "Lineage its own; compared with no other version" in page
    assert "Put 2.0 in use" in page


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


def test_a_candidate_is_judged_in_words_signs_and_numbers_beside_the_one_in_use(
    operator: Client, data_dir: Any
) -> None:
    new = other_version()
    measured(new, versions.champion().version, change=0.06, verdict="pass")

    page = text_of(operator.get("/ops/versions/2.0"))

    assert "Ready: 2.0 is better than 1.0 on 1 of 1 measures, worse on none." in page
    assert "Measured on 40 held-out photos" in page
    assert "Mean average precision 56.0 % 50.0 % +6.0 (+4.0 to +8.0) Better" in page
    assert "Passes Mean average precision may fall by at most 1 point: measured +6.0 (+4.0 to +8.0)" in page


def test_photos_of_too_few_items_tell_nothing_however_clear_the_interval_looks(
    operator: Client, data_dir: Any
) -> None:
    new = other_version()
    measured(new, versions.champion().version, change=0.06, verdict="cannot_tell", items=3)

    page = text_of(operator.get("/ops/versions/2.0"))

    assert "Cannot tell yet: 2.0 is neither better nor worse than 1.0" in page
    assert "+6.0 (+4.0 to +8.0) Cannot tell" in page
    assert "measured +6.0, on photos of 3 items; 10 are needed" in page


def test_once_the_candidate_is_in_use_the_change_is_told_from_the_other_s_side(
    operator: Client, data_dir: Any
) -> None:
    new, old = other_version(), versions.champion().version
    measured(new, old, change=0.06, verdict="pass")
    Deployment.objects.update(version=new)

    page = text_of(operator.get("/ops/versions/1.0"))

    assert "1.0 is worse than 2.0 on 1 of 1 measures, better on none." in page
    assert "Mean average precision 50.0 % 56.0 % −6.0 (−8.0 to −4.0) Worse" in page


def test_putting_in_use_asks_first_then_moves_the_pointer_and_proves_that_no_code_changed(
    operator: Client, olga: User, photos: Sequence[bytes], data_dir: Any
) -> None:
    shop(photos)
    new = other_version()
    entries_fill(new, heard=lambda _done: None)
    measured(new, versions.champion().version, change=0.06, verdict="pass")

    asked = text_of(operator.get("/ops/versions/2.0/promote"))
    assert "2.0 answers every query instead of 1.0" in asked
    assert "All 6 photos are encoded for 2.0" in asked
    assert "One click on “Go back to 1.0” undoes it." in asked
    assert not Job.objects.filter(kind="promote").exists()

    answered = operator.post("/ops/versions/2.0/promote", follow=True)
    assert "2.0 is checked once more, then put in use." in text_of(answered)
    assert "Put 2.0 in use Waiting" in text_of(answered)
    assert versions.champion().version.name == "1.0"  # the click only asks; the job moves it

    assert work_off("promote").state == JobState.DONE
    page = text_of(operator.get("/ops/"))
    assert re.search(r"2\.0 is in use put in use [\w ]+ by olga", page)
    assert "2.0 6 · 50 % 1.0 6 · 50 %" in page
    assert re.search(r"Stored codes before and after: (\w{8}) = \1 , not one changed\.", page)
    assert "Go back to 1.0" in page


def test_going_back_asks_first_and_then_is_done_at_once(
    operator: Client, photos: Sequence[bytes], data_dir: Any
) -> None:
    shop(photos)
    new = other_version()
    entries_fill(new, heard=lambda _done: None)
    measured(new, versions.champion().version, change=0.06, verdict="pass")
    version_promote(version=new, user=None)
    work_off("promote")

    asked = text_of(operator.get("/ops/rollback"))
    before = versions.champion().version.name
    field = re.search(r'name="deployment" value="(\d+)"', operator.get("/ops/rollback").content.decode())
    assert field
    answered = text_of(operator.post("/ops/rollback", {"deployment": field[1]}, follow=True))
    late = text_of(operator.post("/ops/rollback", {"deployment": field[1]}, follow=True))

    assert "1.0 was put in use meanwhile; look again before going back." in late
    assert "1.0 answers every query instead of 2.0" in asked
    assert "1.0 is worse than 2.0 on 1 of 1 measures" in asked
    assert (before, versions.champion().version.name) == ("2.0", "1.0")
    assert "1.0 is in use again." in answered
    assert "Go back to" not in answered


def test_going_back_that_a_worker_has_taken_is_told_as_under_way(
    operator: Client, photos: Sequence[bytes], data_dir: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(photos)
    new = other_version()
    entries_fill(new, heard=lambda _done: None)
    measured(new, versions.champion().version, change=0.06, verdict="pass")
    version_promote(version=new, user=None)
    work_off("promote")
    monkeypatch.setattr(deploying, "job_run", lambda _job, _owner: False)

    page = operator.post("/ops/rollback", follow=True)

    job = Job.objects.get(kind="rollback")
    assert "in use again" not in text_of(page)
    assert "Go back to 1.0 is under way" in text_of(page)
    assert f'href="/jobs/{job.pk}/"' in page.content.decode()
    assert versions.champion().version == new


def test_a_measurement_with_other_held_out_photos_is_told_as_such(
    operator: Client, photos: Sequence[bytes], data_dir: Any
) -> None:
    shop(photos)
    measured(other_version(), versions.champion().version, change=0.06, verdict="pass")
    before = text_of(operator.get("/ops/"))
    photo = ItemImage.objects.select_related("item").first()
    assert photo is not None
    EvaluationQuery.objects.create(
        source="test:1", split="test", image_sha256="a" * 64, upload_sha256="a" * 64, extension="webp",
        relevance="category", category=photo.item.category,
    )  # fmt: skip

    page = text_of(operator.get("/ops/"))

    assert "Ready: 2.0 is better than 1.0" in before
    assert "Ready: 2.0" not in page
    assert "Measured before the held-out photos changed: 2.0 was better than 1.0" in page


def test_a_gate_that_does_not_pass_wants_a_reason_and_without_one_nothing_moves(
    operator: Client, data_dir: Any
) -> None:
    new = other_version()
    measured(new, versions.champion().version, change=-0.06, verdict="fail")

    asked = operator.get("/ops/versions/2.0/promote")
    without = operator.post("/ops/versions/2.0/promote", {"reason": "  "})
    jobs_before = Job.objects.count()
    operator.post("/ops/versions/2.0/promote", {"reason": "the shop is being rebuilt"})

    assert "Not ready: 2.0 is worse than 1.0" in text_of(asked)
    assert "Why it should be put in use all the same" in text_of(asked)
    assert without.status_code == 409
    assert "An override with a reason puts it in use all the same." in text_of(without)
    assert jobs_before == 0
    assert Job.objects.get(kind="promote").payload["override_reason"] == "the shop is being rebuilt"


def test_what_no_reason_can_lift_leaves_no_button(operator: Client, data_dir: Any) -> None:
    candidate()  # a row without files

    page = operator.get("/ops/versions/2.0/promote")
    answered = operator.post("/ops/versions/2.0/promote", {"reason": "please"})

    assert "The files of 2.0 cannot be used" in text_of(page)
    assert 'type="submit">Put' not in page.content.decode()
    assert answered.status_code == 409
    assert Job.objects.count() == 0


def test_with_only_the_first_version_there_is_nothing_to_go_back_to(operator: Client, data_dir: Any) -> None:
    versions.default_version_ensure()

    asked = operator.get("/ops/rollback", follow=True)
    answered = operator.post("/ops/rollback", follow=True)

    assert "There is no version to go back to: the one in use is the first." in text_of(asked)
    assert "There is nothing to go back to: the version in use is the first." in text_of(answered)
    assert versions.champion().version.name == "1.0"


def test_a_promotion_that_failed_says_why_on_the_page(operator: Client, data_dir: Any) -> None:
    versions.default_version_ensure()
    reason = "2.0 may lose up to 0.100 of mean average precision (Conflict)"
    Job.objects.create(
        kind="promote",
        subject="Put 2.0 in use",
        state=JobState.FAILED,
        error=reason,
        finished_at=timezone.now(),
    )

    page = text_of(operator.get("/ops/"))

    assert "Put 2.0 in use Failed" in page
    assert reason in page


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
