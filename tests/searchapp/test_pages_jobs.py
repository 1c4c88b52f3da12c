"""The jobs page, signing in, and the files the pages stand on."""

import hashlib
import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from searchapp.models import Job, JobState
from tests.searchapp.api_cast import operator_make, session_client, user_make
from tests.searchapp.test_pages_search import text_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def sam() -> User:
    return user_make("sam", is_staff=True)


@pytest.fixture
def staff(sam: User) -> Client:
    return session_client(sam)


def job(**fields: object) -> Job:
    return Job.objects.create(kind="import_catalogue", subject="Import of shop.zip", **fields)


def test_a_running_job_says_what_for_whom_how_far_how_fast_and_how_long(staff: Client, sam: User) -> None:
    started = timezone.now() - timedelta(seconds=100)
    job(state=JobState.RUNNING, created_by=sam, started_at=started, done_count=200, total_count=600)

    response = staff.get("/jobs/")
    text = text_of(response)

    assert "Import of shop.zip Running 33 %" in text
    assert "for sam" in text
    assert "200 of 600" in text
    assert re.search(r"2\.0 items/s about (19\d|20\d|3) (s|min) left", text)
    assert '<progress max="100" value="33"' in response.content.decode()


def test_a_job_that_counts_parts_of_its_work_shows_percent_alone(staff: Client) -> None:
    started = timezone.now() - timedelta(seconds=100)
    training = Job.objects.create(
        kind="train_base", state=JobState.RUNNING, started_at=started, done_count=850, total_count=1000
    )

    for path in ("/jobs/", f"/jobs/{training.pk}/"):
        text = text_of(staff.get(path))
        assert "Running 85 %" in text
        assert "850 of" not in text
        assert "items/s" not in text


def test_a_failed_job_says_why_and_a_finished_import_shows_the_first_bad_lines(staff: Client) -> None:
    errors = [
        {"row": number, "field": "price", "message": f"'{number}x' is not a number"} for number in range(2, 9)
    ]
    job(state=JobState.FAILED, error="no space: free some on the disk, then retry (NoSpace)")
    done = job(state=JobState.DONE, result={"created": 40, "failed": 7, "errors": errors})

    page = text_of(staff.get("/jobs/"))
    report = text_of(staff.get(f"/jobs/{done.pk}/"))

    assert "no space: free some on the disk, then retry" in page
    assert "Line 2, price: '2x' is not a number" in page
    assert "Line 7" not in page
    assert "and 2 more" in page
    assert "Created 40" in report
    assert "8 price '8x' is not a number" in report


def test_the_errors_come_as_csv_and_no_cell_is_a_formula(staff: Client) -> None:
    done = job(
        state=JobState.DONE, result={"errors": [{"row": 3, "field": "sku", "message": '=HYPERLINK("x")'}]}
    )

    response = staff.get(f"/jobs/{done.pk}/errors.csv")

    assert response["Content-Disposition"] == f'attachment; filename="errors-{done.pk}.csv"'
    assert response.content.decode() == 'row,field,message\r\n3,sku,"\'=HYPERLINK(""x"")"\r\n'


def test_polling_goes_on_while_something_runs_and_ends_with_286(staff: Client) -> None:
    running = job(state=JobState.RUNNING, done_count=1, total_count=2)
    page = staff.get("/jobs/").content.decode()
    going_on = staff.get("/jobs/", headers={"HX-Request": "true"})
    Job.objects.filter(pk=running.pk).update(state=JobState.DONE)
    ended = staff.get("/jobs/", headers={"HX-Request": "true"})

    assert 'hx-get="/jobs/" hx-trigger="every 2s"' in page
    assert (going_on.status_code, ended.status_code) == (200, 286)
    assert "<html" not in going_on.content.decode()
    assert "hx-trigger" not in staff.get("/jobs/").content.decode()


def test_a_waiting_job_is_cancelled_and_a_failed_one_retried_by_plain_forms(staff: Client) -> None:
    waiting = job(state=JobState.QUEUED)
    failed = job(state=JobState.FAILED, error="x")

    cancel = staff.post(f"/jobs/{waiting.pk}/cancel", follow=True)
    retry = staff.post(f"/jobs/{failed.pk}/retry", follow=True)

    waiting.refresh_from_db()
    assert waiting.state == JobState.CANCELLED
    assert "The job is being cancelled." in text_of(cancel)
    assert Job.objects.get(retry_of=failed).state == JobState.QUEUED
    assert "goes on where it stopped" in text_of(retry)


