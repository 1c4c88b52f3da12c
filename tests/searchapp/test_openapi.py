"""The API's description is valid, covers every route, and what the API answers is what it describes."""

import io
import json
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from openapi_schema_validator import OAS30Validator
from openapi_spec_validator import validate

from searchapp.access import API, EVERYONE, HEALTH
from searchapp.models import Job
from searchapp.services import jobs, versions
from tests.searchapp import outside_bundles
from tests.searchapp.api_cast import operator_make, photo_file, session_client
from tests.searchapp.galleries import shop
from tests.searchapp.stale_shop import put_in_use
from tests.searchapp.trainings import candidate, small_shop
from tests.searchapp.turned import turned_version

pytestmark = pytest.mark.django_db
# Routes that describe the API or say that there is nothing; methods that serve another route's resource.
UNDESCRIBED = {"api:schema", "api:docs", "api:unknown"}
SECOND_HOMES = {("api:item-images", method) for method in ("GET", "PATCH", "DELETE")}
PATHS = {
    "api:search": "/api/v1/search",
    "api:encode": "/api/v1/encode",
    "api:items": "/api/v1/items",
    "api:item": "/api/v1/items/{sku}",
    "api:item-images": "/api/v1/items/{sku}/images",
    "api:categories": "/api/v1/categories",
    "api:categories-learn": "/api/v1/categories/learn",
    "api:imports": "/api/v1/imports",
    "api:job": "/api/v1/jobs/{job_id}",
    "api:job-cancel": "/api/v1/jobs/{job_id}/cancel",
    "api:job-retry": "/api/v1/jobs/{job_id}/retry",
    "api:feedback": "/api/v1/queries/{query_id}/feedback",
    "api:model-versions": "/api/v1/model-versions",
    "api:model-version-import": "/api/v1/model-versions/import",
    "api:model-version-evaluate": "/api/v1/model-versions/{version}/evaluate",
    "api:model-version-promote": "/api/v1/model-versions/{version}/promote",
    "api:rollback": "/api/v1/rollback",
    "api:gallery-correct": "/api/v1/gallery/correct",
    "api:gallery-backfill": "/api/v1/gallery/backfill",
    "health-live": "/healthz/live",
    "health-ready": "/healthz/ready",
    "metrics": "/metrics",
}


@pytest.fixture
def document(anonymous: Client) -> dict[str, Any]:
    response = anonymous.get("/api/schema/?format=json")
    assert response.status_code == 200
    described: dict[str, Any] = json.loads(response.content)
    return described


def test_the_description_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)


def test_every_route_and_method_of_the_access_table_is_described_and_nothing_else(
    document: dict[str, Any],
) -> None:
    listed = {
        (PATHS[name], method.lower())
        for name, methods in {**API, **HEALTH}.items()
        for method in methods
        if name not in UNDESCRIBED and (name, method) not in SECOND_HOMES
    }
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert described == listed


def test_the_security_of_each_operation_is_the_access_table_s(document: dict[str, Any]) -> None:
    for name, methods in API.items():
        for method, role in methods.items():
            if name not in UNDESCRIBED and (name, method) not in SECOND_HOMES:
                security = document["paths"][PATHS[name]][method.lower()]["security"]
                assert ({} in security) == (role == EVERYONE), (name, method)
                assert {"key": []} in security


def test_it_comes_as_yaml_for_those_who_do_not_ask(anonymous: Client) -> None:
    response = anonymous.get("/api/schema/")

    assert response["Content-Type"].startswith("application/vnd.oai.openapi")
    assert response.content.startswith(b"openapi: 3.")


def test_the_pages_of_the_description_need_no_inline_script_or_style(anonymous: Client) -> None:
    page = anonymous.get("/api/docs/")
    text = page.content.decode()

    assert page.status_code == 200
    assert "<style" not in text
    assert " style=" not in text
    assert "<script>" not in text
    assert "https://" not in text
    assert "unsafe-inline" not in page["Content-Security-Policy"]
    script = anonymous.get("/api/docs/?script=")
    assert script["Content-Type"].startswith("application/javascript")
    assert b"SwaggerUIBundle" in script.content


