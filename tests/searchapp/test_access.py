"""Every route x method x role equals the access table; what is not in the table is closed."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import AnonymousUser, Group, User
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import URLPattern, URLResolver, get_resolver, path
from django.urls.converters import IntConverter, SlugConverter, StringConverter, UUIDConverter

from searchapp.access import ACCESS, ADMIN_NAMESPACE, EVERYONE, OPERATOR_GROUP, Role, is_allowed, role_of
from searchapp.models import ApiKey, Category, Feedback, Item, Job, OutboxMessage
from tests.searchapp.api_cast import (
    PASSWORD,
    clients_by_role,
    error_of,
    key_client,
    session_client,
    user_make,
)

pytestmark = [pytest.mark.django_db, pytest.mark.database]
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
CHANGING = ("POST", "PUT", "PATCH", "DELETE")
SAMPLES = {
    IntConverter: "999999",
    UUIDConverter: "0d2a7a2e-9f0f-4b62-8a3b-5f8a8f3f7b11",
    SlugConverter: "no-such",
    StringConverter: "no-such",
}


@dataclass(frozen=True)
class Route:
    name: str
    address: str
    is_admin: bool


def address_of(pattern: URLPattern, prefix: str) -> str:
    text = prefix + str(pattern.pattern)
    for name, converter in pattern.pattern.converters.items():
        sample = SAMPLES.get(type(converter), "no-such")
        for spelling in ("int", "uuid", "slug", "str", "path"):
            text = text.replace(f"<{spelling}:{name}>", sample)
        text = text.replace(f"<{name}>", sample)
    return "/" + text


def routes_under(
    resolver: URLResolver, prefix: str = "", namespaces: tuple[str, ...] = ()
) -> Iterator[Route]:
    for entry in resolver.url_patterns:
        if isinstance(entry, URLResolver):
            inner = (*namespaces, entry.namespace) if entry.namespace else namespaces
            yield from routes_under(entry, prefix + str(entry.pattern), inner)
        else:
            name = ":".join((*namespaces, entry.name or ""))
            is_admin = ADMIN_NAMESPACE in namespaces
            if not is_admin or "(?P" not in str(entry.pattern):
                yield Route(name, address_of(entry, prefix), is_admin)


ROUTES = list(routes_under(get_resolver()))
OURS = [route for route in ROUTES if not route.is_admin]


def is_refused(response: Any) -> bool:
    """401 and 403 from the API; a page sends the anonymous to the login and forbids the rest."""
    if response.status_code in {401, 403}:
        return True
    return bool(response.status_code == 302 and response["Location"].startswith(settings.LOGIN_URL))


def test_the_table_lists_exactly_the_routes_there_are() -> None:
    assert {route.name for route in OURS} == set(ACCESS)


def test_every_method_a_view_answers_is_in_the_table_and_no_other() -> None:
    clients = {"sue": session_client(user_make("sue", is_staff=True, is_superuser=True))}
    wrong = []
    for route in OURS:
        for method in METHODS:
            answers = bool(call(clients["sue"], method, route).status_code != 405)
            listed = is_allowed(route.name, method, Role.SUPERUSER)
            if answers != listed and method != "OPTIONS":
                wrong.append(f"{method} {route.name}: answers {answers}, listed {listed}")
    assert wrong == []


def call(client: Client, method: str, route: Route) -> Any:
    """An empty call: enough to be let in or not, not enough to do anything."""
    client.raise_request_exception = False
    body: dict[str, Any] = {"data": "{}", "content_type": "application/json"} if method in CHANGING else {}
    return client.generic(method, route.address, **body)


def test_every_call_by_every_role_is_let_in_exactly_when_the_table_says_so(data_dir: Any) -> None:
    clients = clients_by_role()
    differences = []
    for route in OURS:
        for method in METHODS:
            for role, client in clients.items():
                response = call(client, method, route)
                if response.status_code == 405:
                    continue  # nobody may, and the test above saw that the table agrees
                assert response.status_code != 500, f"{method} {route.address}"
                if is_refused(response) == is_allowed(route.name, method, role):
                    differences.append(f"{method} {route.name} as {role.name}: {response.status_code}")
    assert differences == []
    assert (Item.objects.count(), Job.objects.count(), Feedback.objects.count()) == (0, 0, 0)


def test_a_route_that_is_not_in_the_table_is_closed_even_to_a_superuser() -> None:
    def open_door(request: HttpRequest) -> HttpResponse:
        return HttpResponse("secret")

    patterns = [path("open-door", open_door, name="open-door"), *get_resolver().url_patterns]
    urls: Any = type("Urls", (), {"urlpatterns": patterns})
    with override_settings(ROOT_URLCONF=urls):
        client = session_client(
            user_make("sue", is_staff=True, is_superuser=True), raise_request_exception=False
        )
        assert b"secret" not in client.get("/open-door").content
        assert client.get("/open-door").status_code == 403
        assert Client().get("/open-door").status_code == 302


def test_anonymous_callers_get_nothing_of_the_admin() -> None:
    seen = [route for route in ROUTES if route.is_admin]
    assert len(seen) > 20

    opened = [route.name for route in seen if Client().get(route.address).status_code == 200]

    assert opened == []  # its login is the site's own


def test_plain_users_get_nothing_of_the_admin_either() -> None:
    client = session_client(user_make("kim"))

    opened = [
        route.name for route in ROUTES if route.is_admin and client.get(route.address).status_code == 200
    ]

    assert opened == []


def test_roles_nest_and_the_inactive_have_none() -> None:
    operators = Group.objects.get_or_create(name=OPERATOR_GROUP)[0]
    plain, staff, operator, boss, gone, pretender = (
        user_make("plain"),
        user_make("staff", is_staff=True),
        user_make("operator", is_staff=True),
        user_make("boss", is_superuser=True),
        user_make("gone", is_staff=True, is_active=False),
        user_make("pretender"),
    )
    operator.groups.add(operators)
    pretender.groups.add(operators)
    key = ApiKey(user=plain)

    assert [
        role_of(user, None) for user in (AnonymousUser(), plain, staff, operator, boss, gone, pretender)
    ] == [
        Role.ANONYMOUS,
        Role.ANONYMOUS,
        Role.STAFF,
        Role.OPERATOR,
        Role.SUPERUSER,
        Role.ANONYMOUS,
        Role.ANONYMOUS,
    ]
    assert role_of(plain, key) == Role.API_KEY
    assert role_of(operator, key) == Role.OPERATOR
    assert [is_allowed("api:items", "POST", role) for role in Role] == [False, False, True, True, True]
    assert not any(is_allowed("nowhere", method, Role.SUPERUSER) for method in METHODS)


# --- CSRF: a session is not enough for an unsafe method


def unsafe_calls() -> list[tuple[str, str]]:
    return [(method, route.name) for route in OURS for method in CHANGING if method in ACCESS[route.name]]


def needs_a_session(method: str, name: str) -> bool:
    return bool(ACCESS[name][method] > EVERYONE)


@pytest.mark.parametrize("token", [None, "wrong" * 8])
def test_a_session_without_the_right_token_changes_nothing_anywhere(token: str | None, data_dir: Any) -> None:
    boss = user_make("sue", is_staff=True, is_superuser=True)
    category = Category.objects.create(name="Fruit", slug="fruit", path="Fruit")
    Item.objects.create(sku="no-such", category=category)
    client = session_client(boss, enforce_csrf_checks=True, raise_request_exception=False)
    headers = {} if token is None else {"X-CSRFToken": token}
    let_in = []
    for route in OURS:
        for method in CHANGING:
            if method in ACCESS[route.name] and needs_a_session(method, route.name):
                response = client.generic(
                    method, route.address, '{"title": "stolen"}', "application/json", headers=headers
                )
                if response.status_code != 403:
                    let_in.append(f"{method} {route.name}: {response.status_code}")
    assert let_in == []
    assert list(Item.objects.values_list("sku", "title")) == [("no-such", "")]
    assert Job.objects.count() == 0


def test_the_right_token_from_another_site_is_refused_and_from_ours_accepted() -> None:
    client = session_client(user_make("sam", is_staff=True), enforce_csrf_checks=True)
    token = (
        client.get("/admin/").cookies.get("csrftoken")
        or client.get("/admin/password_change/").cookies["csrftoken"]
    )
    call_body = json.dumps({"path": "Fruit"})

    foreign = client.post(
        "/api/v1/categories",
        call_body,
        content_type="application/json",
        headers={"X-CSRFToken": token.value, "Origin": "https://evil.example"},
    )
    assert error_of(foreign, 403)["code"] == "csrf_failed"
    assert Category.objects.count() == 0

    own = client.post(
        "/api/v1/categories",
        call_body,
        content_type="application/json",
        headers={"X-CSRFToken": token.value, "Origin": "http://testserver"},
    )
    assert own.status_code == 201


def test_a_key_needs_no_token_for_no_browser_sends_it_by_itself() -> None:
    client = key_client(user_make("sam", is_staff=True), enforce_csrf_checks=True)

    response = client.post(
        "/api/v1/categories", json.dumps({"path": "Fruit"}), content_type="application/json"
    )

    assert response.status_code == 201


# --- other people's things


def test_somebody_else_s_job_is_404_by_id_and_by_a_thousand_guesses() -> None:
    ann, ben = user_make("ann"), user_make("ben")
    job = Job.objects.create(kind="import_catalogue", created_by=ann)
    of_ann, of_ben = key_client(ann), key_client(ben)
    address = f"/api/v1/jobs/{job.pk}"

    assert of_ann.get(address).json()["id"] == str(job.pk)
    for method, suffix in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
        assert error_of(of_ben.generic(method, address + suffix), 404)["code"] == "not_found"
    found = [guess for guess in range(1000) if of_ben.get(f"/api/v1/jobs/{uuid.uuid4()}").status_code != 404]
    assert found == []
    job.refresh_from_db()
    assert (job.state, job.cancel_requested) == ("queued", False)
    assert OutboxMessage.objects.count() == 0


def test_staff_see_every_job() -> None:
    job = Job.objects.create(kind="import_catalogue", created_by=user_make("ann"))

    assert key_client(user_make("sam", is_staff=True)).get(f"/api/v1/jobs/{job.pk}").status_code == 200


# --- guessing passwords


def sign_in(client: Client, name: str, password: str, **headers: str) -> int:
    body = {"username": name, "password": password}
    return int(client.post(settings.LOGIN_URL, body, headers=headers).status_code)


def test_five_wrong_passwords_lock_the_account_whatever_address_they_claim_to_come_from() -> None:
    user_make("sam", is_staff=True)
    user_make("tom", is_staff=True)
    for attempt in range(5):
        sign_in(Client(), "sam", "wrong", **{"X-Forwarded-For": f"10.0.0.{attempt}"})

    assert sign_in(Client(), "sam", PASSWORD, **{"X-Forwarded-For": "10.9.9.9"}) == 429
    assert sign_in(Client(), "tom", PASSWORD) == 302


def test_four_wrong_passwords_do_not_lock_it() -> None:
    user_make("sam", is_staff=True)
    for _ in range(4):
        sign_in(Client(), "sam", "wrong")

    assert sign_in(Client(), "sam", PASSWORD) == 302


def test_signing_in_changes_the_session_s_key() -> None:
    user_make("sam", is_staff=True)
    client = Client()
    client.session.save()
    before = client.session.session_key
    client.cookies[settings.SESSION_COOKIE_NAME] = str(before)

    sign_in(client, "sam", PASSWORD)

    assert client.session.session_key != before


def test_a_session_ends_with_its_password_and_a_role_with_its_flag() -> None:
    sam = user_make("sam", is_staff=True)
    client = session_client(sam)
    job = Job.objects.create(kind="import_catalogue")
    address = f"/api/v1/jobs/{job.pk}"
    assert client.get(address).status_code == 200

    User.objects.filter(pk=sam.pk).update(is_staff=False)
    assert client.get(address).status_code in {401, 403}

    User.objects.filter(pk=sam.pk).update(is_staff=True)
    sam.refresh_from_db()
    sam.set_password("another horse battery")
    sam.save(update_fields=["password"])
    assert client.get(address).status_code in {401, 403}