@pytest.mark.parametrize("kind", ["train_base", "promote", "rollback"])
def test_jobs_of_operators_are_steered_by_operators_alone_on_the_pages_and_over_http(
    staff: Client, kind: str
) -> None:
    operator = session_client(operator_make())
    stopped = Job.objects.create(kind=kind, state=JobState.CANCELLED)
    waiting = Job.objects.create(kind=kind)
    calls = [f"{root}/{verb}" for root in ("/jobs/{}", "/api/v1/jobs/{}") for verb in ("cancel", "retry")]
    staff.raise_request_exception = False

    answers = [
        staff.post(call.format((waiting if "cancel" in call else stopped).pk)).status_code for call in calls
    ]

    assert answers == [403] * 4
    assert "/cancel" not in (seen := staff.get("/jobs/").content.decode())
    assert "/retry" not in seen
    assert staff.get(f"/api/v1/jobs/{waiting.pk}").status_code == 200
    waiting.refresh_from_db()
    assert (waiting.state, waiting.cancel_requested, Job.objects.count()) == (JobState.QUEUED, False, 2)
    page = operator.get("/jobs/").content.decode()
    assert f"/jobs/{waiting.pk}/cancel" in page
    assert f"/jobs/{stopped.pk}/retry" in page
    answers = [
        operator.post(call.format((waiting if "cancel" in call else stopped).pk)).status_code
        for call in calls
    ]
    assert answers == [302, 302, 200, 202]
    assert Job.objects.filter(retry_of=stopped).count() == 1


def test_cancelling_what_is_done_is_refused_in_words(staff: Client) -> None:
    done = job(state=JobState.DONE)

    response = staff.post(f"/jobs/{done.pk}/cancel", follow=True)

    assert "only a waiting or running one can be cancelled" in text_of(response)
    done.refresh_from_db()
    assert done.state == JobState.DONE


def test_the_list_costs_the_same_queries_for_many_jobs(staff: Client) -> None:
    job(state=JobState.RUNNING, done_count=1, total_count=5, started_at=timezone.now())
    staff.get("/jobs/")
    with CaptureQueriesContext(connection) as few:
        staff.get("/jobs/")
    for _ in range(20):
        job(state=JobState.RUNNING, done_count=1, total_count=5, started_at=timezone.now())

    with CaptureQueriesContext(connection) as many:
        staff.get("/jobs/")

    assert len(few) == len(many)


def test_signing_in_leads_back_to_the_page_that_asked_for_it(client: Client, sam: User) -> None:
    asked = client.get("/jobs/")
    page = client.get(asked["Location"])
    signed_in = client.post(
        "/login/", {"username": "sam", "password": "correct horse battery", "next": "/jobs/"}
    )

    assert asked["Location"] == "/login/?next=%2Fjobs%2F"
    assert 'name="next" value="/jobs/"' in page.content.decode()
    assert (signed_in.status_code, signed_in["Location"]) == (302, "/jobs/")


def test_a_wrong_password_is_refused_beside_the_form_and_another_site_is_never_the_next_page(
    client: Client, sam: User
) -> None:
    wrong = client.post("/login/", {"username": "sam", "password": "guess"})
    away = client.post(
        "/login/", {"username": "sam", "password": "correct horse battery", "next": "https://evil.example/"}
    )

    assert wrong.status_code == 200
    assert "Please enter a correct username and password." in text_of(wrong)
    assert away["Location"] == "/"


def test_after_five_wrong_passwords_the_account_is_locked_and_says_so(client: Client, sam: User) -> None:
    for _ in range(5):
        locked = client.post("/login/", {"username": "sam", "password": "guess"})
    right = client.post("/login/", {"username": "sam", "password": "correct horse battery"})

    assert (locked.status_code, right.status_code) == (429, 429)
    assert "This account is locked for a quarter of an hour" in text_of(right)


def test_a_cross_site_cancel_changes_nothing(sam: User) -> None:
    waiting = job(state=JobState.QUEUED)
    strict = session_client(sam, enforce_csrf_checks=True)

    assert strict.post(f"/jobs/{waiting.pk}/cancel").status_code == 403
    waiting.refresh_from_db()
    assert (waiting.state, waiting.cancel_requested) == (JobState.QUEUED, False)


@pytest.mark.parametrize("folder", ["static/vendor", "tests/journeys/vendor"])
def test_vendored_files_are_the_ones_their_list_names(folder: str) -> None:
    listed = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| `([^`]+\.js)` \|.*`([0-9a-f]{64})` \|", listed)

    assert {name for name, _ in rows} == {path.name for path in (ROOT / folder).glob("*.js")}
    for name, sha256 in rows:
        assert hashlib.sha256((ROOT / folder / name).read_bytes()).hexdigest() == sha256


def test_scripts_and_styles_name_no_other_host_and_evaluate_nothing() -> None:
    for path in [*(ROOT / "static/js").glob("*.js"), *(ROOT / "static/css").glob("*.css")]:
        text = path.read_text(encoding="utf-8")
        assert "http://" not in text
        assert "https://" not in text
        assert not re.search(r"\beval\(|new Function|innerHTML", text)