# --- what is answered is what is described


class Checker:
    """Makes calls and compares each answer with the description; remembers what it has seen."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.seen: set[tuple[str, str, int]] = set()

    def check(self, client: Client, method: str, template: str, **call: Any) -> Any:
        values, query = call.pop("path", {}), call.pop("query", "")
        address = template.format(**values) + query
        if "json" in call:
            call = {"data": json.dumps(call["json"]), "content_type": "application/json"}
        response = getattr(client, method)(address, **call)
        operation = self.document["paths"][template][method]
        where = f"{method} {address[:80]} -> {response.status_code} {response.content[:200]!r}"
        assert str(response.status_code) in operation["responses"], where
        content = operation["responses"][str(response.status_code)].get("content", {})
        if not content:
            assert response.content == b"", where
        elif response["Content-Type"] == "application/json":
            schema = self.resolved(content["application/json"]["schema"])
            problems = [error.message for error in OAS30Validator(schema).iter_errors(response.json())]
            assert problems == [], where
        self.seen.add((method, template, response.status_code))
        return response

    def resolved(self, schema: Any) -> Any:
        if isinstance(schema, list):
            return [self.resolved(part) for part in schema]
        if not isinstance(schema, dict):
            return schema
        if "$ref" in schema:
            return self.resolved(self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        return {name: self.resolved(part) for name, part in schema.items()}


def zipped(photo: bytes) -> SimpleUploadedFile:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("catalogue.csv", "sku,title,category,images\nz,Zebra,Toys,one.jpg\n")
        archive.writestr("one.jpg", photo)
    return SimpleUploadedFile("shop.zip", buffer.getvalue())


def test_examples_of_every_operation_answer_as_described(
    document: dict[str, Any],
    data_dir: Path,
    data_packs: Path,
    photos: list[bytes],
    staff: Client,
) -> None:
    checker, anonymous = Checker(document), Client()
    items = shop(photos)
    v1, check = "/api/v1", checker.check
    operator = session_client(operator_make())

    found = check(anonymous, "post", f"{v1}/search", data={"image": photo_file(photos[0])}).json()
    for client in (anonymous, staff):
        check(client, "post", f"{v1}/search", data={"image": photo_file(photos[0]), "explain": "true"})
    check(anonymous, "post", f"{v1}/search", json={"text": "apple", "explain": True})
    check(staff, "post", f"{v1}/search", json={"text": "apple"})
    check(anonymous, "post", f"{v1}/search", json={"sku": "apple-0"})
    check(anonymous, "post", f"{v1}/search", json={"sku": "nobody"})
    check(anonymous, "post", f"{v1}/search", json={"k": 0})
    vector = check(staff, "post", f"{v1}/encode", data={"image": photo_file(photos[0])}).json()
    check(staff, "post", f"{v1}/search", json=vector)
    check(staff, "post", f"{v1}/search", json={**vector, "model_version": "9.9"})
    check(anonymous, "post", f"{v1}/search", data={"image": photo_file(b"%PDF")})
    check(anonymous, "post", f"{v1}/search", data={"image": photo_file(photos[0][:500])})
    check(anonymous, "post", f"{v1}/encode", data={"image": photo_file(photos[0])})
    check(staff, "post", f"{v1}/encode", data={"image": photo_file(b"")})
    for client in (anonymous, staff):
        check(client, "get", f"{v1}/items")
        check(client, "get", f"{v1}/items/{{sku}}", path={"sku": "apple-0"})
        check(client, "get", f"{v1}/categories")
        check(client, "post", f"{v1}/items", json={"sku": f"new-{client is staff}", "category": "Drink"})
        check(client, "post", f"{v1}/categories", json={"path": "Toys > Animals"})
    check(staff, "post", f"{v1}/categories", json={"path": "Toys > Animals"})
    check(staff, "post", f"{v1}/categories", json={"path": ">"})
    check(staff, "post", f"{v1}/categories/learn", json={})
    check(staff, "post", f"{v1}/categories/learn", json={"categories": ["animals"]})
    check(staff, "post", f"{v1}/categories/learn", json={"categories": ["nowhere"]})
    check(anonymous, "post", f"{v1}/categories/learn", json={})
    check(staff, "post", f"{v1}/items", json={"sku": "apple-0", "category": "Drink"})
    check(staff, "patch", f"{v1}/items/{{sku}}", path={"sku": "apple-0"}, json={"price": "2.50"})
    check(staff, "patch", f"{v1}/items/{{sku}}", path={"sku": "nobody"}, json={})
    images = f"{v1}/items/{{sku}}/images"
    check(staff, "post", images, path={"sku": "apple-0"}, data={"image": photo_file(photos[8])})
    check(staff, "post", images, path={"sku": "apple-0"}, data={"image": photo_file(b"%PDF")})
    check(staff, "post", f"{v1}/items", json={"sku": "lion", "category": "Toys > Animals"})
    check(staff, "post", images, path={"sku": "lion"}, data={"image": photo_file(photos[10])})
    check(staff, "post", f"{v1}/categories/learn", json={"categories": ["animals"]})
    check(staff, "delete", f"{v1}/items/{{sku}}", path={"sku": items[5].sku})
    check(staff, "delete", f"{v1}/items/{{sku}}", path={"sku": items[5].sku})
    started = check(staff, "post", f"{v1}/imports", data={"file": zipped(photos[9])}).json()
    check(staff, "post", f"{v1}/imports", data={"file": SimpleUploadedFile("a.zip", b"PK broken")})
    of_job = {"job_id": started["id"]}
    check(staff, "get", f"{v1}/jobs/{{job_id}}", path=of_job)
    check(staff, "post", f"{v1}/jobs/{{job_id}}/cancel", path=of_job)
    check(staff, "post", f"{v1}/jobs/{{job_id}}/retry", path=of_job)
    jobs.job_run_here(Job.objects.get(kind="import_catalogue", state="queued"))
    done = Job.objects.get(kind="import_catalogue", state="done")
    check(staff, "get", f"{v1}/jobs/{{job_id}}", path={"job_id": done.pk})
    check(staff, "post", f"{v1}/jobs/{{job_id}}/cancel", path={"job_id": done.pk})
    check(staff, "post", f"{v1}/jobs/{{job_id}}/retry", path={"job_id": done.pk})
    for suffix, method in (("", "get"), ("/cancel", "post"), ("/retry", "post")):
        check(staff, method, f"{v1}/jobs/{{job_id}}{suffix}", path={"job_id": uuid.uuid4()})
        check(anonymous, method, f"{v1}/jobs/{{job_id}}{suffix}", path={"job_id": uuid.uuid4()})
    said = f"{v1}/queries/{{query_id}}/feedback"
    of_query = {"query_id": found["query_id"]}
    check(anonymous, "post", said, path=of_query, json={"sku": "apple-0", "verdict": "right"})
    check(anonymous, "post", said, path=of_query, json={"sku": "nobody", "verdict": "right"})
    check(anonymous, "post", said, path=of_query, json={})
    check(operator, "get", f"{v1}/model-versions")
    check(staff, "get", f"{v1}/model-versions")
    check(operator, "post", f"{v1}/model-versions", json={"method": "base", "label_fraction": 0.5})
    check(operator, "post", f"{v1}/model-versions", json={"method": "base", "label_fraction": 5})
    check(staff, "post", f"{v1}/model-versions", json={"method": "base"})
    small_shop(data_packs, count=4)
    check(operator, "post", f"{v1}/model-versions", json={"method": "base"})
    candidate()
    evaluate = f"{v1}/model-versions/{{version}}/evaluate"
    check(operator, "get", evaluate, path={"version": "1.0"})
    check(operator, "post", evaluate, path={"version": "9.9"})
    check(staff, "post", evaluate, path={"version": "2.0"})
    check(operator, "post", evaluate, path={"version": "2.0"}, json={"set": "nowhere"})
    check(operator, "post", evaluate, path={"version": "2.0"}, json={"against": "1.0"})
    check(operator, "get", evaluate, path={"version": "2.0"})
    jobs.job_run_here(Job.objects.get(kind="evaluate_version"))
    check(operator, "get", evaluate, path={"version": "2.0"}, query="?against=1.0")
    promote = f"{v1}/model-versions/{{version}}/promote"
    check(operator, "post", f"{v1}/rollback")
    for version in ("1.0", "9.9", "2.0"):
        check(operator, "post", promote, path={"version": version}, json={"override": "for the example"})
    jobs.job_run_here(Job.objects.get(kind="promote"))
    check(operator, "post", f"{v1}/rollback")
    put_in_use(turned_version(versions.champion().version))
    check(staff, "post", f"{v1}/gallery/correct")
    check(operator, "post", f"{v1}/gallery/correct", json={"fit_items": 3})
    check(operator, "post", f"{v1}/gallery/correct", json={"version": "9.9"})
    check(operator, "post", f"{v1}/gallery/correct", json={"fit_items": 50})
    check(operator, "post", f"{v1}/gallery/correct", json={"fit_items": 60})
    check(staff, "post", f"{v1}/gallery/backfill")
    check(operator, "post", f"{v1}/gallery/backfill", json={"order": "size"})
    check(operator, "post", f"{v1}/gallery/backfill", json={"limit": 5, "order": "oldest"})
    outside = outside_bundles.zipped(outside_bundles.bundle_made(data_dir / "outside"))
    for client, file in ((operator, b"no zip"), (staff, outside), (operator, outside)):
        upload = SimpleUploadedFile("bundle.zip", file)
        check(client, "post", f"{v1}/model-versions/import", data={"file": upload})
    check(anonymous, "get", "/healthz/live")
    check(anonymous, "get", "/healthz/ready")
    check(staff, "get", "/metrics")
    check(anonymous, "get", "/metrics")

    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    succeeded = {(method, path) for method, path, status in checker.seen if status < 300}
    assert succeeded == described


NASTY: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    "",
    " ",
    "a" * 5000,
    "\0",
    "\ud800",
    "\u202e",
    "../..",
    "%00",
    "'; --",
    [],
    [[]],
    {},
    {"a": {}},
]


def bodies(names: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        for value in NASTY:
            yield {name: value}
            yield {
                "text": "apple",
                "sku": "apple-0",
                "category": "Fruit",
                "path": "X",
                "verdict": "right",
                name: value,
            }


def test_nonsense_in_any_field_is_answered_as_described_and_never_with_a_500(
    document: dict[str, Any], data_dir: Path, photos: list[bytes], anonymous: Client, staff: Client
) -> None:
    checker = Checker(document)
    shop(photos)
    searching = ["text", "sku", "k", "category", "vertical", "price_min", "price_max", "tag", "tags", "code"]
    searching += ["explain", "explain_sku"]
    for body in bodies([*searching, "embedding", "model_version", "crop", "image", "offset"]):
        checker.check(anonymous, "post", "/api/v1/search", json=body)
    for body in bodies(
        ["sku", "title", "category", "tags", "price", "currency", "url", "latitude", "longitude"]
    ):
        checker.check(staff, "post", "/api/v1/items", json=body)
        checker.check(staff, "patch", "/api/v1/items/{sku}", path={"sku": "apple-0"}, json=body)
    for body in bodies(["path", "vertical"]):
        checker.check(staff, "post", "/api/v1/categories", json=body)
    for body in bodies(["sku", "verdict"]):
        of_query = {"query_id": uuid.uuid4()}
        checker.check(anonymous, "post", "/api/v1/queries/{query_id}/feedback", path=of_query, json=body)
    for name in (
        "category",
        "vertical",
        "tag",
        "price_min",
        "price_max",
        "text",
        "state",
        "page",
        "page_size",
    ):
        for value in (
            "",
            "-1",
            "1e309",
            "nan",
            "a" * 5000,
            "%00",
            "%ED%A0%80",
            "%FF",
            "’",
            "../..",
            "'%22--",
        ):
            checker.check(staff, "get", "/api/v1/items", query=f"?{name}={value}")
    assert not any(status >= 500 for _, _, status in checker.seen)
