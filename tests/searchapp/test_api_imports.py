"""Imports and jobs over HTTP: 202, one job a key, progress, cancel and retry."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from searchapp.models import Item, Job, JobState, OutboxMessage
from searchapp.services import jobs
from tests.searchapp.api_cast import error_of, key_client, user_make

pytestmark = [pytest.mark.django_db, pytest.mark.database]
IMPORTS = "/api/v1/imports"
CSV = b"sku,title,category,images\na,Red apple,Fruit > Apple,one.jpg\nb,Juice,Drink,two.jpg\n"


def catalogue_zip(photos: list[bytes], csv: bytes = CSV) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("catalogue.csv", csv)
        archive.writestr("one.jpg", photos[0])
        archive.writestr("two.jpg", photos[1])
    return buffer.getvalue()


def post(client: Client, data: bytes, name: str = "shop.zip", key: str = "", **fields: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post(IMPORTS, {"file": SimpleUploadedFile(name, data), **fields}, headers=headers)


def test_a_zip_is_imported_by_a_job_that_tells_its_counts(
    data_dir: Path, photos: list[bytes], staff: Client
) -> None:
    response = post(staff, catalogue_zip(photos))

    assert response.status_code == 202
    job = Job.objects.get()
    assert response["Location"] == f"/api/v1/jobs/{job.pk}"
    body = response.json()
    assert {
        name: body[name] for name in ("id", "kind", "state", "progress", "eta_seconds", "result", "error")
    } == {
        "id": str(job.pk),
        "kind": "import_catalogue",
        "state": "queued",
        "progress": 0.0,
        "eta_seconds": None,
        "result": None,
        "error": "",
    }
    assert OutboxMessage.objects.count() == 1
    assert job.created_by is not None
    assert job.created_by.username == "sam"

    jobs.job_run_here(job)

    done = staff.get(response["Location"]).json()
    assert (done["state"], done["progress"]) == ("done", 1.0)
    assert {
        name: done["result"][name] for name in ("created", "updated", "unchanged", "failed", "errors")
    } == {
        "created": 2,
        "updated": 0,
        "unchanged": 0,
        "failed": 0,
        "errors": [],
    }
    assert set(Item.objects.values_list("sku", flat=True)) == {"a", "b"}


def test_the_same_key_is_the_same_job_and_another_person_s_key_is_another(
    data_dir: Path, photos: list[bytes], staff: Client
) -> None:
    data = catalogue_zip(photos)
    other = key_client(user_make("tom", is_staff=True))

    answers = [post(staff, data, key="monday") for _ in range(5)]
    theirs = post(other, data, key="monday")

    assert [answer.status_code for answer in answers] == [202] * 5
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert theirs.json()["id"] != answers[0].json()["id"]
    assert Job.objects.count() == 2
    assert OutboxMessage.objects.count() == 2
    assert len(list((data_dir / "imports").iterdir())) == 2  # the four other uploads were thrown away


def test_importing_again_without_a_key_changes_nothing(
    data_dir: Path, photos: list[bytes], staff: Client
) -> None:
    for _ in range(2):
        job = Job.objects.get(pk=post(staff, catalogue_zip(photos)).json()["id"])
        result = jobs.job_run_here(job).result

    assert result is not None
    assert (result["created"], result["unchanged"]) == (0, 2)
    assert Item.objects.count() == 2


def test_a_dry_run_tells_and_writes_nothing(data_dir: Path, photos: list[bytes], staff: Client) -> None:
    response = post(staff, catalogue_zip(photos), dry_run="true")

    job = jobs.job_run_here(Job.objects.get(pk=response.json()["id"]))

    assert job.result is not None
    assert (job.result["created"], job.result["dry_run"]) == (2, True)
    assert Item.objects.count() == 0


@pytest.mark.parametrize(
    ("data", "name", "fields"),
    [
        (b"", "shop.zip", {}),
        (b"PK\x03\x04 not a zip", "shop.zip", {}),
        (b"title,images\na,b\n", "shop.csv", {}),
        (CSV, "shop.csv", {"dry_run": "perhaps"}),
        (CSV, "shop.csv", {"splits": "train,holiday"}),
        (CSV, "shop.csv", {"items": "everything"}),
    ],
)
def test_a_bad_import_is_refused_with_nothing_stored_and_nothing_queued(
    data_dir: Path, staff: Client, data: bytes, name: str, fields: dict[str, str]
) -> None:
    error_of(post(staff, data, name, **fields), 400)

    assert Job.objects.count() == 0
    assert OutboxMessage.objects.count() == 0
    assert not (data_dir / "imports").exists() or list((data_dir / "imports").iterdir()) == []


def test_a_zip_that_leaves_its_folder_is_refused(data_dir: Path, staff: Client) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../evil.csv", CSV)

    error = error_of(post(staff, buffer.getvalue()), 400)

    assert "evil.csv" in error["message"]
    assert Job.objects.count() == 0
    assert [path for path in data_dir.rglob("*") if path.is_file()] == []


def test_an_import_without_a_file_or_with_an_endless_key_is_refused(data_dir: Path, staff: Client) -> None:
    assert set(error_of(staff.post(IMPORTS, {"file": "text"}), 400)["fields"]) == {"file"}
    assert set(error_of(post(staff, CSV, key="k" * 101), 400)["fields"]) == {"Idempotency-Key"}
    assert Job.objects.count() == 0


def test_an_archive_over_its_limit_is_413_and_leaves_nothing(
    data_dir: Path, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "IMPORT_MAX_BYTES", 1024 * 1024)

    response = post(staff, b"PK" + b"\0" * (2 * 1024 * 1024 + 70_000))

    assert error_of(response, 413)["code"] == "too_large"
    assert Job.objects.count() == 0
    assert not (data_dir / "imports").exists()


def test_a_waiting_job_is_cancelled_at_once_and_retried_as_a_new_one(data_dir: Path, staff: Client) -> None:
    job = Job.objects.create(kind="import_catalogue", subject="Import of shop")
    address = f"/api/v1/jobs/{job.pk}"

    first, again = staff.post(f"{address}/cancel"), staff.post(f"{address}/cancel")

    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")
    retried, same = staff.post(f"{address}/retry"), staff.post(f"{address}/retry")
    assert (retried.status_code, retried.json()["state"]) == (202, "queued")
    assert retried.json()["id"] == same.json()["id"] != str(job.pk)
    assert Job.objects.count() == 2


@pytest.mark.parametrize(("state", "action"), [("done", "cancel"), ("done", "retry"), ("queued", "retry")])
def test_what_a_job_s_state_does_not_allow_is_409(
    data_dir: Path, staff: Client, state: str, action: str
) -> None:
    job = Job.objects.create(kind="import_catalogue", state=JobState(state))

    assert error_of(staff.post(f"/api/v1/jobs/{job.pk}/{action}"), 409)["code"] == "conflict"

    job.refresh_from_db()
    assert job.state == state
    assert Job.objects.count() == 1


def test_a_running_job_tells_how_far_it_is(data_dir: Path, staff: Client) -> None:
    job = Job.objects.create(
        kind="import_catalogue", state=JobState.RUNNING, done_count=1, total_count=3, message="2 photos/s"
    )

    body = staff.get(f"/api/v1/jobs/{job.pk}").json()

    assert (body["state"], body["progress"], body["message"]) == ("running", 0.3333, "2 photos/s")


@pytest.mark.parametrize("job_id", ["1", "not-a-uuid", "0d2a7a2e-9f0f-4b62-8a3b-5f8a8f3f7b11"])
def test_an_unknown_job_is_404(staff: Client, job_id: str) -> None:
    assert error_of(staff.get(f"/api/v1/jobs/{job_id}"), 404)["code"] == "not_found"


def test_a_stranger_cannot_have_a_big_archive_read_by_the_forgery_check(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "IMAGE_MAX_BYTES", 1024 * 1024)
    anyone = Client(enforce_csrf_checks=True)
    anyone.cookies["csrftoken"] = "a" * 32

    archive = SimpleUploadedFile("shop.zip", b"PK" + b"\0" * (2 * 1024 * 1024 + 70_000))
    response = anyone.post("/admin/searchapp/item/import-catalogue/", {"file": archive})

    assert response.status_code == 413
